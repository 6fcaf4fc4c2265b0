"""A small data set in the layout of CUB-200-2011, to be damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TABLES = (
    "images.txt",
    "classes.txt",
    "image_class_labels.txt",
    "bounding_boxes.txt",
    "train_test_split.txt",
    "parts/parts.txt",
    "parts/part_locs.txt",
)


class CubTree:
    """A small data set in the layout of CUB-200-2011: images of 60 x 40, ids from 1, three categories in turn.

    Image 1 to 4 of each category are training images; every box is 10 5 40 30; `left ear` is at (20 + id, 10),
    `right ear` at (30 + id, 20), `tail` is not visible.
    """

    def __init__(self, folder: Path, per_category: int = 6) -> None:
        self.folder = folder
        self.categories = ["001.Cat", "002.Dog", "003.Black_Cow"]
        (folder / "parts").mkdir(parents=True)
        rng = np.random.default_rng(0)
        rows: dict[str, list[str]] = {name: [] for name in TABLES}
        for i in range(1, 3 * per_category + 1):
            category = (i - 1) % 3
            path = f"{self.categories[category]}/picture {i}.png"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "images" / path)
            rows["images.txt"].append(f"{i} {path}")
            rows["image_class_labels.txt"].append(f"{i} {category + 1}")
            rows["bounding_boxes.txt"].append(f"{i} 10.0 5.0 40.0 30.0")
            rows["train_test_split.txt"].append(f"{i} {int((i - 1) // 3 < per_category - 2)}")
            rows["parts/part_locs.txt"] += [f"{i} 1 {20 + i}.0 10.0 1", f"{i} 2 {30 + i}.0 20.0 1", f"{i} 3 0.0 0.0 0"]
        rows["classes.txt"] = [f"{c + 1} {name}" for c, name in enumerate(self.categories)]
        rows["parts/parts.txt"] = ["1 left ear", "2 right ear", "3 tail"]
        for name, lines in rows.items():
            (folder / name).write_text("\n".join(lines) + "\n")

    def lines(self, table: str) -> list[str]:
        return (self.folder / table).read_text().splitlines()

    def set_line(self, table: str, number: int, text: str | None) -> None:
        """Replace a line (1 is the first), take it away (None), or append (one past the last)."""
        lines = self.lines(table)
        lines[number - 1 : number] = [] if text is None else [text]
        (self.folder / table).write_text("\n".join(lines) + "\n")

    def image(self, image_id: int) -> Path:
        return self.folder / "images" / self.lines("images.txt")[image_id - 1].split(None, 1)[1]
