"""Every metric as data: its key, which direction is better, what it is, and how it is measured. Needs no torch to be read.

A new metric is one function and one entry of `METRICS`: it is then measured after every epoch, logged, shown in tables, reports
and ablations, and a possible objective or constraint of a sweep. `docs/extending.md` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from paraphrase.core.terminal.tables import brief

if TYPE_CHECKING:
    from torch import Tensor

    from paraphrase.core.features.cache import FeatureCache
    from paraphrase.core.measure.filters import FilterScores, Peaks


class Measured(NamedTuple):
    """What was seen on the test split of R networks with F filters each; None where there is no such thing."""

    cache: FeatureCache
    """The features, labels and landmarks."""
    replicates: int
    """R."""
    peaks: Peaks
    """Of N test images and R * F filters."""
    scores: FilterScores | None
    """Of the filters; None where the data has no landmarks."""
    information: Tensor | None = None
    """(R * F,) mutual information of maps and templates, in nats."""
    error: Tensor | None = None
    """(R, 2) float64: sum |x_l - x*_l|^2 / sum |x*_l|^2 of both targets."""
    p: Tensor | None = None
    """(R,) share of the interpretable track."""
    fidelity: Tensor | None = None
    """(R,) share of images whose class stays the performer's own."""
    accuracy: Tensor | None = None
    """(R,) share of images whose class is right."""

    def mean(self, values: Tensor) -> Tensor:
        """(R,) float64 means of (R * F,) values over the filters of each network, where they are defined."""
        return values.unflatten(0, (self.replicates, -1)).double().nanmean(1)


class Metric(NamedTuple):
    """One metric."""

    key: str
    """In tables, objectives, MLflow and CSV alike."""
    short: str
    """In tables on the screen, at most seven letters."""
    better: str
    """`lower` or `higher`."""
    meaning: str
    """What it is, in a line."""
    measure: Callable[[Measured], Tensor | None]
    """(R,); None where it is not defined."""
    landmarks: bool = False
    """Whether the data must have landmarks."""
    shown: bool = True
    """Whether it has a column in tables; any metric can be an objective."""


def _instability(seen: Measured) -> Tensor | None:
    return seen.scores and seen.mean(seen.scores.instability)


def _tracking(seen: Measured) -> Tensor | None:
    return seen.scores and seen.mean(seen.scores.tracking)


def _coverage(seen: Measured) -> Tensor | None:
    if seen.scores is None:
        return None
    from torch import stack

    from paraphrase.core.measure.filters import part_coverage

    return stack([part_coverage(part) for part in seen.scores.part.unflatten(0, (seen.replicates, -1))])


def _dead(seen: Measured) -> Tensor:
    return seen.mean((~(seen.peaks.values > 0).any(0)).double()).cpu()


def _information(seen: Measured) -> Tensor | None:
    return None if seen.information is None else seen.mean(seen.information).cpu()


def _error(layer: int | None) -> Callable[[Measured], Tensor | None]:
    def measure(seen: Measured) -> Tensor | None:
        if seen.error is None:
            return None
        return seen.error.mean(1) if layer is None else seen.error[:, layer]

    return measure


METRICS = (
    Metric(
        "location_instability",
        "instab",
        "lower",
        "spread of the distance between a filter's peak and a part, over the crop's diagonal",
        _instability,
        landmarks=True,
    ),
    Metric(
        "part_tracking",
        "track",
        "higher",
        "share of a part's movement that the filter's peak explains; 0 for a filter that sits still",
        _tracking,
        landmarks=True,
    ),
    Metric("part_coverage", "cover", "higher", "how many parts the filters name between them", _coverage, landmarks=True),
    Metric("p", "p", "higher", "share of the features that comes from the interpretable track", lambda seen: seen.p),
    Metric(
        "reconstruction_error",
        "rec err",
        "lower",
        "error of the performer's fully connected features, relative to their energy",
        _error(None),
    ),
    Metric("reconstruction_error_1", "rec 1", "lower", "the same, of the first target alone", _error(0), shown=False),
    Metric("reconstruction_error_2", "rec 2", "lower", "the same, of the second target alone", _error(1), shown=False),
    Metric("fidelity", "fid", "higher", "share of test images whose class stays the performer's own", lambda seen: seen.fidelity),
    Metric("accuracy", "acc", "higher", "share of test images whose class is right", lambda seen: seen.accuracy),
    Metric("dead_filters", "dead", "lower", "share of filters that fire on no test image", _dead),
    Metric(
        "mutual_information",
        "mut inf",
        "higher",
        "of a filter's maps and the part templates, in nats: the filter loss with its sign turned",
        _information,
    ),
)
"""All metrics, in the order of tables [algorithm.md, 5]."""

BY_KEY = {metric.key: metric for metric in METRICS}
KEYS = tuple(metric.key for metric in METRICS if metric.shown)
"""Keys of the metrics in tables, in their order."""
DETAILS = tuple(metric.key for metric in METRICS if not metric.shown)
"""Keys of the others."""
LOWER_IS_BETTER = frozenset(metric.key for metric in METRICS if metric.better == "lower")
NEED_LANDMARKS = frozenset(metric.key for metric in METRICS if metric.landmarks)


def measure(seen: Measured) -> dict[str, Tensor]:
    """Every metric that is defined, each (R,) float64 on the CPU."""
    values = {metric.key: metric.measure(seen) for metric in METRICS}
    return {key: value.detach().double().cpu() for key, value in values.items() if value is not None}


def short_name(key: str) -> str:
    """A metric's name in tables on the screen; any other key in words."""
    return BY_KEY[key].short if key in BY_KEY else key.replace("_", " ")


def metrics_rows(rows: Mapping[str, Mapping[str, float]], keys: Sequence[str] = KEYS) -> list[list[str]]:
    """Cells of a table with a row for each name and a column for each metric that any row has; the heading first.

    Args:
        rows: name -> metrics; `<metric>_se` is shown as its standard error.
        keys: the metrics, in order.
    """
    shown = [k for k in keys if any(k in row for row in rows.values())]
    table = [["", *map(short_name, shown)]]
    for name, row in rows.items():
        table.append([name, *(brief(row.get(k), row.get(f"{k}_se")) for k in shown)])
    return table
