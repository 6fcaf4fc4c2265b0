"""Figures as data URIs that together keep within a number of bytes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from paraphrase.core.files import regular

LEVELS = ((1600, 80), (1000, 65), (600, 40))
"""What a figure is reduced to, best first: most pixels across, quality of photographs."""

FEW_COLOURS = 16_384
"""A figure with no more colours than this is a drawing and is kept without loss at the first level."""

TALLEST = 12_000
"""Most pixels from top to bottom; WebP has no more than 16383."""

TOO_MUCH = "left out, to keep the page small"


class Picture(NamedTuple):
    """A figure as it stands in a page."""

    uri: str
    """data:image/...;base64,..."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


def embed(paths: Sequence[Path], room: int) -> list[Picture | str]:
    """The figures as data URIs of together at most `room` bytes; in place of one that is not there, why not.

    Where they are too large, the last ones are reduced first, and only then left out, again from the end: a page has
    what matters most at its top.
    """
    shown: list[Picture | str] = [_encoded(path, 0) for path in paths]
    for level in range(1, len(LEVELS)):
        for i in reversed(range(len(paths))):
            if _size(shown) <= room:
                return shown
            if isinstance(shown[i], Picture):
                shown[i] = min(shown[i], _encoded(paths[i], level), key=_length)
    for i in reversed(range(len(paths))):
        if _size(shown) <= room:
            break
        if isinstance(shown[i], Picture):
            shown[i] = TOO_MUCH
    return shown


def _length(picture: Picture | str) -> int:
    return len(picture.uri) if isinstance(picture, Picture) else 0


def _size(pictures: Sequence[Picture | str]) -> int:
    return sum(map(_length, pictures))


def _encoded(path: Path, level: int) -> Picture | str:
    """A figure on white, reduced to a level."""
    across, quality = LEVELS[level]
    try:
        with Image.open(path) as file:
            whole, kind = file.convert("RGBA"), file.format
    except (OSError, Image.DecompressionBombError):
        return "cannot be read" if path.exists() else "is not there"
    image = Image.new("RGB", whole.size, "white")
    image.paste(whole, mask=whole.getchannel("A"))
    drawing = image.getcolors(FEW_COLOURS) is not None
    size = image.size
    image.thumbnail((across, TALLEST), Image.Resampling.LANCZOS)
    out = BytesIO()
    if drawing and level == 0:
        image.save(out, "WEBP", lossless=True)
    else:
        image.save(out, "WEBP", quality=quality, method=2)
    data, mime = out.getvalue(), "webp"
    if kind == "PNG" and image.size == size and path.stat().st_size <= len(data):
        data, mime = regular(path).read_bytes(), "png"
    return Picture(f"data:image/{mime};base64,{b64encode(data).decode()}", *image.size)
