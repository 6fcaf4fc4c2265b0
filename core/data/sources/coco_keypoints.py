"""COCO keypoint files, as most landmark data come: `annotations/*.json` with the images in `images/`.

    annotations/*train*.json, *test*.json or *val*.json   the splits; test goes before val; a single file is split at random
    images/...                                            `file_name` of each image, or in images/<name of the split>/

One record an annotation. A keypoint counts as visible where its flag is 2 (labelled and seen); where no flag of a data set is 2,
as in exports that know 0 and 1 only, where it is 1. Files without keypoints, which COCO has in the same folder (captions,
instances, image_info), are passed over, and categories that nothing is annotated of.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from pathlib import Path
from typing import Any

from paraphrase.core.config import DataConfig
from paraphrase.core.data.folders import as_it_is_named, left_behind, split_of
from paraphrase.core.data.protocol import climbs_out, draw_test
from paraphrase.core.data.records import Landmark, Record, Source
from paraphrase.core.errors import InputError
from paraphrase.core.files import read_text

WHERE = "expected a folder with annotations/*.json (COCO keypoints) and images/"
Id = int | float | str
"""What an id may be: it must be hashable. Tables that were exported from data frames have 1.0 for 1."""


def load(config: DataConfig) -> Source:
    """All annotated objects with a box that is large enough; crowds are left out.

    Raises:
        InputError: if the folder or a file is unusable. What is wrong with single annotations is in `problems`.
    """
    if not config.path:
        raise InputError(f"data.path: missing; {WHERE}")
    folder = Path(config.path)
    files = sorted(f for f in (folder / "annotations").glob("*.json") if not left_behind(f.name))
    if not files or not (folder / "images").is_dir():
        raise InputError(f"data.path: {folder} is not such a folder; {WHERE}")
    contents = {file: content for file in files if (content := _read(file)) is not None}
    if not contents:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{folder / 'annotations'}: no file has keypoints in its categories and annotations ({names}); {WHERE}")
    notes: list[str] = []
    testing = _splits(contents, notes)
    every = [category for content in contents.values() for category in _used(content)]
    categories = list(dict.fromkeys(str(category["name"]) for category in every))
    parts = list(dict.fromkeys(k for category in every for k in category["keypoints"]))
    unused = {str(c["name"]) for content in contents.values() for c in content["categories"]} - set(categories)
    if unused:
        notes.append(f"{folder / 'annotations'}: nothing is annotated of {', '.join(sorted(unused))}; left out")
    visible = _visible_flag(contents, notes)
    splits: tuple[list[Record], list[Record]] = [], []
    problems: list[str] = []
    small = 0
    for file, content in contents.items():
        reader = _Reader(file, folder / "images", content, categories, parts, config, visible)
        records = reader.records(problems)
        small += reader.small
        if file not in testing:
            images = sorted({r.image for r in records})
            test = {images[i] for i in draw_test(len(images), config.test_share, config.seed, "coco_keypoints")}
            for record in records:
                splits[record.image in test].append(record)
        elif testing[file] is not None:
            splits[bool(testing[file])].extend(records)
    if small:
        notes.append(
            f"{folder / 'annotations'}: {small} objects are smaller than data.min_object ({config.min_object:g} pixels); left out"
        )
    return Source(folder.resolve().name, categories, parts, splits[0], splits[1], problems, notes=notes)


def _splits(contents: dict[Path, dict[str, Any]], notes: list[str]) -> dict[Path, bool | None]:
    """File -> whether it is of the test split; None: of a validation split beside a test split. Empty for a single file.

    Raises:
        InputError: if one of several files does not say whether it is train, test or val, or there is only one split.
    """
    if len(contents) == 1:
        return {}
    splits = {file: split_of(file.stem) for file in contents}
    for file, split in splits.items():
        if split is None:
            raise InputError(
                f"{file}: is one of {len(contents)} files of keypoints; its name must say whether it is train, test or val"
            )
    if len({split == "train" for split in splits.values()}) == 1:
        names = ", ".join(file.name for file in contents)
        raise InputError(
            f"{next(iter(contents)).parent}: {names} are all of one split; a train and a test or val file are needed"
        )
    tested = "test" if "test" in splits.values() else "val"
    for file, split in splits.items():
        if split not in ("train", tested):
            notes.append(f"{file}: is passed over, since there is a test split")
    return {file: None if split not in ("train", tested) else split == tested for file, split in splits.items()}


def _used(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The categories that annotations name; all of them if none is, so that what is wrong is found with the annotations."""
    named = [a["category_id"] for a in content["annotations"] if isinstance(a, dict) and isinstance(a.get("category_id"), Id)]
    return [c for c in content["categories"] if c["id"] in set(named)] or content["categories"]


def _visible_flag(contents: dict[Path, dict[str, Any]], notes: list[str]) -> int:
    """The flag of a keypoint that is seen: 2, or 1 where there is no 2 at all."""
    flags: set[Any] = set()
    for content in contents.values():
        for annotation in content["annotations"]:
            given = annotation.get("keypoints") if isinstance(annotation, dict) else None
            flags.update(flag for flag in given[2::3] if isinstance(flag, int | float)) if isinstance(given, list) else None
    if 2 in flags or 1 not in flags:
        return 2
    notes.append(f"{next(iter(contents)).parent}: no keypoint has the flag 2 (labelled and seen), so 1 is taken for seen")
    return 1


