"""COCO keypoint files, as most landmark data come: `annotations/*.json` with the images in `images/`.

    annotations/*train*.json, *val*.json or *test*.json   the splits; a single file is split at random
    images/...                                            `file_name` of each image, or in images/<name of the split>/

One record an annotation. A keypoint counts as visible where its flag is 2 (labelled and seen).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.config import DataConfig
from core.data.protocol import climbs_out, draw_test
from core.data.records import Landmark, Record, Source
from core.errors import InputError

WHERE = "expected a folder with annotations/*.json (COCO keypoints) and images/"


def load_coco_keypoints(config: DataConfig) -> Source:
    """All annotated objects with a box that is large enough; crowds are left out.

    Raises:
        InputError: if the folder or a file is unusable. What is wrong with single annotations is in `problems`.
    """
    if not config.path:
        raise InputError(f"data.path: missing; {WHERE}")
    folder = Path(config.path).expanduser()
    files = sorted((folder / "annotations").glob("*.json"))
    if not files or not (folder / "images").is_dir():
        raise InputError(f"data.path: {folder} is not such a folder; {WHERE}")
    contents = {file: content for file in files if (content := _read(file)) is not None}
    if not contents:
        raise InputError(f"{files[0]}: no category has `keypoints`, nor in another file beside it; {WHERE}")
    every = [category for content in contents.values() for category in content["categories"]]
    categories = list(dict.fromkeys(str(category["name"]) for category in every))
    parts = list(dict.fromkeys(str(k) for category in every for k in category.get("keypoints") or []))
    splits: tuple[list[Record], list[Record]] = [], []
    problems: list[str] = []
    for file, content in contents.items():
        reader = _Reader(file, folder / "images", content, categories, parts, config.min_object)
        records = reader.records(problems)
        if len(contents) == 1:
            images = sorted({r.image for r in records})
            test = {images[i] for i in draw_test(len(images), config.test_share, config.seed, "coco_keypoints")}
            for record in records:
                splits[record.image in test].append(record)
        else:
            splits["train" not in file.stem].extend(records)
    return Source(folder.resolve().name, categories, parts, splits[0], splits[1], problems)


def _read(file: Path) -> dict[str, Any] | None:
    """A file's content; None for the captions and instances that COCO has beside its keypoints.

    Raises:
        InputError: names the file and what is wrong with it as a whole.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from None
    if isinstance(content, dict) and "images" in content and "annotations" in content and not _has_keypoints(content):
        return None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{file}: has no list `{key}`; expected a COCO keypoint file")
    try:
        {c["id"]: (c["name"], list(c.get("keypoints") or [])) for c in content["categories"]}
        {i["id"]: i["file_name"] for i in content["images"]}
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{file}: every category needs `id` and `name`, every image `id` and `file_name`") from None
    return content


def _has_keypoints(content: dict[str, Any]) -> bool:
    categories = content.get("categories", [])
    return not isinstance(categories, list) or any(not isinstance(c, dict) or c.get("keypoints") for c in categories)


class _Reader:
    """Turns the annotations of one file into records."""

    def __init__(
        self, file: Path, root: Path, content: dict[str, Any], categories: list[str], parts: list[str], smallest: float
    ) -> None:
        self.file, self.root, self.parts, self.smallest = file, root, parts, smallest
        self.annotations = content["annotations"]
        self.images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        self.labels = {c["id"]: categories.index(str(c["name"])) for c in content["categories"]}
        self.keypoints = {c["id"]: [str(k) for k in c.get("keypoints") or []] for c in content["categories"]}
        nested = root / next((name for name in ("train", "val", "test") if name in file.stem), "")
        self.folders = [root, nested, root / file.stem.removeprefix("person_keypoints_")]
        self.inside = f"{root.resolve()}/"

    def records(self, problems: list[str]) -> list[Record]:
        """The usable records, in the file's order; a line for each damaged annotation goes into `problems`."""
        found = []
        for i, annotation in enumerate(self.annotations):
            origin = f"{self.file}: annotations[{i}]"
            try:
                record = self._record(annotation, origin)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                problems.append(f"{origin}: {error.args[0] if isinstance(error, ValueError) else f'bad or missing {error}'}")
                continue
            if record is not None:
                found.append(record)
        return found

    def _record(self, annotation: dict[str, Any], origin: str) -> Record | None:
        """One record; None for a crowd or a small object.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: if a field is missing or impossible.
        """
        if annotation.get("iscrowd"):
            return None
        x, y, w, h = (float(v) for v in annotation["bbox"])
        if min(w, h) < self.smallest:
            return None
        if annotation["image_id"] not in self.images:
            raise ValueError(f"there is no image of id {annotation['image_id']}")
        if annotation["category_id"] not in self.labels:
            raise ValueError(f"there is no category of id {annotation['category_id']}")
        name = self.images[annotation["image_id"]]
        if problem := climbs_out(name, self.root, self.inside):
            raise ValueError(problem)
        names, flat = self.keypoints[annotation["category_id"]], annotation.get("keypoints") or []
        if len(flat) != 3 * len(names):
            raise ValueError(f"keypoints has {len(flat)} numbers, its category's {len(names)} keypoints need {3 * len(names)}")
        points: dict[str, Landmark] = dict.fromkeys(self.parts, (0.0, 0.0, False))
        for k, part in enumerate(names):
            px, py, flag = flat[3 * k : 3 * k + 3]
            points[part] = (float(px), float(py), flag == 2)
        image = next((f / name for f in self.folders if (f / name).is_file()), self.root / name)
        return Record(image, (x, y, w, h), self.labels[annotation["category_id"]], points, origin)
