"""One record type for all sources, the data set made of them, and the crop of one object."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Landmark = tuple[float, float, bool]
"""x, y in continuous pixels of the file (the pixel at index k covers [k, k + 1)), visible."""

WHOLE_IMAGE = (0.0, 0.0, math.inf, math.inf)
"""The box of a source that has none: `load_dataset` puts the image's size in its place."""

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF", "WEBP")
"""The only decoders that are ever tried: PIL has others that start programs."""


@dataclass(frozen=True)
class Record:
    """One object in one image."""

    image: Path
    """The image file."""
    box: tuple[float, float, float, float]
    """x, y, w, h in pixels of the file, as it is stored, or upright if it is `turned`."""
    label: int
    """Index into the data set's categories."""
    landmarks: dict[str, Landmark] = field(default_factory=dict)
    """Name -> x, y in pixels of the file, visible; in the order of the data set's landmarks."""
    origin: str = ""
    """Where it was read, for messages: `birds/images.txt:12`."""
    box_origin: str = ""
    """Where its box was read; empty: `origin`."""
    size: tuple[float, float] | None = None
    """Width and height that the annotation gives for the image; None: it gives none."""
    turned: bool = False
    """Whether the file's EXIF orientation is applied first. `load_dataset` sets it where what is annotated allows it."""


@dataclass
class Source:
    """What a source's loader returns: all it has, unfiltered; `load_dataset` checks it and applies the protocol."""

    name: str
    """Of the data set, for people."""
    categories: list[str]
    """Names of all categories; a record's label is an index into them."""
    parts: list[str]
    """Names of all annotated parts; every record's `landmarks` has each of them, in this order. Empty: no landmarks."""
    train: list[Record]
    """Training split, in an order that does not change from call to call."""
    test: list[Record]
    """Test split, likewise."""
    problems: list[str] = field(default_factory=list)
    """One line for each image that the loader had to leave out; without `skip_bad` they become the error."""
    category_origins: list[str] = field(default_factory=list)
    """Where each category was read (`birds/classes.txt:3`), for messages; may be empty."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user about what the loader passed over or took in one of two ways."""


@dataclass
class Dataset:
    """What `load_dataset` returns: checked records of two splits."""

    name: str
    """Of the data set, for people: the source's own or the folder's name."""
    categories: list[str]
    """Names; a record's label is an index into them. ["other", X] in the single-category protocol."""
    landmarks: list[str]
    """Names, in the order of `crop`'s rows; may be empty."""
    train: list[Record]
    """Training split."""
    test: list[Record]
    """Test split."""
    single_category: str | None = None
    """The positive category X of the single-category protocol: its label is 1, that of the others 0."""
    skipped: list[str] = field(default_factory=list)
    """What `skip_bad` left out, one line each."""
    fingerprint: str = ""
    """Hex SHA-256 of everything that determines the data."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB: transparency lies on white, 16-bit grey keeps its upper byte, CMYK is converted."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return image.convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
"""How PIL resizes, by name."""


def crop(record: Record, size: int, interpolation: str = "bilinear") -> tuple[Image.Image, np.ndarray]:
    """The object's crop by its box, resized to a square; the aspect ratio is not kept.

    The box must lie inside the image, as it does in every record of `load_dataset`.

    Args:
        record: whose image is read.
        size: side of the crop in pixels.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        The RGB image, size x size, and the landmarks (parts, 3) float32 in the record's order: x, y in continuous
        pixels of the crop, `x' = (x - box_x) / box_w * size` [algorithm.md, 1], and 1 if visible, else 0. A landmark
        outside the box is not visible; one that is not visible has x = y = 0.
    """
    part, box = _boxed(record)
    picture = part.resize((size, size), Image.Resampling[interpolation.upper()], box=box)
    x, y, w, h = record.box
    landmarks = np.zeros((len(record.landmarks), 3), np.float32)
    for row, (lx, ly, visible) in zip(landmarks, record.landmarks.values(), strict=True):
        u, v = (lx - x) / w, (ly - y) / h
        if visible and 0 <= u <= 1 and 0 <= v <= 1:
            row[:] = u * size, v * size, 1
    return picture, landmarks


def cut(record: Record, longest: int) -> Image.Image:
    """The object as it is in the picture: its box with its own aspect ratio, RGB, the longer side `longest` pixels.

    The same part of the picture as `crop`, so a place in one is the same share of either side in the other.
    """
    part, box = _boxed(record)
    w, h = box[2] - box[0], box[3] - box[1]
    scale = longest / max(w, h)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    return part.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC, box=box)


@contextmanager
def opened(record: Record) -> Iterator[Image.Image]:
    """A record's image, not decoded yet, and upright if it is `turned`."""
    with Image.open(record.image, formats=FORMATS) as file:
        yield ImageOps.exif_transpose(file) if record.turned else file


def _boxed(record: Record) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """The pixels around the record's box as RGB, and the box in them: left, top, right, bottom."""
    x, y, w, h = record.box
    with opened(record) as file:
        # whole pixels first, so that only those that the crop needs are converted
        left, top = int(x), int(y)
        right, bottom = min(file.width, int(np.ceil(x + w))), min(file.height, int(np.ceil(y + h)))
        part = to_rgb(file.crop((left, top, right, bottom)))
    return part, (x - left, y - top, min(x + w, right) - left, min(y + h, bottom) - top)
