"""The report of a sweep, or of a suite of arms, put together from its study, its runs and what is drawn in its folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from paraphrase.core.files import read_text
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.record.facts import facts
from paraphrase.sweep.record.reading import histories, record_of
from paraphrase.sweep.report.curves import draw_curves, draw_trials
from paraphrase.sweep.report.figures import IMPORTANCES
from paraphrase.sweep.report.page import Section, write_page
from paraphrase.sweep.report.provenance import provenance_sections
from paraphrase.sweep.report.sections import (
    arms_section,
    curves_section,
    filters_section,
    front_section,
    importance_section,
    in_order,
    label,
    reading_section,
    search_sections,
    states_of,
    summary_section,
)
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import sweep_folder, tracking_uri
from paraphrase.sweep.study.results import knee, load
from paraphrase.sweep.study.study import budget, finished_trials, identity_of, own_trials, pareto_trials

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Ask = Callable[..., Any]
"""(function, its arguments but for the client) -> what it returns."""

CURVES = ("location_instability", "p", "reconstruction_error")
"""Metrics whose learning curves are drawn, after the objectives."""

MOST_OTHERS = 60
"""Most learning curves of trials that are not on the front."""


def write_sweep_page(name: str, out: Path | None = None, more: Sequence[Section] = (), ask: Ask | None = None) -> Path:
    """Write the page of a sweep, or of a suite of arms, from its study, its runs and what is drawn in its folder.

    Args:
        out: the HTML file; None: `report.html` in the sweep's report folder.
        more: sections below the summary, such as a suite's comparisons.
        ask: calls functions of a client of MLflow, and of arguments; None: here.

    Raises:
        InputError: if there is no such sweep.
    """
    sweep, study = load(name)
    assert study is not None, f"sweep {name} has no study"
    folder = sweep_folder(name) / "report"
    ask = ask or functools.partial(_call, open_client(tracking_uri(sweep)))
    front = pareto_trials(study, sweep.constraints)
    arms = arms_of(sweep)
    if arms:
        found = [arms_section(sweep, study, arms, _draw_arms(ask, sweep, study, arms, folder / "curves.png"))]
    else:
        found = _search_sections(ask, sweep, study, front, folder)
    picked = knee(front, list(sweep.objectives.values())) if front and not arms else None
    record = ask(record_of, sweep.experiment, identity_of(study))
    if not arms:
        record["runs"] |= {label(t): t.user_attrs["mlflow_run"] for t in in_order(front, sweep) if "mlflow_run" in t.user_attrs}
    sections = [
        summary_section(sweep, study, None if arms else front),
        *more,
        *found[:1],
        reading_section(study),
        *found[1:],
        *provenance_sections(sweep, _facts(folder), record, picked),
    ]
    ended, wanted = len(finished_trials(study)), budget(sweep)
    lead = f"{ended} of {wanted} trials have ended ({states_of(study)})"
    lead += "." if ended >= wanted else "; the sweep is not finished, and this page shows what is there so far."
    kind = "Ablation suite" if arms else "Sweep"
    return write_page(f"{kind} {name}", lead, sections, out or folder / "report.html")


def _call(client: MlflowClient, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(client, *arguments)


def arms_of(sweep: SweepConfig) -> str | None:
    """The preset dimension in which a grid compares arms with a base that changes nothing, as in a suite of ablations.

    None for a search.
    """
    bases = [path for path, dimension in sweep.space.items() if {} in dimension.presets.values()]
    return bases[0] if bases and sweep.sampler == "grid" else None


def _search_sections(
    ask: Ask, sweep: SweepConfig, study: optuna.Study, front: Sequence[FrozenTrial], folder: Path
) -> list[Section]:
    """What only a search has: front, importance, history, learning curves of trials, filters."""
    shares = json.loads(read_text(folder / IMPORTANCES)) if (folder / IMPORTANCES).exists() else {}
    sections = [
        front_section(sweep, study, front, folder / "pareto_front.png"),
        importance_section(shares, folder / "importance.png"),
        *search_sections(sweep, folder),
        _draw_trial_curves(ask, sweep, study, front, folder / "curves.png"),
        filters_section(sweep, front),
    ]
    return [section for section in sections if section]


def _curve_metrics(sweep: SweepConfig) -> list[str]:
    return list(dict.fromkeys([*sweep.objectives, *CURVES]))


def _draw_trial_curves(
    ask: Ask, sweep: SweepConfig, study: optuna.Study, front: Sequence[FrozenTrial], out: Path
) -> Section | None:
    ordered = in_order(front, sweep)
    numbers = {t.number for t in front}
    others = [t for t in own_trials(study) if t.number not in numbers and "mlflow_run" in t.user_attrs]
    drawn = [t for t in ordered if "mlflow_run" in t.user_attrs]
    shown = others[:MOST_OTHERS]
    curves = ask(histories, [t.user_attrs["mlflow_run"] for t in [*drawn, *shown]], _curve_metrics(sweep))
    coloured = {label(t): c for t, c in zip(drawn, curves, strict=False)}
    if draw_trials(coloured, curves[len(drawn) :], out) is None:
        return None
    return curves_section(len(drawn), len(shown), len(others) - len(shown), out)


def _draw_arms(ask: Ask, sweep: SweepConfig, study: optuna.Study, dimension: str, out: Path) -> Path | None:
    presets = sweep.space[dimension].presets
    runs: dict[str, list[str]] = {arm: [] for arm in presets}
    for trial in own_trials(study):
        if "mlflow_run" in trial.user_attrs:
            runs[trial.params[dimension]].append(trial.user_attrs["mlflow_run"])
    groups = {arm: ask(histories, ids, CURVES) for arm, ids in runs.items()}
    return draw_curves(groups, out, next((arm for arm, fields in presets.items() if not fields), None))


def _facts(folder: Path) -> dict[str, Any]:
    """Versions and hardware as the driver noted them at the end of the sweep, else those of this process."""
    with suppress(OSError, ValueError, TypeError, KeyError):  # not there, or damaged
        noted = json.loads(read_text(folder / "facts.json"))
        return noted | {"when": f"As they were when the budget was spent, {noted['time']}."}
    now = facts()
    return now | {"when": f"These are of the process that wrote this page, {now['time']}, as the driver has noted none."}
