"""What is written once the budget is spent: figures, the front's filter pages and its table, into MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

from sweep.figures import draw_figures, importances, plain_copy
from sweep.folder import sweep_folder, trial_folder, write_atomically
from sweep.results import describe, export_csv, front_table
from sweep.study import own_trials, pareto_trials

if TYPE_CHECKING:
    from sweep.driver import Session


def write_report(session: Session) -> None:
    """Draw and write everything that belongs to the sweep as a whole; nothing is doubled when it is done again."""
    study, sweep = session.study, session.sweep
    folder = sweep_folder(sweep.name) / "report"
    front = pareto_trials(study, sweep.constraints)
    copy = plain_copy(study, own_trials(study))
    if copy.trials:
        performer = study.user_attrs["baseline"]["performer"]
        for file in draw_figures(copy, {t.number for t in front}, performer, folder):
            session.tracker.log_artifact(file)
        write_atomically(folder / "importance.json", json.dumps(importances(copy), indent=2))
        session.tracker.log_artifact(folder / "importance.json")
    for trial in front:
        page = _filter_page(session, trial)
        session.tracker.log_artifact(page, trial.number)
        session.tracker.mark_front(trial.number)
    write_atomically(folder / "pareto.json", json.dumps(describe(sweep.name), indent=2))
    write_atomically(folder / "trials.csv", export_csv(sweep.name))
    write_atomically(folder / "pareto.txt", front_table(study, sweep) + "\n")
    for name in ("pareto.json", "trials.csv", "pareto.txt"):
        session.tracker.log_artifact(folder / name)


def _filter_page(session: Session, trial: FrozenTrial) -> Path:
    """The page of the trial's filters (figure 3 of the paper); drawn once."""
    folder = trial_folder(session.sweep.name, trial.number)
    page = folder / "filters.png"
    if not page.exists():
        from core.config import to_mapping
        from core.filters_page import draw_filters
        from sweep.space import resolve

        config = resolve(trial.params, session.sweep.space, to_mapping(session.sweep.base_config()))
        draw_filters(config, session.cache, folder / "explainer", page)
    return page
