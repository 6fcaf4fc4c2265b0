"""What all figures share: matplotlib without a screen, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pyplot() -> Any:
    """matplotlib's pyplot, drawing into files only."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, out: Path, dpi: int = 110, **options: Any) -> Path:
    """Write a figure to a file, whose folder is made if it is not there, and close it.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=dpi, **options)
    finally:
        pyplot().close(figure)
    return out
