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
    by_category: Sequence[FilterScores] = ()
    """All filters judged on each category in turn; empty where there is one, or no landmarks."""
    chance: Tensor | None = None
    """(P,) tracking of a part that the best of as many random filters beats once in a hundred times."""
    train_peaks: Peaks | None = None
    """Of the training images; None before the last epoch."""
    partition: Tensor | None = None
    """(R, 2) NMI and ARI of filter groups against landmarks; None before the last epoch."""
    same: bool = False
    """Whether the networks differ in their seeds alone."""
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
    each_part: bool = False
    """Whether it has a value for each landmark, (R, P): the key then ends in the landmark's name."""
    at_end: bool = False
    """Whether it is measured after the last epoch only, since it needs the training images or takes long."""
    shown: bool = True
    """Whether it has a column in tables; any metric can be an objective."""


def _instability(seen: Measured) -> Tensor | None:
    return seen.scores and seen.mean(seen.scores.instability)


def _tracking(seen: Measured) -> Tensor | None:
    return seen.scores and seen.mean(seen.scores.tracking)


def _mean_by_category(name: str) -> Callable[[Measured], Tensor | None]:
    def measure(seen: Measured) -> Tensor | None:
        if not seen.by_category:
            return None
        from torch import stack

        return stack([seen.mean(getattr(scores, name)) for scores in seen.by_category]).nanmean(0)

    return measure


def _best_tracking(seen: Measured) -> Tensor | None:
    """(R, P) of each part's best filter."""
    return seen.scores and seen.scores.explained.nan_to_num(0).unflatten(0, (seen.replicates, -1)).amax(1)


def _parts_tracked(seen: Measured) -> Tensor | None:
    best = _best_tracking(seen)
    return None if best is None or seen.chance is None else (best > seen.chance).double().sum(1)


def _networks(seen: Measured) -> list[Peaks]:
    """The peaks of each network."""
    from paraphrase.core.measure.filters import Peaks

    return [Peaks(*own) for own in zip(*(t.chunk(seen.replicates, 1) for t in seen.peaks), strict=True)]


def _distinct(seen: Measured) -> Tensor:
    from torch import stack

    from paraphrase.core.measure.alike import redundancy_of
    from paraphrase.core.objective.places import distinct_filters

    side = seen.cache.meta["input_size"]
    return stack([distinct_filters(redundancy_of(peaks, side)) for peaks in _networks(seen)])


def _landmark_errors(seen: Measured) -> Tensor | None:
    """(R, P) of each landmark."""
    if seen.train_peaks is None or seen.scores is None:
        return None
    from torch import stack

    from paraphrase.core.measure.filters import Peaks
    from paraphrase.core.measure.parts import landmark_error

    train, test, found = seen.cache.train.landmarks, seen.cache.test.landmarks, []
    parts = [[t.cpu().chunk(seen.replicates, 1) for t in peaks] for peaks in (seen.train_peaks, seen.peaks)]
    for r in range(seen.replicates):
        fitted, asked = (Peaks(positions[r], values[r]) for positions, values in parts)
        found.append(landmark_error(fitted, train, asked, test, seen.cache.meta["input_size"]))
    return stack(found)


def _landmark_error(seen: Measured) -> Tensor | None:
    errors = _landmark_errors(seen)
    return None if errors is None else errors.nanmean(1)


def _partition(index: int) -> Callable[[Measured], Tensor | None]:
    return lambda seen: None if seen.partition is None else seen.partition[:, index]


