"""The parts of a sweep's report: what was searched, what was found, and how to read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from paraphrase.core.measure.metrics import KEYS, METRICS
from paraphrase.core.terminal.console import duration
from paraphrase.core.terminal.tables import format_value
from paraphrase.sweep.record.facts import without_places
from paraphrase.sweep.report.figures import KINDS
from paraphrase.sweep.report.page import Cell, Figure, Section, Table
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import trial_folder
from paraphrase.sweep.settings.space import Dimension, short_names
from paraphrase.sweep.study.results import complete_trials, front_of, knee
from paraphrase.sweep.study.study import STATE_NAMES, budget, own_trials

FILTER_PAGES = 6
"""Most trials of a front whose filters are drawn."""


def words(key: str) -> str:
    """A metric's key as words."""
    return key.replace("_", " ")


def label(trial: FrozenTrial) -> str:
    """A trial as the page's tables name it."""
    return f"trial {trial.number}"


def in_order(front: Sequence[FrozenTrial], sweep: SweepConfig) -> list[FrozenTrial]:
    """The front, best by the first objective first."""
    return sorted(front, key=lambda t: t.values[0], reverse=next(iter(sweep.objectives.values())) == "maximize")


def shown_filters(front: Sequence[FrozenTrial], sweep: SweepConfig) -> list[FrozenTrial]:
    """The trials whose filters are drawn: the knee of the front, then its best by the first objective."""
    if not front:
        return []
    picked = knee(list(front), list(sweep.objectives.values()))
    return [picked, *(t for t in in_order(front, sweep) if t.number != picked.number)][:FILTER_PAGES]


def states_of(study: optuna.Study) -> str:
    """How many trials are complete, pruned, failed, running and waiting, in words."""
    counts = Counter(STATE_NAMES[t.state] for t in own_trials(study))
    return ", ".join(f"{counts[state]} {state}" for state in STATE_NAMES.values() if counts[state]) or "no trials yet"


def summary_section(sweep: SweepConfig, study: optuna.Study, front: Sequence[FrozenTrial] | None) -> Section:
    """What was searched, for what, and what it took.

    Args:
        front: None where a front has no meaning, as for a suite of ablations: then the objectives are left out.
    """
    seconds = study.user_attrs.get("seconds", 0.0)
    text = [f"A budget of {budget(sweep)} trials: {states_of(study)}, in {duration(seconds)}."]
    if sweep.space:
        fields = f"{_counted(len(sweep.space), 'field')} of the configuration"
        text[0] += (
            f" Every combination of {fields}." if sweep.sampler == "grid" else f" The sampler {sweep.sampler} searched {fields}."
        )
    if stopping := sweep.early_stopping:
        text.append(f"Trials were stopped early by their {words(stopping.metric)}, from epoch {stopping.grace_epochs} on.")
    tables = [] if front is None else [_objectives_table(sweep, study)]
    if front:
        best = knee(list(front), list(sweep.objectives.values()))
        reached = ", ".join(f"{words(m)} {v:.4f}" for m, v in zip(sweep.objectives, best.values, strict=True))
        text.append(f"The knee of the front, the trial nearest to the best of every objective, is {label(best)}: {reached}.")
    if sweep.space:
        tables.append(Table(["field", "type", "values"], [[k, d.type, _values_of(d)] for k, d in sweep.space.items()], "Space"))
    failed = [t for t in own_trials(study) if t.state == TrialState.FAIL]
    if failed:
        rows: list[list[Cell]] = [[label(t), without_places(str(t.user_attrs.get("reason", "unknown")))] for t in failed]
        tables.append(Table(["trial", "reason"], rows, "Trials that failed"))
    return Section("Summary", text, tables)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _objectives_table(sweep: SweepConfig, study: optuna.Study) -> Table:
    complete = complete_trials(study)
    performer = study.user_attrs.get("baseline", {}).get("performer", {})
    rows: list[list[Cell]] = []
    for i, (metric, direction) in enumerate(sweep.objectives.items()):
        sign = 1.0 if direction == "minimize" else -1.0
        best = min(((sign * t.values[i], t) for t in complete), key=itemgetter(0), default=None)
        reached: list[Cell] = [best[1].values[i], label(best[1])] if best else [None, None]
        rows.append([words(metric), direction, *reached, performer.get(metric)])
    for metric, bound in sweep.constraints.items():
        limits = [f"at {kind} {limit:g}" for kind, limit in (("least", bound.min), ("most", bound.max)) if limit is not None]
        rows.append([words(metric), "constraint: " + " and ".join(limits), None, None, performer.get(metric)])
    return Table(["metric", "wanted", "best", "by", "performer"], rows, "Objectives and constraints")


