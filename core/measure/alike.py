"""Which filters say the same thing, so that each of them need be looked at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from paraphrase.core.measure.filters import Peaks
from paraphrase.core.objective.places import redundancy, strengths

ALIKE = 0.5
"""Redundancy from which on two filters are shown as one."""
DISTINCT_WIDTH = 0.1
"""Sigma of the redundancy of peaks, as a share of the crop's side [algorithm.md, 8]."""


def redundancy_of(peaks: Peaks, side: float) -> Tensor:
    """(F, F) float64 redundancy of filters by their peaks in test images; side: of the crop, in pixels."""
    return redundancy(peaks.positions.double() / side, strengths(peaks.values).double(), DISTINCT_WIDTH)


def groups_alike(peaks: Peaks, side: float, order: Sequence[int]) -> list[list[int]]:
    """Filters in groups: each begins with the first filter in the order that no earlier group has, and all that are alike to it.

    Args:
        peaks: of test images and F filters.
        side: of the crop, in pixels.
        order: filters, those first that are to stand for others; filters that are not in it are left out.
    """
    redundant = redundancy_of(peaks, side)
    left, groups = list(order), []
    while left:
        first = left[0]
        group = [first, *(f for f in left[1:] if redundant[first, f] > ALIKE)]
        left = [f for f in left if f not in group]
        groups.append(group)
    return groups