def _agreement(seen: Measured) -> Tensor | None:
    """(R,) of each network with the others."""
    if not seen.same or seen.replicates < 2:
        return None
    from torch import stack

    from paraphrase.core.measure.parts import agreement

    networks = _networks(seen)
    return stack([stack([agreement(own, other) for other in networks if other is not own]).nanmean() for own in networks])


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
        "landmark_error",
        "lm err",
        "lower",
        "distance between a landmark and where all filters' peaks say that it is, over the crop's side; mean over landmarks",
        _landmark_error,
        landmarks=True,
        at_end=True,
    ),
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
    Metric(
        "parts_tracked",
        "parts",
        "higher",
        "parts whose best filter tracks them better than the best of as many random filters, in 99 of 100 draws",
        _parts_tracked,
        landmarks=True,
    ),
    Metric(
        "distinct_filters",
        "distinct",
        "higher",
        "how many filters there are that say different things: 1 if all are one detector, W if no two are alike",
        _distinct,
    ),
    Metric(
        "seed_agreement",
        "agree",
        "higher",
        "share of a filter's movement that the best filter of another seed explains; mean over filters and seeds",
        _agreement,
        at_end=True,
    ),
    Metric("p", "p", "higher", "share of the features that comes from the interpretable track", lambda seen: seen.p),
    Metric(
        "reconstruction_error",
        "rec err",
        "lower",
        "error of the performer's fully connected features, relative to their energy",
        _error(None),
    ),
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
    Metric("part_coverage", "cover", "higher", "how many parts the filters name between them", _coverage, landmarks=True),
    Metric("reconstruction_error_1", "rec 1", "lower", "the same, of the first target alone", _error(0), shown=False),
    Metric("reconstruction_error_2", "rec 2", "lower", "the same, of the second target alone", _error(1), shown=False),
    Metric(
        "location_instability_by_category",
        "instab c",
        "lower",
        "location instability of all filters on each category in turn; mean over categories",
        _mean_by_category("instability"),
        landmarks=True,
        shown=False,
    ),
    Metric(
        "part_tracking_by_category",
        "track c",
        "higher",
        "part tracking of all filters on each category in turn; mean over categories",
        _mean_by_category("tracking"),
        landmarks=True,
        shown=False,
    ),
    Metric(
        "part_nmi",
        "nmi",
        "higher",
        "normalised mutual information of the filter group that fires most at a landmark and the landmark's name",
        _partition(0),
        landmarks=True,
        at_end=True,
        shown=False,
    ),
    Metric(
        "part_ari",
        "ari",
        "higher",
        "adjusted Rand index of the same; 0 by chance",
        _partition(1),
        landmarks=True,
        at_end=True,
        shown=False,
    ),
    Metric(
        "tracking",
        "track",
        "higher",
        "part tracking of the best filter of this part",
        _best_tracking,
        landmarks=True,
        each_part=True,
        shown=False,
    ),
    Metric(
        "landmark_error",
        "lm err",
        "lower",
        "landmark error of this landmark",
        _landmark_errors,
        landmarks=True,
        each_part=True,
        at_end=True,
        shown=False,
    ),
)
"""All metrics, in the order of tables [algorithm.md, 5 and 8]."""

BY_KEY = {metric.key: metric for metric in METRICS if not metric.each_part}
KEYS = tuple(metric.key for metric in METRICS if metric.shown)
"""Keys of the metrics in tables, in their order."""
DETAILS = tuple(metric.key for metric in METRICS if not metric.shown and not metric.each_part)
"""Keys of the others that every data set has."""
EACH_PART = tuple(metric.key for metric in METRICS if metric.each_part)
"""What the keys begin with, before an underscore, that have a landmark's name in them."""
LOWER_IS_BETTER = frozenset(metric.key for metric in METRICS if metric.better == "lower")


def metric_of(key: str) -> Metric | None:
    """The metric that a key, perhaps with a landmark's name in it, is of; None if there is none."""
    if key in BY_KEY:
        return BY_KEY[key]
    fits = [metric for metric in METRICS if metric.each_part and key.startswith(metric.key + "_")]
    return fits[0] if fits else None


def measure(seen: Measured) -> dict[str, Tensor]:
    """Every metric that is defined, each (R,) float64 on the CPU."""
    values: dict[str, Tensor] = {}
    for metric in METRICS:
        value = metric.measure(seen)
        if value is None:
            continue
        value = value.detach().double().cpu()
        if metric.each_part:
            values |= {f"{metric.key}_{name}": value[:, i] for i, name in enumerate(seen.cache.meta["landmarks"])}
        else:
            values[metric.key] = value
    return values


def short_name(key: str) -> str:
    """A metric's name in tables on the screen; any other key in words."""
    metric = metric_of(key)
    if metric is None:
        return key.replace("_", " ")
    return metric.short + key.removeprefix(metric.key).replace("_", " ")


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
