"""Every image is read, hashed and decoded before anything is trained on it; damage becomes one line with file and line.

What was found sound is remembered under `home()/data/checked`, with each file's size and times, so that a second load
of the same data set decodes nothing. A file whose size, mtime and ctime have not changed is taken to be unchanged.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import ExifTags, Image

from paraphrase.core.cores import cores
from paraphrase.core.data.records import FORMATS, WHOLE_IMAGE, Record, to_rgb
from paraphrase.core.files import read_text
from paraphrase.core.home import home
from paraphrase.core.terminal.progress import counted

MIN_SIDE = 4
"""Images and boxes with fewer pixels on a side show nothing."""
SLACK_PIXELS = 2.0
"""A box may stick out of its image by this much on each side (rounding), or ..."""
SLACK_SHARE = 0.1
"""... with this share of its area (careless annotation). It is then clipped; beyond that it is damage."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations of an image that is stored on its side."""


@dataclass(frozen=True)
class Checked:
    """A sound image file."""

    width: int
    """Pixels, of the upright image."""
    height: int
    """Pixels, of the upright image."""
    sha256: str
    """Hex, of the file's bytes."""
    orientation: int
    """EXIF: 1: stored upright; 2 to 4: mirrored or upside down; 5 to 8: on its side."""

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height in pixels, as it is stored."""
        return (self.height, self.width) if self.orientation in SIDEWAYS else (self.width, self.height)


def check_images(paths: Iterable[Path]) -> dict[Path, Checked | str]:
    """Read, hash and fully decode each file once, several at a time.

    Returns:
        For each path what was found, or what is wrong with it (without the path).
    """
    unique = list(dict.fromkeys(paths))
    if not unique:
        return {}
    memory = _memory_file(unique)
    remembered = _recall(memory)
    results: dict[Path, Checked | str] = {}
    signatures = {path: _signature(path) for path in unique}
    for path in unique:
        entry = remembered.get(str(path))
        if entry and entry[:3] == signatures[path]:
            results[path] = Checked(*entry[3:])
    unknown = [path for path in unique if path not in results]
    if unknown:
        workers = min(16, cores())
        # PIL warns of odd metadata; filters are global to the process, so they are set before the threads start
        with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
            warnings.simplefilter("ignore")
            found = counted(pool.map(check_image, unknown), "checking images", len(unknown), "images")
            results.update(zip(unknown, found, strict=True))
        _remember(memory, remembered, signatures, results)
    return {path: results[path] for path in unique}


def check_image(path: Path) -> Checked | str:
    """What one file holds, or what is wrong with it."""
    try:
        if not path.is_file():
            return "there is no such file" if not path.exists() else "is not a file"
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if not content:
        return "the file is empty"
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            if min(width, height) < MIN_SIDE:
                return f"the image has {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed"
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation in SIDEWAYS:
                width, height = height, width
            image.load()
            to_rgb(image)
    except Image.DecompressionBombError:
        return f"is a decompression bomb: its header declares more than {Image.MAX_IMAGE_PIXELS} pixels"
    except Image.UnidentifiedImageError:
        return f"is not an image in a known format ({', '.join(FORMATS)})"
    except Exception as error:  # damaged files raise nearly anything: OSError, SyntaxError, struct.error, zlib.error
        return f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"
    return Checked(width, height, hashlib.sha256(content).hexdigest(), orientation if orientation in range(2, 9) else 1)


def check_record(record: Record, image: Checked | str) -> Record | str:
    """The record with its box clipped to the image, or one line that says where it is damaged."""
    if isinstance(image, str):
        where = f"{record.origin}: " if record.origin and record.origin != str(record.image) else ""
        return f"{where}{record.image}: {image}"
    where = f"{record.origin}: " if record.origin != str(record.image) else ""
    upright, annotated = (image.width, image.height), record.box != WHOLE_IMAGE or any(v for _, _, v in record.landmarks.values())
    if record.size is not None and record.size not in (upright, image.stored):
        said, is_ = (" x ".join(f"{side:g}" for side in size) for size in (record.size, image.stored))
        return f"{where}{record.image}: has {is_} pixels, its annotation says {said}; one of them was resized or turned"
    turned = image.orientation != 1
    if turned and annotated:
        # a stated size tells which view was annotated, if the image is on its side and not a square
        if record.size is None or upright == image.stored:
            doubt = "is turned by its EXIF orientation, and what is annotated may be of either view"
            return f"{where}{record.image}: {doubt}; store it upright, for example by `mogrify -auto-orient`"
        turned = record.size == upright
    width, height = upright if turned else image.stored
    box = fit_box(record.box, width, height)
    if isinstance(box, str):
        return f"{record.box_origin or record.origin}: {box}"
    for name, (x, y, visible) in record.landmarks.items():
        if visible and not (math.isfinite(x) and math.isfinite(y)):
            return f"{record.origin}: landmark {name!r} is visible, but its position is {x}, {y}"
    return replace(record, box=box, turned=turned)


def fit_box(box: tuple[float, float, float, float], width: int, height: int) -> tuple[float, float, float, float] | str:
    """The box (x, y, w, h) clipped to an image of width x height, or what is wrong with it.

    Clipped is what sticks out by no more than SLACK_PIXELS on every side, or with no more than SLACK_SHARE of the area.
    """
    if box == WHOLE_IMAGE:
        return 0.0, 0.0, float(width), float(height)
    x, y, w, h = box
    shown = " ".join(f"{v:g}" for v in box)
    if not all(map(math.isfinite, box)):
        return f"the bounding box {shown} has a coordinate that is not a finite number"
    if w <= 0 or h <= 0:
        return f"the bounding box {shown} is empty; width and height must be above 0"
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    inside = max(right - left, 0.0) * max(bottom - top, 0.0) / (w * h)
    sticks_out = max(-x, -y, x + w - width, y + h - height)
    if inside == 0 or (sticks_out > SLACK_PIXELS and inside < 1 - SLACK_SHARE):
        return f"the bounding box {shown} lies outside the image of {width} x {height} pixels ({inside:.0%} is inside)"
    if min(right - left, bottom - top) < MIN_SIDE:
        return f"the bounding box {shown} is too small; at least {MIN_SIDE} x {MIN_SIDE} pixels are needed"
    return left, top, right - left, bottom - top


def _signature(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _memory_file(paths: list[Path]) -> Path:
    folder = os.path.commonpath([p.absolute().parent for p in paths])
    return home() / "data" / "checked" / f"{hashlib.sha256(folder.encode()).hexdigest()[:16]}.json"


def _recall(memory: Path) -> dict[str, list]:
    try:
        content = json.loads(read_text(memory))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or content.get("rules") != _rules():
        return {}
    return {path: entry for path, entry in content.get("images", {}).items() if len(entry) == 7}


def _rules() -> list:
    """What a remembered result depends on besides the file."""
    return [3, MIN_SIDE, Image.MAX_IMAGE_PIXELS, list(FORMATS)]


def _remember(
    memory: Path,
    remembered: dict[str, list],
    signatures: dict[Path, list[int] | None],
    results: dict[Path, Checked | str],
) -> None:
    """Write atomically; a home that cannot be written to only means that the next load checks again."""
    images = {
        str(path): [*(signatures[path] or []), found.width, found.height, found.sha256, found.orientation]
        for path, found in results.items()
        if isinstance(found, Checked)
    }
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump({"rules": _rules(), "images": remembered | images}, file)
        os.replace(file.name, memory)
    except OSError:
        pass
