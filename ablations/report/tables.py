"""The paper's tables for whatever was run: location instability (tables 2 and 3) and p (table 4) by performer and category."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paraphrase.ablations.arms import BASE
from paraphrase.ablations.paired import interval, mean_of_means
from paraphrase.ablations.report.paper import AVERAGE, CATEGORIES, EXPLAINER, MULTI, PASCAL_PART, PERFORMER, reported
from paraphrase.ablations.results import DIMENSION, Metrics, Task, baselines, runs_by_arm, task_configs, task_of
from paraphrase.core.config import Config
from paraphrase.core.errors import InputError
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.measure.evaluation import baseline
from paraphrase.core.terminal.tables import latex_table, markdown_table, text_table
from paraphrase.core.train.training import of_replicate, replicates_in
from paraphrase.sweep.settings.config import ALL
from paraphrase.sweep.settings.space import resolve
from paraphrase.sweep.study.results import load, pick

TITLES = {"location_instability": "Location instability (lower is better)", "p": "p, the share of the interpretable track"}


class Cell(NamedTuple):
    """One cell of a table."""

    name: str
    """The suite or sweep."""
    metric: str
    """`location_instability` or `p`."""
    data: str
    """Data set."""
    performer: str
    """Architecture or name of the performer."""
    side: str
    """`performer` or `explainer`."""
    column: str
    """Category, the average of the single categories, or `multi`."""
    value: float
    """Mean over the runs."""
    low: float
    """Lower end of its 95 % interval over the runs (BCa bootstrap); NaN for the one performer and for a single run."""
    high: float
    """Upper end."""
    runs: int
    """Explainers that it is the mean of; 0 for the performer."""
    paper: float | None
    """The paper's figure where it has the cell."""


def measure(name: str, arm: str = BASE) -> list[Cell]:
    """The cells of one suite (an arm's runs), or of one sweep (the replicates of its knee trial).

    Raises:
        InputError: if there is no such sweep or arm, or nothing is complete.
    """
    sweep, _ = load(name)
    if DIMENSION not in sweep.space:
        if arm != BASE:
            raise InputError(f"--arm {arm}: {name} is a sweep, which has no arms")
        trial = pick(name)
        config = resolve(trial.params, sweep.space, sweep.base)
        task = task_of(config, {})
        performer = baseline(open_cache(config))["performer"]
        return _cells(name, {task: config}, {task: _replicates(trial.user_attrs["metrics"])}, {task: performer})
    arms = runs_by_arm(name)
    if arm not in arms:
        raise InputError(f"--arm {arm}: {name} has no such arm; it has {', '.join(arms)}")
    runs = {task: list(by_seed.values()) for task, by_seed in arms[arm].items()}
    if not any(runs.values()):
        raise InputError(f"{name}: no run of {arm} is complete yet")
    rows = {task: found["performer"] for task, found in baselines(name).items()}
    return _cells(name, task_configs(sweep), runs, rows)


def _replicates(metrics: Metrics) -> list[Metrics]:
    """A trial's replicates, each as metrics of its own."""
    return [of_replicate(metrics, r) for r in range(replicates_in(metrics))] or [metrics]


def _cells(
    name: str, configs: Mapping[Task, Config], runs: Mapping[Task, Sequence[Metrics]], performers: Mapping[Task, Metrics]
) -> list[Cell]:
    cells: list[Cell] = []
    for metric in TITLES:
        for performer in dict.fromkeys(task.performer for task in configs):
            tasks = [t for t in configs if t.performer == performer and runs[t]]
            if not tasks:
                continue
            config = configs[tasks[0]]
            data = config.data.source if config.data.path is None else Path(config.data.path).resolve().name
            of_paper = PASCAL_PART if config.data.source == PASCAL_PART else data
            columns = {MULTI if t.category == ALL else t.category: [t] for t in tasks}
            single = [t for t in tasks if t.category != ALL]
            if len(single) > 1:
                columns[AVERAGE] = single
            for side in (PERFORMER, EXPLAINER):
                for column, some in columns.items():
                    values = [_values(metric, side, t, runs, performers) for t in some]
                    if all(len(v) for v in values):
                        low, high = interval(values, statistic=mean_of_means) if side == EXPLAINER else (np.nan, np.nan)
                        count = sum(map(len, values)) if side == EXPLAINER else 0
                        same = column != AVERAGE or {t.category for t in single} == set(CATEGORIES)
                        figure = reported(metric, of_paper, config.performer.arch, side, column) if same else None
                        value = float(mean_of_means(*values))
                        cells.append(Cell(name, metric, data, performer, side, column, value, low, high, count, figure))
    return cells


def _values(
    metric: str, side: str, task: Task, runs: Mapping[Task, Sequence[Metrics]], performers: Mapping[Task, Metrics]
) -> np.ndarray:
    some = [performers[task]] if side == PERFORMER else runs[task]
    return np.array([m[metric] for m in some if m.get(metric) is not None])


def grids(cells: Sequence[Cell]) -> list[tuple[str, list[list[str]]]]:
    """A titled table for each metric and data set, its first row the heading; the paper's figures in columns beside ours."""
    found = []
    for metric, data in dict.fromkeys((c.metric, c.data) for c in cells):
        some = [c for c in cells if (c.metric, c.data) == (metric, data)]
        columns = sorted(dict.fromkeys(c.column for c in some), key=lambda c: (c == MULTI, c == AVERAGE))
        in_paper = {c.column for c in some if c.paper is not None}
        table = [["", *(h for c in columns for h in ([c, "paper"] if c in in_paper else [c]))]]
        several = len({c.name for c in some}) > 1
        for name, performer, side in dict.fromkeys((c.name, c.performer, c.side) for c in some):
            by_column = {c.column: c for c in some if (c.name, c.performer, c.side) == (name, performer, side)}
            of = f" ({name})" if several else ""
            row = [(performer if side == PERFORMER else f"explainer of {performer}") + of]
            for column in columns:
                cell = by_column.get(column)
                row.append(_text(cell))
                if column in in_paper:
                    row.append("-" if cell is None or cell.paper is None else f"{cell.paper:.4g}")
            table.append(row)
        found.append((f"{TITLES[metric]}, {data}", table))
    return found


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.value:.4f}" + ("" if np.isnan(cell.low) else f" [{cell.low:.4f}, {cell.high:.4f}]")


def as_csv(cells: Iterable[Cell]) -> str:
    """One row a cell."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Cell._fields)
    writer.writerows(["" if v is None or v != v else v for v in cell] for cell in cells)
    return out.getvalue()


def render(cells: Sequence[Cell], form: str) -> str:
    """The tables as text, csv, markdown or latex."""
    if form == "csv":
        return as_csv(cells)
    blocks = []
    for title, table in grids(cells):
        if form == "latex":
            blocks.append(latex_table(table, title))
        else:
            heading = f"**{title}**\n\n" if form == "markdown" else f"{title}\n\n"
            blocks.append(heading + (markdown_table if form == "markdown" else text_table)(table))
    return "\n\n".join(blocks) + "\n"
