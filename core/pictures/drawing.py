"""What all figures share: matplotlib without a screen, and their files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)
"""Fonts for what DejaVu Sans lacks."""


COMPRESSION = 4
"""Of PNG files: in half the time of matplotlib's own, they are a hundredth larger."""


def pyplot() -> Any:
    """matplotlib's pyplot, drawing into files only."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import font_manager, pyplot

    # names in other scripts: by a font of this machine that has them; a box where there is none, without a word for each
    there = {font.name for font in font_manager.fontManager.ttflist}
    pyplot.rcParams["font.family"] = ["DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in there)]
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    return pyplot


def save(figure: Any, out: Path, dpi: int = 110, **options: Any) -> Path:
    """Write a figure to a file, whose folder is made if it is not there, and close it.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=dpi, pil_kwargs={"compress_level": COMPRESSION}, **options)
    finally:
        pyplot().close(figure)
    return out
