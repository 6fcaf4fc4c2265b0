"""What is plainly wrong with an explainer or its performer, in words: numbers that each look well may hide it."""

from __future__ import annotations

import math
from collections.abc import Mapping

FEW = 2.0
"""Distinct filters below which a track is one detector, many times over."""


def verdicts(metrics: Mapping[str, float], rows: Mapping[str, Mapping[str, float]], name: str = "the explainer") -> list[str]:
    """Lines that say what is wrong; none where nothing is.

    Args:
        metrics: of the explainer, after its last epoch.
        rows: of the performer and the controls, as `baseline` gives them.
        name: of the explainer, at the beginning of a line.
    """
    found = []
    distinct, own = metrics.get("distinct_filters"), rows.get("performer", {}).get("distinct_filters")
    if distinct is not None and distinct < FEW and (own is None or own > FEW):
        found.append(f"{name}: its filters are one detector many times over (distinct filters {distinct:.1f})")
    if metrics.get("parts_tracked") == 0:
        found.append(f"{name}: no part is tracked better than by chance, so no filter has a name")
    if "location_instability" in metrics and "p" not in metrics:
        found.append(f"{name}: p is not defined, since one of the tracks is absent")
    return found


def performer_verdict(accuracy: float | None, categories: int, images: int) -> str | None:
    """A line if a performer's accuracy is no better than guessing, within two standard errors; else None.

    Args:
        accuracy: share of the test images whose class is right; None: not known.
        categories: K.
        images: test images.
    """
    if accuracy is None:
        return None
    guess = 1 / categories
    if accuracy > guess + 2 * math.sqrt(guess * (1 - guess) / images):
        return None
    return f"the performer is right on {accuracy:.0%} of the test images, no better than guessing among {categories} categories"
