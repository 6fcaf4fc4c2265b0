"""What a sweep found: as data, tables, CSV, and the one trial to go on with."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from paraphrase.core.errors import InputError
from paraphrase.core.measure.metrics import KEYS, metric_of, metrics_rows
from paraphrase.core.measure.verdicts import verdicts
from paraphrase.core.terminal.console import say
from paraphrase.core.terminal.tables import text_table
from paraphrase.sweep.settings.config import MEASURED, SweepConfig
from paraphrase.sweep.settings.folder import read_sweep, storage_url, sweep_names
from paraphrase.sweep.settings.space import short_names
from paraphrase.sweep.study.study import (
    STATE_NAMES,
    budget,
    open_study,
    own_trials,
    pareto_trials,
    refuse_lost_study,
    study_exists,
)


def load(name: str) -> tuple[SweepConfig, optuna.Study | None]:
    """A sweep's configuration and study; None for the study if the driver was killed before it made one.

    Raises:
        InputError: if there is no such sweep, or its study is lost.
    """
    sweep = read_sweep(name)
    url = storage_url(sweep)
    if study_exists(url, name):
        return sweep, open_study(sweep, url)
    refuse_lost_study(sweep)
    return sweep, None


def metrics_of(trial: FrozenTrial) -> dict[str, float]:
    """The trial's metrics under their public keys."""
    metrics = trial.user_attrs.get("metrics", {})
    return {key: metrics[key] for key in KEYS if metrics.get(key) is not None}


def describe(name: str) -> dict[str, Any]:
    """A sweep as plain data: name, budget, trials by state, objectives, performer, controls, pareto and seconds."""
    sweep, study = load(name)
    counts = dict.fromkeys(STATE_NAMES.values(), 0)
    attributes: Mapping[str, Any] = {}
    pareto: list[dict[str, Any]] = []
    if study is not None:
        attributes = study.user_attrs
        for trial in own_trials(study):
            counts[STATE_NAMES[trial.state]] += 1
        pareto = [
            {"number": t.number, "params": t.params, "metrics": metrics_of(t), "run_id": t.user_attrs.get("mlflow_run")}
            for t in pareto_trials(study, sweep.constraints)
        ]
    rows = attributes.get("baseline", {})
    return {
        "name": name,
        "budget": budget(sweep),
        "trials": counts,
        "objectives": dict(sweep.objectives),
        "performer": rows.get("performer", {}),
        "controls": {k: v for k, v in rows.items() if k != "performer"},
        "pareto": pareto,
        "seconds": attributes.get("seconds", 0.0),
    }


def describe_all() -> list[dict[str, Any]]:
    """Every sweep: name, budget, trials by state and seconds; one that cannot be read is said, and left out."""
    keys, found = ("name", "budget", "trials", "seconds"), []
    for name in sweep_names():
        try:
            description = describe(name)
        except InputError as error:
            say(str(error))
        else:
            found.append({key: description[key] for key in keys})
    return found


class Front(NamedTuple):
    """The Pareto front as cells of tables, the headings first."""

    metrics: list[list[str]]
    """A row for the performer, each control and each trial of the front."""
    params: list[list[str]]
    """A row for each trial of the front, a column for each field that was searched."""
    note: str
    """What there is to say below, in lines: what is plainly wrong; may be empty."""


def front_of(study: optuna.Study, sweep: SweepConfig) -> Front:
    """The Pareto front, best by the first objective first, beneath the performer's row and the controls."""
    rows: dict[str, Mapping[str, float]] = dict(study.user_attrs.get("baseline", {}))
    front = pareto_trials(study, sweep.constraints)
    front = sorted(front, key=lambda t: t.values[0], reverse=next(iter(sweep.objectives.values())) == "maximize")
    rows |= {f"trial {t.number}": t.user_attrs["metrics"] for t in front}
    names = short_names(list(sweep.space))
    params = [["", *names.values()]]
    params += [[f"trial {t.number}", *(_short(t.params.get(path)) for path in names)] for t in front]
    notes = [] if front else ["no complete trial" + (" keeps the constraints" if sweep.constraints else "")]
    notes += [study.user_attrs["performer_verdict"]] if study.user_attrs.get("performer_verdict") else []
    baseline = study.user_attrs.get("baseline", {})
    notes += [line for t in front for line in verdicts(t.user_attrs["metrics"], baseline, f"trial {t.number}")]
    return Front(metrics_rows(rows, KEYS + tuple(m for m in sweep.objectives if m not in KEYS)), params, "\n".join(notes))


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def front_text(study: optuna.Study, sweep: SweepConfig) -> str:
    """`front_of` as a text."""
    front = front_of(study, sweep)
    parts = [text_table(front.metrics), text_table(front.params) if len(front.params) > 1 else "", front.note]
    return "\n\n".join(part for part in parts if part)


