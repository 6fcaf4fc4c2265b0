"""Any folder that torchvision's ImageFolder takes: a folder for each category, with images at any depth; no landmarks.

With `train/` and `test/` (or `val/`) inside, each of them such a folder, the splits are these; otherwise each category
is split at random. Links are followed, as torchvision does: folders of links to a larger data set are common.
"""

from __future__ import annotations

import os
from pathlib import Path

from paraphrase.core.config import DataConfig
from paraphrase.core.data.protocol import draw_test
from paraphrase.core.data.records import WHOLE_IMAGE, Record, Source
from paraphrase.core.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision.datasets.folder.IMG_EXTENSIONS; other files are not looked at."""

LAYOUT = "expected a folder for each category with its images inside"


def load(config: DataConfig) -> Source:
    """All images of a folder of categories; the box of each is the whole image.

    Raises:
        InputError: if there is no such folder, or no category in it.
    """
    if not config.path:
        raise InputError(f"data.path: missing; {LAYOUT}")
    folder = Path(config.path)
    if not folder.is_dir():
        raise InputError(f"data.path: there is no folder {config.path}; {LAYOUT}")
    split = _split_folders(folder)
    if split:
        categories = _subfolders(split[0])
        if extra := sorted(set(_subfolders(split[1])) - set(categories)):
            raise InputError(f"{split[1] / extra[0]}: there is no folder {split[0] / extra[0]} to train this category")
        train, test = ([r for i, c in enumerate(categories) for r in _records(root / c, i)] for root in split)
    else:
        categories = _subfolders(folder)
        train, test = [], []
        for i, category in enumerate(categories):
            records = _records(folder / category, i)
            chosen = draw_test(len(records), config.test_share, config.seed, category)
            for j, record in enumerate(records):
                (test if j in chosen else train).append(record)
    if not categories:
        raise InputError(f"{folder}: has no folders inside; {LAYOUT}")
    origins = [str((split[0] if split else folder) / c) for c in categories]
    return Source(folder.resolve().name, categories, [], train, test, category_origins=origins)


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _split_folders(folder: Path) -> tuple[Path, Path] | None:
    """The training and the test folder, if these are what `folder` holds; test/ goes before val/."""
    names = _subfolders(folder)
    other = next((n for n in ("test", "val", "valid") if n in names), None)
    if "train" not in names or other is None or not _subfolders(folder / "train"):
        return None
    return folder / "train", folder / other


def _records(folder: Path, label: int) -> list[Record]:
    """The images of one category in the order of torchvision's ImageFolder."""
    if not folder.is_dir():
        return []
    files = [
        Path(root, name)
        for root, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(EXTENSIONS)
    ]
    return [Record(file, WHOLE_IMAGE, label, {}, str(file)) for file in files]