def _read(file: Path) -> dict[str, Any] | None:
    """A file's content; None if it is sound, but not about keypoints.

    Raises:
        InputError: names the file, and the category or image if one of them is damaged.
    """
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(f"{file}: has no list `images`; expected a COCO keypoint file")
    if not _has_keypoints(content):
        return None
    for key in ("annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{file}: has no list `{key}`; expected a COCO keypoint file")
    for key, field, kind in (("categories", "name", (str, int)), ("images", "file_name", (str,))):
        seen: dict[Id, tuple[int, Any]] = {}
        for i, entry in enumerate(content[key]):
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), Id) or not isinstance(entry.get(field), kind):
                raise InputError(f"{file}: {key}[{i}]: is {_short(entry)}; expected an object with `id` and `{field}`")
            first, value = seen.setdefault(entry["id"], (i, entry[field]))
            if value != entry[field]:  # what was merged without new ids: nobody knows whose the annotations are
                raise InputError(
                    f"{file}: {key}[{i}]: its id {_short(entry['id'])} is that of {key}[{first}] already, {_short(value)}"
                )
    for i, category in enumerate(content["categories"]):
        names = category["keypoints"] = category.get("keypoints") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{file}: categories[{i}]: keypoints is {_short(names)}; expected a list of names")
    return content


def _has_keypoints(content: dict[str, Any]) -> bool:
    """Whether any category and any annotation has keypoints; damage counts as having them, so that it is looked at."""
    categories, annotations = content.get("categories", []), content.get("annotations", [])
    return _any_with_keypoints(categories) and (not annotations or _any_with_keypoints(annotations))


def _any_with_keypoints(entries: Any) -> bool:
    return not isinstance(entries, list) or any(not isinstance(e, dict) or e.get("keypoints") for e in entries)


def _short(value: Any) -> str:
    """The value as one line of a message."""
    return reprlib.repr(value)


def _numbers(value: Any) -> list[float] | None:
    """A list of JSON numbers as floats; None if it is anything else."""
    if not isinstance(value, list) or not all(isinstance(v, int | float) for v in value):
        return None
    try:
        return [float(v) for v in value]
    except OverflowError:  # JSON's integers have no bounds
        return None


class _Reader:
    """Turns the annotations of one file into records."""

    def __init__(
        self,
        file: Path,
        root: Path,
        content: dict[str, Any],
        categories: list[str],
        parts: list[str],
        config: DataConfig,
        visible: int,
    ) -> None:
        self.file, self.root, self.parts, self.visible = file, root, parts, visible
        self.smallest, self.links = config.min_object, config.links
        self.small = 0  # objects left out since they are smaller
        self.annotations = content["annotations"]
        self.images = {image["id"]: image for image in content["images"]}
        self.labels = {c["id"]: categories.index(str(c["name"])) for c in _used(content)}
        self.keypoints = {c["id"]: c["keypoints"] for c in content["categories"]}
        self.folders = [root, root / (split_of(file.stem) or ""), root / file.stem.removeprefix("person_keypoints_")]
        self.inside = f"{root.resolve()}/"

    def records(self, problems: list[str]) -> list[Record]:
        """The usable records, in the file's order; a line for each damaged annotation goes into `problems`."""
        found = []
        for i, annotation in enumerate(self.annotations):
            origin = f"{self.file}: annotations[{i}]"
            try:
                record = self._record(annotation, origin)
            except ValueError as error:
                problems.append(f"{origin}: {error}")
                continue
            if record is not None:
                found.append(record)
        return found

    def _record(self, annotation: Any, origin: str) -> Record | None:
        """One record; None for a crowd or a small object.

        Raises:
            ValueError: if a field is missing or impossible.
        """
        if not isinstance(annotation, dict):
            raise ValueError(f"is {_short(annotation)}; expected an object with `bbox`, `image_id`, `category_id`, `keypoints`")
        if annotation.get("iscrowd"):
            return None
        box = _numbers(annotation.get("bbox"))
        if box is None or len(box) != 4 or not all(map(math.isfinite, box)):
            raise ValueError(f"bbox is {_short(annotation.get('bbox'))}; expected four finite numbers: x, y, width, height")
        x, y, w, h = box
        if min(w, h) < self.smallest:
            self.small += 1
            return None
        for field, known in (("image_id", self.images), ("category_id", self.labels)):
            if field not in annotation:
                raise ValueError(f"has no `{field}`")
            if not isinstance(annotation[field], Id) or annotation[field] not in known:
                raise ValueError(f"there is no {field.removesuffix('_id')} of id {_short(annotation[field])}")
        described = self.images[annotation["image_id"]]
        name = described["file_name"]
        if problem := climbs_out(name, self.root, self.inside, self.links):
            raise ValueError(problem)
        names, given = self.keypoints[annotation["category_id"]], annotation.get("keypoints") or []
        flat = _numbers(given)
        if flat is None:
            raise ValueError(f"keypoints is {_short(given)}; expected a list of numbers: x, y, flag for each keypoint")
        if len(flat) != 3 * len(names):
            raise ValueError(f"keypoints has {len(flat)} numbers, its category's {len(names)} keypoints need {3 * len(names)}")
        points: dict[str, Landmark] = dict.fromkeys(self.parts, (0.0, 0.0, False))
        for k, part in enumerate(names):
            points[part] = (flat[3 * k], flat[3 * k + 1], flat[3 * k + 2] == self.visible)
        image = next((f / name for f in self.folders if os.path.isfile(f / name)), self.root / name)
        size = _numbers([described.get("width"), described.get("height")])
        stated = (size[0], size[1]) if size and min(size) > 0 else None
        return Record(as_it_is_named(image), (x, y, w, h), self.labels[annotation["category_id"]], points, origin, size=stated)
