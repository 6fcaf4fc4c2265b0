"""Paired statistics of an ablation: pure functions of arrays that know nothing of training, runs or drawing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 9999
"""Bootstrap resamples of an interval, and permutations of a test once all of them are more than this."""


class Comparison(NamedTuple):
    """An arm against the base, paired by seed."""

    pairs: int
    """S, the seeds that both have."""
    base: float
    """Mean of the base."""
    arm: float
    """Mean of the arm."""
    difference: float
    """Mean of arm - base."""
    low: float
    """Lower end of the 95 % interval of the difference (BCa bootstrap over the pairs); NaN for fewer than two pairs."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided sign-flip permutation test of the mean difference; exact up to 13 pairs. NaN for fewer than two pairs."""
    effect_size: float
    """Mean difference over its standard deviation, with Hedges' correction (d_z); NaN where that deviation is 0."""


def compare(base: np.ndarray, arm: np.ndarray, seed: int = 0) -> Comparison:
    """Compare two (S,) arrays of one metric whose entries are paired.

    Raises:
        ValueError: if the shapes differ or a value is not finite.
    """
    base, arm = np.asarray(base, float), np.asarray(arm, float)
    if base.shape != arm.shape or base.ndim != 1 or not (np.isfinite(base).all() and np.isfinite(arm).all()):
        raise ValueError(f"expected two finite arrays of one length, got {base.shape} and {arm.shape}")
    difference = arm - base
    pairs = len(difference)
    low, high = interval(difference, seed)
    return Comparison(
        pairs, _mean(base), _mean(arm), _mean(difference), low, high, sign_flip_test(difference, seed), effect_size(difference)
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % BCa bootstrap interval of the mean of (S,) values; NaN for fewer than two, the value itself if all are equal."""
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():  # SciPy says where BCa falls back on few, nearly equal values
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(seed)
        ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_test(difference: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of a mean of 0, by flipping signs: exact where 2^S <= RESAMPLES, else by random flips."""
    if len(difference) < 2:
        return math.nan
    if not difference.any():
        return 1.0
    return float(
        stats.permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=seed
        ).pvalue
    )


def effect_size(difference: np.ndarray) -> float:
    """Hedges-corrected d_z of (S,) paired differences."""
    if len(difference) < 2 or np.ptp(difference) == 0:
        return math.nan
    freedom = len(difference) - 1
    return float((1 - 3 / (4 * freedom - 1)) * difference.mean() / difference.std(ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p-values; a NaN stays NaN and does not count."""
    adjusted = [math.nan] * len(p_values)
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def smallest_p_value(seeds: int) -> float:
    """The smallest two-sided p-value that a sign-flip test of so many pairs can give."""
    return 2.0 / 2**seeds


def seeds_needed(arms: int, level: float = 0.05) -> int:
    """The fewest seeds with which one of so many arms can be significant after Holm's correction."""
    seeds = 2
    while smallest_p_value(seeds) * arms > level:
        seeds += 1
    return seeds
