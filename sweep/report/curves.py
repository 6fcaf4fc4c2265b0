"""Learning curves: metrics by epoch, as MLflow has them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from paraphrase.core.pictures.drawing import pyplot, save

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""Metric -> its (epoch, value), by epoch."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#6a3d9a", "#000000")
"""Told apart by the colour-blind too, after Okabe and Ito; dashes tell further lines apart."""

DASHES = ("-", "--", ":", "-.")

OTHER = "#b4b9c0"

TOGETHER = 6
"""More groups than this get a row of panels each, instead of one panel for all."""


def draw_trials(front: Mapping[str, Curves], others: Sequence[Curves], out: Path) -> Path | None:
    """Draw a panel for each metric: the front's trials in colour, others thin and grey; None if no run has any curve.

    Args:
        front: label -> curves.
    """
    metrics = _metrics_in([*front.values(), *others])
    if not metrics:
        return None
    figure, grid = _panels(1, metrics)
    for axes, metric in zip(grid[0], metrics, strict=True):
        for curves in others:
            _line(axes, curves.get(metric, ()), color=OTHER, lw=0.8, zorder=1)
        for (label, curves), style in zip(front.items(), _styles(len(front)), strict=True):
            _line(axes, curves.get(metric, ()), label=label, lw=1.8, zorder=2, **style)
    _legend(figure, len(front))
    return save(figure, out, dpi=120)


def draw_curves(
    groups: Mapping[str, Sequence[Mapping[str, Sequence[tuple[int, float]]]]],
    out: Path,
    reference: str | None = None,
) -> Path | None:
    """Draw each group's mean over its runs and a band of one standard deviation; None if no run has any curve.

    Up to `TOGETHER` groups share a panel for each metric; more get a row each, with the reference behind.

    Args:
        groups: name -> its runs' curves: metric -> (epoch, value).
        out: the PNG file.
        reference: name of the group that the others are compared with; drawn in black.
    """
    metrics = _metrics_in([run for runs in groups.values() for run in runs])
    if not metrics:
        return None
    names = list(groups)
    others = [name for name in names if name != reference]
    base = [name for name in names if name == reference]
    rows = [names] if len(names) <= TOGETHER else [[*base, name] for name in others]
    styles = dict(zip(others, _styles(len(others)), strict=True)) if len(rows) == 1 else {}
    figure, grid = _panels(len(rows), metrics, height=3.2 if len(rows) == 1 else 1.7)
    for row, panels in zip(rows, grid, strict=True):
        for axes, metric in zip(panels, metrics, strict=True):
            for name in row:
                style = {"color": "#000000", "ls": "-"} if name == reference else styles.get(name, {"color": COLOURS[0]})
                _band(axes, [run[metric] for run in groups[name] if metric in run], label=name, **style)
        if len(rows) > 1:
            panels[0].set_ylabel(fill(row[-1].replace("_", " "), 16), fontsize=8)
    if len(rows) == 1:
        _legend(figure, len(names))
    return save(figure, out, dpi=120)


def mean_and_deviation(runs: Sequence[Sequence[tuple[int, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epochs, mean and standard deviation (n - 1; 0 for one run) at each epoch, over the runs that reached it."""
    by_epoch: dict[int, list[float]] = {}
    for epoch, value in itertools.chain.from_iterable(runs):
        by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    spread = [float(np.std(by_epoch[e], ddof=1)) if len(by_epoch[e]) > 1 else 0.0 for e in epochs]
    return np.array(epochs), np.array([float(np.mean(by_epoch[e])) for e in epochs]), np.array(spread)


def _metrics_in(runs: Sequence[Curves]) -> list[str]:
    """The metrics that any of the runs has, in their order; without those measured once, where there are curves of others."""
    found = {least: dict.fromkeys(m for run in runs for m in run if len(run[m]) >= least) for least in (1, 2)}
    return list(found[2] or found[1])


def _styles(count: int) -> list[dict[str, Any]]:
    """A colour and dashes for each of so many lines; after 32 they repeat."""
    styles = [{"color": colour, "ls": dashes} for dashes in DASHES for colour in COLOURS]
    return list(itertools.islice(itertools.cycle(styles), count))


def _panels(rows: int, metrics: Sequence[str], height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.ticker import MaxNLocator

    columns = len(metrics)
    size = (max(5.0, 3.9 * columns), height * rows + 0.6)
    figure, grid = pyplot().subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey="col", layout="constrained")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, metric in zip(grid[0], metrics, strict=True):
        axes.set_title(metric.replace("_", " "), fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=9)
    return figure, grid


def _line(axes: Any, points: Sequence[tuple[int, float]], **style: Any) -> None:
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker="o" if len(points) == 1 else None, **style)


def _band(axes: Any, runs: Sequence[Sequence[tuple[int, float]]], **style: Any) -> None:
    if runs:
        epochs, mean, spread = mean_and_deviation(runs)
        axes.fill_between(epochs, mean - spread, mean + spread, color=style["color"], alpha=0.18, lw=0)
        axes.plot(epochs, mean, lw=1.6, marker="o" if len(epochs) == 1 else None, **style)


def _legend(figure: Any, count: int) -> None:
    """One legend for all panels, below them; none where it would have more entries than can be read."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries and count <= len(COLOURS) * len(DASHES):
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=min(6, len(entries)), fontsize=8)
