"""What a sweep found: as data, tables, CSV, and the one trial to go on with."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from core.errors import InputError
from sweep.config import EXTRA_METRICS, METRICS, SweepConfig
from sweep.folder import read_sweep, storage_url, sweep_names
from sweep.space import run_name
from sweep.study import STATE_NAMES, budget, open_study, own_trials, pareto_trials, study_exists


def load(name: str) -> tuple[SweepConfig, optuna.Study | None]:
    """A sweep's configuration and study; None for the study if the driver was killed before it made one.

    Raises:
        InputError: if there is no such sweep.
    """
    sweep = read_sweep(name)
    url = storage_url(sweep)
    return sweep, open_study(sweep, url) if study_exists(url, name) else None


def metrics_of(trial: FrozenTrial) -> dict[str, float]:
    """The trial's metrics under their public keys."""
    metrics = trial.user_attrs.get("metrics", {})
    return {key: metrics[key] for key in METRICS if metrics.get(key) is not None}


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
    """Every sweep: name, budget, trials by state and seconds."""
    keys = ("name", "budget", "trials", "seconds")
    return [{key: description[key] for key in keys} for description in map(describe, sweep_names())]


def front_table(study: optuna.Study, sweep: SweepConfig) -> str:
    """The Pareto front as a table, below the performer's row and the controls."""
    from core.tables import metrics_table

    rows: dict[str, Mapping[str, float]] = dict(study.user_attrs.get("baseline", {}))
    front = pareto_trials(study, sweep.constraints)
    for trial in sorted(front, key=lambda t: t.values[0], reverse=next(iter(sweep.objectives.values())) == "maximize"):
        rows[run_name(trial.number, trial.params)] = trial.user_attrs["metrics"]
    keys = METRICS + tuple(m for m in sweep.objectives if m not in METRICS)
    note = "" if front else "\nno complete trial" + (" keeps the constraints" if sweep.constraints else "")
    return metrics_table(rows, keys) + note


def export_csv(name: str) -> str:
    """One row a trial: number, state, whether on the front, epochs, seconds, parameters, metrics, and the reason."""
    sweep, study = load(name)
    if study is None:
        raise InputError(f"sweep {name}: has no trials yet; start it with `paraphrase sweep resume {name}`")
    trials = own_trials(study)
    front = {t.number for t in pareto_trials(study, sweep.constraints)}
    every_metric = {m for t in trials for m in t.user_attrs.get("metrics", {})}
    metrics = [m for m in METRICS + EXTRA_METRICS if m in every_metric and m != "seconds"]
    metrics += [f"{m}_se" for m in metrics if f"{m}_se" in every_metric]
    params = list(sweep.space)
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "state", "pareto", "epochs", "seconds", *params, *metrics, "reason"])
    for t in trials:
        attributes = t.user_attrs
        row = [t.number, STATE_NAMES[t.state], int(t.number in front), attributes.get("epochs"), attributes.get("seconds")]
        row += [t.params.get(p) for p in params]
        row += [attributes.get("metrics", {}).get(m) for m in metrics]
        writer.writerow([*row, attributes.get("reason")])
    return out.getvalue()


def parse_bounds(texts: Iterable[str]) -> list[tuple[str, str, float]]:
    """Texts like `p>=0.9` as (metric, sign, value).

    Raises:
        InputError: if one is none.
    """
    bounds = []
    for text in texts:
        match = re.fullmatch(r"\s*([a-z_0-9]+)\s*(<=|>=|<|>)\s*([-+.0-9eE]+)\s*", text)
        try:
            bounds.append((match[1], match[2], float(match[3])))  # type: ignore[index]
        except (TypeError, ValueError):
            raise InputError(f'--where {text}: expected a bound such as "p>=0.9"') from None
        if bounds[-1][0] not in METRICS + EXTRA_METRICS:
            raise InputError(f"--where {text}: unknown metric; allowed are {', '.join(METRICS)}")
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
    named = {m for m, _, _ in bounds}
    objectives = list(sweep.objectives)
    index = next((i for i, m in enumerate(objectives) if m not in named), 0)
    sign = -1.0 if sweep.objectives[objectives[index]] == "maximize" else 1.0
    return min(kept, key=lambda t: sign * t.values[index])


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
