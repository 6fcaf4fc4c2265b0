"""Paired statistics of an ablation: pure functions of arrays that know nothing of training, runs or drawing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 9999
"""Bootstrap resamples of an interval, and permutations of a test once all of them are more than this."""
FEW = 7
"""Degrees of freedom below which an interval is Student's: those of 8 pairs are the first for a bootstrap."""
SIGNIFICANT = 0.05
"""A corrected p-value of at most this is significant."""

Runs = Sequence[np.ndarray]
"""One metric's runs: a (S_t,) array for each task t, that is for each performer and category."""


class Comparison(NamedTuple):
    """An arm against the base, paired by task (performer and category) and seed.

    With one task, means of the runs; with several, interquartile means of the runs of all tasks [Agarwal et al. 2021, rliable].
    """

    pairs: int
    """Runs that both have, over all tasks."""
    base: float
    """(Interquartile) mean of the base."""
    arm: float
    """(Interquartile) mean of the arm."""
    difference: float
    """(Interquartile) mean of arm - base."""
    low: float
    """Lower end of the 95 % interval of the difference, see `interval`; NaN where a task has fewer than two pairs."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided sign-flip permutation test of the difference; exact up to 13 pairs. NaN for fewer than two pairs."""
    effect_size: float
    """Difference over its standard deviation within tasks, with Hedges' correction (d_z); NaN where that is 0 or of two pairs."""


def compare(base: Runs, arm: Runs, seed: int = 0) -> Comparison:
    """Compare one metric of two arms.

    Args:
        base, arm: one (S_t,) array for each task t, whose entries are paired.
        seed: of the resampling.

    Raises:
        ValueError: if the shapes differ or a value is not finite.
    """
    base, arm = [np.asarray(b, float) for b in base], [np.asarray(a, float) for a in arm]
    shapes = [b.shape for b in base], [a.shape for a in arm]
    if shapes[0] != shapes[1] or any(b.ndim != 1 for b in base) or not all(np.isfinite(v).all() for v in (*base, *arm)):
        raise ValueError(f"expected finite arrays of one length for each task, got {shapes[0]} and {shapes[1]}")
    difference = [a - b for a, b in zip(arm, base, strict=True)]
    low, high = interval(difference, seed)
    return Comparison(
        pairs=sum(map(len, difference)),
        base=centre(base),
        arm=centre(arm),
        difference=centre(difference),
        low=low,
        high=high,
        p_value=sign_flip_test(difference, seed),
        effect_size=effect_size(difference),
    )


def centre(runs: Runs) -> float:
    """Mean of one task's runs, interquartile mean of several tasks' runs; NaN without any."""
    return float(_centre(*runs)) if sum(map(len, runs)) else math.nan


def _centre(*runs: np.ndarray, axis: int = -1) -> np.ndarray:
    if len(runs) == 1:
        return np.mean(runs[0], axis=axis)
    return stats.trim_mean(np.concatenate(runs, axis=axis), 0.25, axis=axis)