def _values_of(dimension: Dimension) -> str:
    if dimension.type in ("categorical", "preset"):
        return without_places(", ".join(map(str, dimension.presets or dimension.choices)))
    scale = ", logarithmic" if dimension.log else ""
    return f"{dimension.low:g} to {dimension.high:g}{scale}"


def front_section(sweep: SweepConfig, study: optuna.Study, front: Sequence[FrozenTrial], picture: Path) -> Section:
    """The front beneath the performer's row and the controls, its parameters, and its picture if it is there."""
    baseline: Mapping[str, Mapping[str, float]] = study.user_attrs.get("baseline", {})
    ordered = in_order(front, sweep)
    rows = dict(baseline) | {label(t): t.user_attrs["metrics"] for t in ordered}
    tables = [metrics_table(rows, (*KEYS, *(m for m in sweep.objectives if m not in KEYS)), "The front's metrics")]
    names = short_names(list(sweep.space))
    values: list[list[Cell]] = [[label(t), *(_short(t.params.get(path)) for path in sweep.space)] for t in ordered]
    if front:
        tables.append(Table(["trial", *names.values()], values, "The front's parameters"))
        text = ["No other trial is at least as good on every objective and better on one."]
        if sweep.constraints:
            text[0] += " All of these keep the constraints."
    else:
        text = ["No complete trial" + (" keeps the constraints." if sweep.constraints else " yet.")]
    text += [line[0].upper() + line[1:] + "." for line in front_of(study, sweep).note.splitlines() if front]
    complete = len(complete_trials(study))
    alt = f"Scatter plots of every pair of objectives: {complete} complete trials, of which {len(front)} are on the front"
    caption = "The front is red and numbered, other complete trials are grey, the performer's own values are dotted lines."
    figures = [Figure(picture, f"{alt}; its numbers are in the tables above.", caption)] if picture.exists() else []
    return Section("Pareto front", text, tables, figures)


def _short(value: Any) -> Cell:
    if value is None:
        return None
    return f"{value:.3g}" if isinstance(value, float) else without_places(str(value))


def metrics_table(rows: Mapping[str, Mapping[str, float]], keys: Sequence[str], caption: str) -> Table:
    """A row for each name and a column for each metric that any row has, with standard errors where there are any."""
    shown = [k for k in keys if any(k in row for row in rows.values())]
    cells: list[list[Cell]] = [[n, *(format_value(r.get(k), r.get(f"{k}_se")) for k in shown)] for n, r in rows.items()]
    return Table(["of", *map(words, shown)], cells, caption)


def arms_section(sweep: SweepConfig, study: optuna.Study, dimension: str, curves: Path | None) -> Section:
    """A suite's runs: each arm's mean metrics with their standard deviation over runs, and their learning curves.

    Args:
        dimension: the preset dimension whose values are the arms.
    """
    runs: dict[str, list[Mapping[str, float]]] = {arm: [] for arm in sweep.space[dimension].presets}
    for trial in complete_trials(study):
        runs[trial.params[dimension]].append(trial.user_attrs["metrics"])
    rows: list[list[Cell]] = []
    shown = [m for m in KEYS if any(m in run for of_arm in runs.values() for run in of_arm)]
    for arm, of_arm in runs.items():
        measured = [[run[m] for run in of_arm if m in run] for m in shown]
        rows.append([words(arm), len(of_arm), *map(_mean_and_deviation, measured)])
    table = Table([dimension, "runs", *map(words, shown)], rows, "Mean ± standard deviation over each arm's complete runs")
    alt = f"Learning curves of {len(runs)} arms: mean and standard deviation over their runs, by epoch."
    caption = "Mean over an arm's runs that reached the epoch; the band is one standard deviation. The base is black."
    return Section("Runs of each arm", [], [table], [Figure(curves, alt, caption)] if curves else [])


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) < 2:
        return format_value(values[0] if values else None)
    return format_value(float(np.mean(values)), float(np.std(values, ddof=1)))


