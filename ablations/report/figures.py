"""Forest plots of paired differences, and how much of the information is parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from paraphrase.ablations.paired import SIGNIFICANT, Comparison, holm_over_arms
from paraphrase.ablations.report.paper import EXPLAINER
from paraphrase.ablations.report.tables import Cell
from paraphrase.ablations.results import NO_RUNS, NOT_DEFINED
from paraphrase.core.measure.metrics import LOWER_IS_BETTER
from paraphrase.core.pictures.drawing import pyplot, save

BETTER, WORSE, OPEN = "#2a7f62", "#b3423a", "#5f6368"
LEAST = 1e-6
"""Differences that an axis shows at least: below, it would be a picture of rounding errors."""


def draw_forests(table: Mapping[str, Mapping[str, Comparison | None]], out: Path) -> Path:
    """Draw a panel for each metric: every arm's mean difference from the base with its 95 % interval.

    Green where the arm is significantly better than the base (Holm-corrected p of at most .05), red where it is worse, else grey.
    """
    arms = list(next(iter(table.values()), {}))
    columns = min(3, max(1, len(table)))
    rows = -(-max(1, len(table)) // columns)
    figure, grid = pyplot().subplots(
        rows, columns, figsize=(4.2 * columns, (0.9 + 0.3 * len(arms)) * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(table) :]:
        axes.set_visible(False)
    for axes, (metric, row) in zip(grid.flat, table.items(), strict=False):
        lower = metric in LOWER_IS_BETTER
        corrected = holm_over_arms(row)
        for y, arm in enumerate(arms):
            c = row[arm]
            if c is None or not c.pairs:
                text = NOT_DEFINED if c is None else NO_RUNS
                axes.text(0.5, y, text, transform=axes.get_yaxis_transform(), ha="center", va="center", color=OPEN, size=8)
                continue
            decided = corrected[arm] <= SIGNIFICANT  # not where it is NaN
            colour = OPEN if not decided else (BETTER if (c.difference < 0) == lower else WORSE)
            if c.low == c.low:
                axes.plot([c.low, c.high], [y, y], color=colour, lw=1.5, marker="|")
            axes.plot(c.difference, y, "o", color=colour)
        axes.axvline(0, color="#9aa0a6", lw=0.8)
        if max(map(abs, axes.get_xlim())) < LEAST:
            axes.set_xlim(-LEAST, LEAST)
        axes.set_title(f"{metric.replace('_', ' ')}\n({'lower' if lower else 'higher'} is better)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=5)  # else the labels of small values run into one another
        axes.set_yticks(range(len(arms)), [a.replace("_", " ") for a in arms])
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlabel("arm minus base", fontsize=8)
    return save(figure, out, dpi=130)


def draw_shares(cells: Sequence[Cell], out: Path) -> Path | None:
    """Draw p as bars by performer and category (the numbers of figure 1 of the paper); None where no cell is of p.

    The filled part of a bar is p, the share of object parts; the rest is the ordinary track's.
    """
    some = [c for c in cells if c.metric == "p" and c.side == EXPLAINER]
    if not some:
        return None
    figure, axes = pyplot().subplots(figsize=(7.5, 0.9 + 0.38 * len(some)), layout="constrained")
    for y, cell in enumerate(some):
        axes.barh(y, 1.0, color="#e8eaed", height=0.7)
        axes.barh(y, cell.value, color=BETTER, height=0.7)
        if cell.low == cell.low:
            axes.plot([cell.low, cell.high], [y, y], color="black", lw=2)
        axes.text(1.01, y, f"{cell.value:.3f}", va="center", fontsize=8)
    axes.set_yticks(range(len(some)), [f"{c.performer}, {c.column}" for c in some], fontsize=8)
    axes.set(xlim=(0, 1.08), ylim=(len(some) - 0.5, -0.5), xlabel="share of object parts, p (line: 95 % interval over seeds)")
    axes.spines[["top", "right"]].set_visible(False)
    return save(figure, out, dpi=130)
