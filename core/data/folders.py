"""Folders as people have them: links followed, each real folder once, what systems leave behind passed over, names of splits."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

SPLIT_WORDS = {
    "train": {"train", "training", "trainset", "trainval"},
    "test": {"test", "testing", "testset"},
    "val": {"val", "valid", "validation", "valset", "minival"},
}
"""Split -> the words that a file or folder of it has in its name."""


def left_behind(name: str) -> bool:
    """Whether a file or folder is one that systems leave: hidden, `._name` of macOS, `__MACOSX` of its archives."""
    return name.startswith(".") or name == "__MACOSX"


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(path, sorted names of the files) of a folder and all below it. Links are followed, but not to a folder that holds them."""
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not left_behind(f) and not _holds(os.path.join(root, f), root))
        yield root, sorted(n for n in names if not left_behind(n))


def _holds(link: str, root: str) -> bool:
    """Whether a link leads to a folder above the one that it lies in, or to that itself."""
    if not os.path.islink(link):
        return False
    return os.path.join(os.path.realpath(root), "").startswith(os.path.join(os.path.realpath(link), ""))


def as_it_is_named(file: Path) -> Path:
    """A file whose accents may be composed otherwise on the disk than in the list that names it, as between macOS and others."""
    others = [Path(unicodedata.normalize(form, str(file))) for form in ("NFC", "NFD")]
    return next((other for other in [file, *others] if os.path.isfile(other)), file)  # `Path.is_file` fails for too long a name


def split_of(name: str) -> str | None:
    """`train`, `test` or `val`, as the words of a file's or folder's name say; None if they say nothing, or several things."""
    words = set(re.findall("[a-z]+", name.lower()))
    splits = [split for split, known in SPLIT_WORDS.items() if words & known]
    return splits[0] if len(splits) == 1 else None