def trial_rows(name: str) -> tuple[list[str], list[list[Any]]]:
    """Of each trial: number, state, whether on the front, epochs, seconds, parameters, metrics, and the reason.

    Returns:
        Names of the columns, and a row a trial.

    Raises:
        InputError: if there is no such sweep, or it has no trials yet.
    """
    sweep, study = load(name)
    if study is None:
        raise InputError(f"sweep {name}: has no trials yet; start it with `paraphrase sweep resume {name}`")
    trials = own_trials(study)
    front = {t.number for t in pareto_trials(study, sweep.constraints)}
    every_metric = {m for t in trials for m in t.user_attrs.get("metrics", {})}
    metrics = [m for m in MEASURED if m in every_metric and m != "seconds"]
    of_landmarks = (m for m in every_metric if m not in MEASURED and metric_of(m) and not re.search(r"_(se|r\d+)$", m))
    metrics += sorted(of_landmarks)
    metrics += [f"{m}_se" for m in metrics if f"{m}_se" in every_metric]
    params = list(sweep.space)
    rows = []
    for t in trials:
        attributes = t.user_attrs
        row = [t.number, STATE_NAMES[t.state], int(t.number in front), attributes.get("epochs"), attributes.get("seconds")]
        row += [t.params.get(p) for p in params]
        row += [attributes.get("metrics", {}).get(m) for m in metrics]
        rows.append([*row, attributes.get("reason")])
    return ["number", "state", "pareto", "epochs", "seconds", *params, *metrics, "reason"], rows


def export_csv(name: str) -> str:
    """`trial_rows` as CSV."""
    header, rows = trial_rows(name)
    out = StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    return out.getvalue()


def parse_bounds(texts: Iterable[str]) -> list[tuple[str, str, float]]:
    """Texts like `p>=0.9` as (metric, sign, value).

    Raises:
        InputError: if one is none.
    """
    bounds = []
    for text in texts:
        match = re.fullmatch(r"\s*([\w ]*\w)\s*(<=|>=|<|>)\s*([-+.0-9eE]+)\s*", text)
        try:
            bounds.append((match[1], match[2], float(match[3])))  # type: ignore[index]
        except (TypeError, ValueError):
            raise InputError(f'--where {text}: expected a bound such as "p>=0.9"') from None
        if bounds[-1][0] not in MEASURED and metric_of(bounds[-1][0]) is None:
            raise InputError(f"--where {text}: unknown metric; allowed are {', '.join(KEYS)}")
    return bounds


def _keeps(metrics: Mapping[str, float], bounds: Iterable[tuple[str, str, float]]) -> bool:
    tests = {"<=": np.less_equal, ">=": np.greater_equal, "<": np.less, ">": np.greater}
    return all(metrics.get(m) is not None and bool(tests[sign](metrics[m], limit)) for m, sign, limit in bounds)


def pick(name: str, where: Iterable[str] = ()) -> FrozenTrial:
    """One trial of the front: the knee point, or under bounds the best of those that keep them.

    The knee point is the trial nearest to the ideal point when every objective is scaled so that its best value on the
    front is 0 and its worst 1. Under bounds, the best is by the first objective that no bound names.

    Raises:
        InputError: if there is no such trial.
    """
    sweep, study = load(name)
    bounds = parse_bounds(where)
    front = pareto_trials(study, sweep.constraints) if study is not None else []
    if not front:
        raise InputError(f"sweep {name}: no trial is complete and keeps the constraints yet")
    if not bounds:
        return knee(front, list(sweep.objectives.values()))
    kept = [t for t in front if _keeps(t.user_attrs["metrics"], bounds)]
    if not kept:
        best = ", ".join(_best_reached(front, m, sign) for m, sign, _ in bounds)
        raise InputError(f"sweep {name}: no trial of the front keeps {', '.join(where)}; the front reaches {best}")
    metric = _first_free(sweep, bounds)
    index = list(sweep.objectives).index(metric)
    sign = -1.0 if sweep.objectives[metric] == "maximize" else 1.0
    return min(kept, key=lambda t: sign * t.values[index])


def picking_rule(name: str, where: Iterable[str] = ()) -> str:
    """In words, by which rule `pick` chooses."""
    sweep, bounds = read_sweep(name), parse_bounds(where)
    if not bounds:
        return "the knee of the front: nearest to the best of every objective, each scaled to its range on the front"
    metric = _first_free(sweep, bounds)
    least = "most" if sweep.objectives[metric] == "maximize" else "least"
    return f"of the front's trials that keep {' and '.join(where)}, the one of the {least} {metric}"


def _first_free(sweep: SweepConfig, bounds: Sequence[tuple[str, str, float]]) -> str:
    """The first objective that no bound names, else the first."""
    named = {metric for metric, _, _ in bounds}
    return next((metric for metric in sweep.objectives if metric not in named), next(iter(sweep.objectives)))


def _best_reached(front: list[FrozenTrial], metric: str, sign: str) -> str:
    values = [t.user_attrs["metrics"][metric] for t in front if t.user_attrs["metrics"].get(metric) is not None]
    if not values:
        return f"no {metric}"
    return f"{metric} {max(values) if sign.startswith('>') else min(values):.4g}"


def knee(front: list[FrozenTrial], directions: list[str]) -> FrozenTrial:
    """The trial nearest to the ideal point, objectives scaled to [0, 1] over the front."""
    signs = np.array([1.0 if d == "minimize" else -1.0 for d in directions])
    costs = signs * np.array([t.values for t in front], dtype=np.float64)
    low, span = costs.min(0), np.ptp(costs, axis=0)
    scaled = (costs - low) / np.where(span > 0, span, 1.0)
    return front[int(np.linalg.norm(scaled, axis=1).argmin())]


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of this sweep that reached their last epoch."""
    return [t for t in own_trials(study) if t.state == TrialState.COMPLETE]


def why_none_is_complete(study: optuna.Study) -> str:
    """What the trials of a sweep in which none is complete ended of, the most frequent reason first."""
    reasons = Counter(str(t.user_attrs.get("reason", STATE_NAMES[t.state])) for t in own_trials(study))
    return "; ".join(f"{reason} ({count} of {reasons.total()})" for reason, count in reasons.most_common(3)) or "there is none"