def mean_of_means(*runs: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over tasks of the means of their runs."""
    return np.mean([np.mean(r, axis=axis) for r in runs], axis=0)


def interval(runs: Runs, seed: int = 0, statistic: Callable[..., np.ndarray] = _centre) -> tuple[float, float]:
    """95 % interval of a statistic, by default `centre`'s; tasks are strata: runs are drawn again within each.

    By BCa bootstrap where there are at least `FEW` degrees of freedom (runs, but one of each task). A bootstrap of few runs is
    too narrow: it divides by n, not n - 1, and knows no t distribution. So the level is raised until an interval of a normal
    sample would have Student's width [Hesterberg 2015, expanded percentiles]. With fewer runs no resample is as far out as
    that, and the interval is Student's itself, of the deviations within the tasks. NaN where a task has fewer than two runs;
    the value itself if every task's are equal.
    """
    if not runs or min(map(len, runs)) < 2:
        return math.nan, math.nan
    if all(np.ptp(r) == 0 for r in runs):
        return float(statistic(*runs)), float(statistic(*runs))
    freedom = sum(len(r) - 1 for r in runs)
    if freedom < FEW:
        deviation = math.sqrt(sum(float(np.square(r - np.mean(r)).sum()) for r in runs) / freedom)
        half = stats.t.ppf(0.975, freedom) * deviation / math.sqrt(sum(map(len, runs)))
        return float(statistic(*runs)) - half, float(statistic(*runs)) + half
    level = _expanded_level([len(r) for r in runs])
    for method in ("BCa", "percentile"):  # BCa is not defined where all jackknifed values are equal
        with warnings.catch_warnings():  # which SciPy warns of
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                tuple(runs),
                statistic,
                n_resamples=RESAMPLES,
                method=method,
                confidence_level=level,
                vectorized=True,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return float(found.low), float(found.high)


def _expanded_level(sizes: Sequence[int]) -> float:
    """The confidence level of a bootstrap that has the width of a 95 % interval by Student's t."""
    freedom = sum(n - 1 for n in sizes)
    wider = math.sqrt(sum(sizes) / freedom) * stats.t.ppf(0.975, freedom)
    return float(min(1 - 2 * stats.norm.sf(wider), 1 - 2 / RESAMPLES))


def sign_flip_test(difference: Runs, seed: int = 0) -> float:
    """Two-sided p-value of no difference, by flipping the signs of pairs: exact where 2^pairs <= RESAMPLES, else random."""
    flat = np.concatenate([np.asarray(d, float) for d in difference]) if len(difference) else np.empty(0)
    if len(flat) < 2:
        return math.nan
    if not flat.any():
        return 1.0
    several = len(difference) > 1

    def statistic(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.trim_mean(x, 0.25, axis=axis) if several else np.mean(x, axis=axis)

    return float(
        stats.permutation_test(
            (flat,), statistic, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=seed
        ).pvalue
    )


def effect_size(difference: Runs) -> float:
    """Hedges-corrected d_z: `centre` of all paired differences over their pooled standard deviation within tasks."""
    freedom = sum(len(d) - 1 for d in difference)
    squares = sum(float(np.square(d - np.mean(d)).sum()) for d in difference)
    if freedom < 2 or squares == 0:  # with one degree of freedom the correction leaves nothing
        return math.nan
    return float((1 - 3 / (4 * freedom - 1)) * centre(difference) / math.sqrt(squares / freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p-values; a NaN stays NaN and does not count."""
    adjusted = [math.nan] * len(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def holm_over_arms(row: Mapping[str, Comparison | None]) -> dict[str, float]:
    """Arm -> p-value of one metric after Holm's correction over the arms; NaN where the metric is not defined."""
    return dict(zip(row, holm([c.p_value if c else math.nan for c in row.values()]), strict=True))


def smallest_p_value(seeds: int, tasks: int = 1) -> float:
    """The smallest two-sided p-value that a sign-flip test can give.

    Over several tasks the interquartile mean does not see the signs of the pairs that it leaves out.
    """
    pairs = seeds * tasks
    unseen = pairs // 4 if tasks > 1 else 0
    return min(1.0, max(2.0 ** (1 + unseen - pairs), 2.0 / (RESAMPLES + 1)))


def too_few(seeds: int, tasks: int, arms: int) -> str:
    """A line if so few pairs cannot give a significant difference; empty if they can."""
    if not arms or smallest_p_value(seeds, tasks) * arms <= SIGNIFICANT:
        return ""
    return f"{seeds} seeds can never make one of {arms} arms significant at 5 %; that takes {seeds_needed(arms, tasks)}"


def seeds_needed(arms: int, tasks: int = 1, level: float = SIGNIFICANT) -> int:
    """The fewest seeds with which one of so many arms can be significant after Holm's correction."""
    seeds = 2
    while smallest_p_value(seeds, tasks) * arms > level:
        seeds += 1
    return seeds