def reading_section(study: optuna.Study) -> Section:
    """What the metrics are, which direction is better, and what the controls are for."""
    known = [
        study.user_attrs.get("baseline", {}).get("performer", {}),
        *(t.user_attrs["metrics"] for t in complete_trials(study)),
    ]
    rows: list[list[Cell]] = [
        [words(m.key), m.better, m.meaning] for m in METRICS if m.shown and any(m.key in metrics for metrics in known)
    ]
    text = [
        "All metrics are of the test images. The row “performer” is the classifier that is explained, measured in the same "
        "way; “random” are random peaks, and “centre” is a peak that sits at the crop's centre.",
        "On crops of real objects the parts move little, so a filter that fires at a fixed place has a low location "
        "instability without seeing anything. Read instability beside the centre control and part tracking.",
    ]
    return Section("How to read the numbers", text, [Table(["metric", "better", "what it is"], rows, "Metrics")])


def importance_section(shares: Mapping[str, Mapping[str, float]], picture: Path) -> Section | None:
    """What each hyperparameter is worth; None with too few trials."""
    if not shares:
        return None
    names = list(dict.fromkeys(name for share in shares.values() for name in share))
    names.sort(key=lambda n: -sum(share.get(n, 0.0) for share in shares.values()))
    rows: list[list[Cell]] = [[n, *(share.get(n) for share in shares.values())] for n in names]
    text = "PED-ANOVA: how much a hyperparameter decides whether a trial is among the best of an objective. Shares of one."
    top = ", ".join(f"{max(share, key=share.__getitem__)} for {words(m)}" for m, share in shares.items() if share)
    figure = Figure(picture, f"Bars of the importances in the table above; the most important are {top}.")
    table = Table(["hyperparameter", *map(words, shares)], rows, "Importance for each objective")
    return Section("What each hyperparameter is worth", [text], [table], [figure] if picture.exists() else [])


def search_sections(sweep: SweepConfig, folder: Path) -> list[Section]:
    """A section for each kind of figure, as far as they are drawn."""
    sections = []
    for kind in KINDS:
        files = {m: folder / f"{kind.name}_{m}.png" for m in sweep.objectives}
        figures = [
            Figure(file, f"{kind.title}, {words(m)}: {kind.shows}.", f"{words(m).capitalize()}: {kind.shows}.")
            for m, file in files.items()
            if file.exists()
        ]
        if figures:
            sections.append(Section(kind.title, [], figures=figures))
    return sections


def curves_section(front: int, others: int, left_out: int, picture: Path) -> Section:
    """The learning curves of the trials.

    Args:
        front, others: number of trials that are drawn in colour and in grey.
        left_out: number of trials that are not drawn.
    """
    caption = f"On the test images, after each epoch. In colour: {_counted(front, 'trial')} of the front. Grey: {others} others"
    caption += f"; {left_out} more are not drawn." if left_out else "."
    alt = f"Learning curves by epoch: {front} trials of the front in colour, {others} others in grey."
    return Section("Learning curves", [], figures=[Figure(picture, alt, caption)])


def _filters_of(sweep: SweepConfig, trial: FrozenTrial) -> Path:
    return trial_folder(sweep.name, trial.number) / "filters.png"


def filters_section(sweep: SweepConfig, front: Sequence[FrozenTrial]) -> Section | None:
    """What the filters of the front see, as far as it is drawn; None if nothing is."""
    pages = [(t, page) for t in shown_filters(front, sweep) if (page := _filters_of(sweep, t)).exists()]
    if not pages:
        return None
    text = [
        "Each row stands for all filters that say the same thing: the most stable one, on the test images that fire it most. The "
        "point is its peak, the square its receptive field, the line where its activation is half of its largest. It has a "
        "part's name, with its tracking of that part, only where that beats chance; below is its location instability. Rows are "
        "in the order of what they contribute to the performer's answers. On the left the explainer's interpretable filters, "
        "on the right the performer's own.",
    ]
    if len(front) > len(pages):
        text.append(f"The knee and the best by the first objective, {len(pages)} of the front's {len(front)} trials.")
    figures = [
        Figure(page, f"Filters of {label(t)} on the test images that fire them most.", f"{label(t).capitalize()}.")
        for t, page in pages
    ]
    return Section("What the filters see", text, figures=figures)
