"""Which filters say the same thing, so that each of them need be looked at once."""

from __future__ import annotations

from collections.abc import Sequence

from paraphrase.core.measure.filters import Peaks
from paraphrase.core.measure.metrics import DISTINCT_WIDTH
from paraphrase.core.objective.places import redundancy, strengths

ALIKE = 0.5
"""Redundancy from which on two filters are shown as one."""


def groups_alike(peaks: Peaks, side: float, order: Sequence[int]) -> list[list[int]]:
    """Filters in groups: each begins with the first filter in the order that no earlier group has, and all that are alike to it.

    Args:
        peaks: of test images and F filters.
        side: of the crop, in pixels.
        order: filters, those first that are to stand for others; filters that are not in it are left out.
    """
    redundant = redundancy(peaks.positions.double() / side, strengths(peaks.values).double(), DISTINCT_WIDTH)
    left, groups = list(order), []
    while left:
        first = left[0]
        group = [first, *(f for f in left[1:] if redundant[first, f] > ALIKE)]
        left = [f for f in left if f not in group]
        groups.append(group)
    return groups
