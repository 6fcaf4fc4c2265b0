"""Pascal-Part: the six animals of VOC 2010 with the masks of their parts (Chen et al., CVPR 2014).

    Annotations_Part/2008_003228.mat    or all .mat files in the folder itself
    JPEGImages/2008_003228.jpg          or beside the .mat files
    ImageSets/Main/train.txt, val.txt   optional: the splits; else images are drawn at random

One record an object. Sub-parts are merged into their part's mask first, and the landmark is the mean of its pixels
[algorithm.md, 1]. What was read is kept, so that a file is parsed once and again only when it changes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from paraphrase.core.config import DataConfig
from paraphrase.core.data.folders import left_behind
from paraphrase.core.data.protocol import draw_test
from paraphrase.core.data.records import Landmark, Record, Source
from paraphrase.core.errors import InputError
from paraphrase.core.files import read_text, write_atomically
from paraphrase.core.home import home

ANIMALS = ("bird", "cat", "cow", "dog", "horse", "sheep")
PARTS = {
    "head": {"head", "lear", "rear", "leye", "reye", "muzzle", "nose", "beak", "lhorn", "rhorn"},
    "neck": {"neck"},
    "torso": {"torso", "lwing", "rwing"},
}
"""Landmark -> the part names whose masks are merged."""

VERSION = 1
"""Of what is kept of a file."""
WHERE = "get VOC 2010's images and Pascal-Part's annotations, and name the folder that holds JPEGImages/ and Annotations_Part/"

Found = dict[str, Any]
"""One object: `category`, `box` (x, y, w, h), `truncated`, `landmarks` (name -> [x, y] or null)."""


def load(config: DataConfig) -> Source:
    """All animals of a folder of Pascal-Part annotations that are large enough.

    Raises:
        InputError: if there is no such folder, or no annotation in it. Damaged files are in the source's `problems`.
    """
    if not config.path:
        raise InputError(f"data.path: missing; {WHERE}")
    folder = Path(config.path)
    annotations = folder / "Annotations_Part" if (folder / "Annotations_Part").is_dir() else folder
    images = folder / "JPEGImages" if (folder / "JPEGImages").is_dir() else annotations
    files = sorted(f for f in annotations.glob("*.mat") if not left_behind(f.name))
    if not files:
        raise InputError(f"data.path: there is no .mat file in {annotations}; {WHERE}")
    testing = _test_names(folder, [f.stem for f in files], config)
    splits: tuple[list[Record], list[Record]] = [], []
    problems: list[str] = []
    small = 0
    for file, objects in _read_all(folder, files):
        if isinstance(objects, str):
            problems.append(f"{file}: {objects}")
        elif file.stem in testing:
            for k, found in enumerate(objects):
                if min(found["box"][2:]) < config.min_object:
                    small += 1
                elif config.truncated or not found["truncated"]:
                    splits[testing[file.stem]].append(_record(images / f"{file.stem}.jpg", f"{file}: object {k + 1}", found))
    said = f"{annotations}: {small} objects are smaller than data.min_object ({config.min_object:g} pixels); left out"
    return Source(
        folder.resolve().name, list(ANIMALS), list(PARTS), splits[0], splits[1], problems, notes=[said] if small else []
    )


def _test_names(folder: Path, names: list[str], config: DataConfig) -> dict[str, bool]:
    """Image -> whether it is of the test split; images that VOC's lists do not name are not there."""
    lists = [folder / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val")]
    if all(file.is_file() for file in lists):
        known = set(names)
        return {n: bool(i) for i, file in enumerate(lists) for n in file.read_text(encoding="utf-8").split() if n in known}
    chosen = draw_test(len(names), config.test_share, config.seed, "pascal_part")
    return {name: i in chosen for i, name in enumerate(names)}


def _record(image: Path, origin: str, found: Found) -> Record:
    landmarks: dict[str, Landmark] = {
        name: (0.0, 0.0, False) if place is None else (place[0], place[1], True) for name, place in found["landmarks"].items()
    }
    return Record(image, tuple(found["box"]), ANIMALS.index(found["category"]), landmarks, origin)


def _read_all(folder: Path, files: list[Path]) -> list[tuple[Path, list[Found] | str]]:
    """The animals of each file, or what is wrong with it; from what was kept where the file has not changed since."""
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    kept_file = home() / "data" / "pascal_part" / f"{key}.json"
    kept = _kept(kept_file)
    current: dict[str, Any] = {}
    for file in files:
        status = file.stat()
        stamp = [VERSION, status.st_size, status.st_mtime_ns]
        entry = kept.get(file.name)
        current[file.name] = entry if entry and entry["stamp"] == stamp else {"stamp": stamp, "objects": read_objects(file)}
    if current != kept:
        write_atomically(kept_file, json.dumps(current))
    return [(file, current[file.name]["objects"]) for file in files]


def _kept(file: Path) -> dict[str, Any]:
    """What was kept; nothing if that is not there or damaged."""
    try:
        kept = json.loads(read_text(file))
    except (OSError, ValueError):
        return {}
    sound = isinstance(kept, dict) and all(isinstance(e, dict) and {"stamp", "objects"} <= e.keys() for e in kept.values())
    return kept if sound else {}


def read_objects(file: Path) -> list[Found] | str:
    """The animals of one annotation file, or in words what is wrong with it."""
    from scipy.io import loadmat

    try:
        annotation = loadmat(file, squeeze_me=True, struct_as_record=False, variable_names=["anno"])["anno"]
        objects = [o for o in np.atleast_1d(annotation.objects) if getattr(o, "class") in ANIMALS]
        return [found for o in objects if (found := _object(o)) is not None]
    except KeyError:
        return "has no `anno`; expected a Pascal-Part annotation"
    except AttributeError as error:
        return f"is no Pascal-Part annotation ({error})"
    except Exception as error:  # SciPy's reader raises whatever the damage leads to
        return f"cannot be read as a MATLAB file ({str(error).splitlines()[0] if str(error) else type(error).__name__})"


def _object(annotated: Any) -> Found | None:
    """One object; None for an empty mask."""
    mask = np.atleast_2d(annotated.mask) > 0
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    parts = [p for p in np.atleast_1d(annotated.parts) if hasattr(p, "part_name")]
    return {
        "category": getattr(annotated, "class"),
        "box": [left, top, right - left, bottom - top],
        "truncated": top == 0 or left == 0 or bottom == mask.shape[0] or right == mask.shape[1],
        "landmarks": {
            name: _mean(mask.shape, [p.mask for p in parts if p.part_name in merged]) for name, merged in PARTS.items()
        },
    }


def _mean(shape: tuple[int, ...], masks: list[np.ndarray]) -> list[float] | None:
    """x, y of the mean pixel of the masks' union, in continuous pixels; None if it is empty."""
    union = np.zeros(shape, bool)
    for mask in masks:
        union |= np.atleast_2d(mask) > 0
    rows, columns = np.nonzero(union)
    return [float(columns.mean()) + 0.5, float(rows.mean()) + 0.5] if len(rows) else None
