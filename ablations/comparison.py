"""Any two trials, of sweeps or suites, beside each other: metrics, what is configured otherwise, filters on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from paraphrase.ablations.arms import BASE
from paraphrase.ablations.results import DIMENSION
from paraphrase.core.config import to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.files import fit_for_output
from paraphrase.core.measure.evaluation import baseline
from paraphrase.core.measure.metrics import metrics_rows
from paraphrase.core.pictures.filters_page import draw_side_by_side
from paraphrase.sweep.commands import Sweep, Trial
from paraphrase.sweep.record.described import readable


class Compared(NamedTuple):
    """Two trials beside each other."""

    metrics: list[list[str]]
    """Cells: a row for each trial, beneath its performer's own."""
    differences: list[list[str]]
    """Cells: a row for each field that is not the same; only the heading if all are."""
    page: Path | None
    """Their filters on the same images, a PNG file; None: they are of other images or another performer."""


def choose(text: str) -> tuple[str, Trial]:
    """The trial that `NAME/NUMBER` means, or for `NAME` the knee of a sweep or the first run of a suite's base; and its title.

    Raises:
        InputError: if there is none.
    """
    name, sign, number = text.partition("/")
    sweep = Sweep(name)
    if not sign and DIMENSION not in sweep.config.space:
        trial = sweep.best()
    else:
        wanted = [t for t in sweep.trials if (str(t.number) == number if sign else t.params[DIMENSION] == BASE)]
        if not wanted:
            raise InputError(f"{text}: {name} has no complete trial {number or 'of its base'}; NAME or NAME/NUMBER is expected")
        trial = min(wanted, key=lambda t: t.config.train.seed)
    return f"{name}/{trial.number}", trial


def compare(left: str, right: str, out: Path | None = None) -> Compared:
    """Compare two trials, and draw their filters where they are of one performer and its images.

    Args:
        left, right: as `choose` takes them.
        out: the PNG file; None: in the report folder of the left one.

    Raises:
        InputError: if one is not there, or the file cannot be written.
    """
    if out is not None and out.suffix != ".png":
        raise InputError(f"--out {out}: must end in .png")
    out = fit_for_output(out) if out else None
    (title, one), (other_title, other) = chosen = choose(left), choose(right)
    if title == other_title:
        raise InputError(f"{right}: is {left}; name two trials")
    caches = [open_cache(trial.config) for _, trial in chosen]
    alike = caches[0].meta["key"] == caches[1].meta["key"]
    rows = {}
    for cache, (name, trial) in zip(caches, chosen, strict=True):
        rows["performer" if alike else f"performer of {name}"] = baseline(cache)["performer"]
        rows[name] = trial.metrics
    a, b = (readable(to_mapping(trial.config)) for _, trial in chosen)
    other_fields = [path for path in dict.fromkeys([*a, *b]) if a.get(path) != b.get(path)]
    differences = [[path, _short(a.get(path, "-")), _short(b.get(path, "-"))] for path in other_fields]
    page = None
    if alike:
        page = out or Sweep(left.partition("/")[0]).folder / "report" / "pages" / f"{title}-{other_title}.png".replace("/", "-")
        try:
            draw_side_by_side(one.config, caches[0], {title: one.bring(), other_title: other.bring()}, page)
        except OSError as error:
            raise InputError(f"--out {page}: cannot be written ({error.strerror})") from None
    return Compared(metrics_rows(rows), [["", title, other_title], *differences], page)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
