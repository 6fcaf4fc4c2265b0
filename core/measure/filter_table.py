"""What is known of each filter of an explainer, as a table: a CSV file beside the explainer and rows of its gallery."""

from __future__ import annotations

import copy
import csv
import io
import math
from typing import NamedTuple

import torch
from torch import Tensor

from paraphrase.core.errors import InputError
from paraphrase.core.explainer.network import Explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.attribution import ExplainerPath, PerformerPath, contributions
from paraphrase.core.measure.evaluation import filter_scores, test_peaks
from paraphrase.core.measure.filters import FilterScores, Peaks

FILTERS = "filters.csv"
"""In an explainer's folder."""
WEIGHED = 192
"""Test images on which it is weighed what a filter contributes."""
FIRES = 0.5
"""Share of a filter's largest peak from which on an image counts as one that fires it: after a ReLU nearly all are above 0."""


class Filters(NamedTuple):
    """F filters of one network on the test split."""

    peaks: Peaks
    """Of all test images."""
    scores: FilterScores | None
    """None where the data has no landmarks."""
    worth: Tensor | None
    """(F,) share of the contributions above 0 to the performer's answers; None where there is no way from filters to answers."""


def weigh(path: ExplainerPath | PerformerPath, cache: FeatureCache) -> Tensor:
    """(F,) share of each filter in the performer's answers, over some test images of all categories; sums to 1."""
    some = torch.linspace(0, len(cache.test.labels) - 1, min(WEIGHED, len(cache.test.labels))).long()
    features, answers = (t[some.to(t.device)].cpu() for t in (cache.test.features, cache.test.performer_labels))
    mean = contributions(path, features, answers).clamp(min=0).double().mean(0)
    return mean / mean.sum().clamp(min=torch.finfo(torch.float64).tiny)


def filters_of(explainer: Explainer, cache: FeatureCache, autocast: torch.autocast) -> list[Filters]:
    """The filters of each replicate: the interpretable ones, or conv-ordin's where it has none."""
    found = []
    head = copy.deepcopy(cache.head).cpu()  # which may lie on the device that trains
    every = [t.cpu().chunk(explainer.replicates, 1) for t in test_peaks(explainer, cache, autocast)]
    for r, own in enumerate(zip(*every, strict=True)):
        peaks = Peaks(*own)
        try:
            worth = weigh(ExplainerPath(explainer.replicate(r).eval(), head), cache)
        except InputError:
            worth = None
        found.append(Filters(peaks, filter_scores(cache, peaks), worth))
    return found


def filter_rows(filters: Filters, landmarks: list[str], categories: list[str]) -> list[dict[str, str | int | float | None]]:
    """A row for each filter: its number, the part that names it (`-`: none beats chance), that part's tracking, its location
    instability, the category that fires it most, its contribution, the share of images that fire it (at least half as much as
    the one that fires it most), and each part's tracking. None where it is not defined.
    """
    rows: list[dict[str, str | int | float | None]] = []
    values, scores = filters.peaks.values, filters.scores
    fires = ((values > 0) & (values >= FIRES * values.amax(0))).double().mean(0)
    for f in range(filters.peaks.values.shape[1]):
        row: dict[str, str | int | float | None] = {"filter": f}
        if scores is not None:
            part = int(scores.part[f])
            row |= {
                "part": landmarks[part] if part >= 0 else "-",
                "tracking": _number(scores.tracking[f]),
                "instability": _number(scores.instability[f]),
                "category": categories[int(scores.category[f])],
            }
        row |= {"contribution": None if filters.worth is None else _number(filters.worth[f]), "images": _number(fires[f])}
        if scores is not None:
            row |= {f"tracking_{name}": _number(v) for name, v in zip(landmarks, scores.explained[f], strict=True)}
        rows.append(row)
    return rows


def _number(value: Tensor) -> float | None:
    return None if math.isnan(number := float(value)) else number


def filters_csv(explainer: Explainer, cache: FeatureCache, autocast: torch.autocast) -> str:
    """The rows of all replicates as CSV, numbers with six digits, empty where not defined."""
    every = filters_of(explainer, cache, autocast)
    rows = [
        {"replicate": r} | row
        for r, filters in enumerate(every)
        for row in filter_rows(filters, cache.meta["landmarks"], cache.meta["categories"])
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return out.getvalue()
