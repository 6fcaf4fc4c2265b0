"""Any folder that torchvision's ImageFolder takes: a folder for each category, with images at any depth; no landmarks.

With `train/` and `test/` (or `val/`) inside, in any spelling (`Training_set`, `seg_test`), each of them such a folder, the splits
are these; otherwise each category is split at random. Links are followed, as torchvision does: folders of links to a larger
data set are common.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from paraphrase.core.config import DataConfig
from paraphrase.core.data.folders import left_behind, split_of, walk
from paraphrase.core.data.protocol import draw_test
from paraphrase.core.data.records import WHOLE_IMAGE, Record, Source
from paraphrase.core.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision.datasets.folder.IMG_EXTENSIONS; other files are not looked at."""

UNREAD = (".heic", ".heif", ".avif", ".gif", ".jxl", ".dng", ".cr2", ".nef", ".arw")
"""Pictures that are not looked at, which is said."""

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
    train_root, test_root = _split_folders(folder)
    categories = _subfolders(train_root)
    if not categories:
        raise InputError(f"{folder}: has no folders inside; {LAYOUT}")
    unread: Counter[str] = Counter()
    train, test = [], []
    if test_root is not None:
        if extra := sorted(set(_subfolders(test_root)) - set(categories)):
            raise InputError(f"{test_root / extra[0]}: there is no folder {train_root / extra[0]} to train this category")
        train, test = (
            [r for i, c in enumerate(categories) for r in _records(root / c, i, unread)] for root in (train_root, test_root)
        )
    else:
        _refuse_splits(train_root, categories)
        for i, category in enumerate(categories):
            records = _records(train_root / category, i, unread)
            chosen = draw_test(len(records), config.test_share, config.seed, category)
            for j, record in enumerate(records):
                (test if j in chosen else train).append(record)
    origins = [str(train_root / c) for c in categories]
    notes = [
        f"{folder}: {count} {kind} files are passed over; convert them, e.g. to .jpg" for kind, count in sorted(unread.items())
    ]
    names = [os.fsencode(c).decode("utf-8", "replace") for c in categories]
    return Source(folder.resolve().name, names, [], train, test, category_origins=origins, notes=notes)


def _subfolders(folder: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(folder) if not left_behind(e.name) and e.is_dir())


def _split_folders(folder: Path) -> tuple[Path, Path | None]:
    """The folders of training and test categories; only one where the splits are to be drawn. test/ goes before val/.

    A test/ without folders, as Kaggle and ImageNet have it, says nothing of categories and is passed over.
    """
    names = _subfolders(folder)
    inside = {name: set(_subfolders(folder / name)) for name in names if split_of(name)}
    training = [name for name in inside if split_of(name) == "train" and inside[name]]
    if len(training) != 1:
        return folder, None
    (train,) = training
    others = [name for split in ("test", "val") for name in inside if split_of(name) == split and inside[name]]
    # a category may be called `train station`: of splits in other spellings the folders are the same
    plain = train == "train"
    chosen = next((n for n in others if len(inside[n] & inside[train]) > 1 or (plain and n in ("test", "val", "valid"))), None)
    if chosen is not None:
        return folder / train, folder / chosen
    return (folder / train, None) if plain and len(inside) == len(names) else (folder, None)


def _refuse_splits(folder: Path, names: list[str]) -> None:
    """Splits whose names say nothing would be taken for categories.

    Raises:
        InputError: if all folders hold the same folders, two or more.
    """
    held = [_subfolders(folder / name) for name in names]
    if len(names) > 1 and len(held[0]) > 1 and all(h == held[0] for h in held):
        same = ", ".join(held[0][:3])
        raise InputError(
            f"{folder}: {', '.join(names[:3])} hold the same folders ({same}), so they look like splits, not like categories; "
            f"name them train and test"
        )


def _records(folder: Path, label: int, unread: Counter[str]) -> list[Record]:
    """The images of one category in the order of torchvision's ImageFolder; counts the pictures that are not read."""
    if not folder.is_dir():
        return []
    names = [(root, name) for root, names in sorted(walk(folder)) for name in names]
    unread.update(kind for _, name in names if (kind := os.path.splitext(name)[1].lower()) in UNREAD)
    files = [Path(root, name) for root, name in names if name.lower().endswith(EXTENSIONS)]
    return [Record(file, WHOLE_IMAGE, label, {}, str(file)) for file in files]
