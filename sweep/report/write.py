"""What is written once the budget is spent: figures, the front's filter pages, its table and the report, into MLflow."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from paraphrase.core.errors import InputError
from paraphrase.core.files import fit_for_output, write_atomically
from paraphrase.core.terminal.console import say
from paraphrase.sweep.process import Process
from paraphrase.sweep.record.facts import facts
from paraphrase.sweep.record.recorder import Recorder
from paraphrase.sweep.record.tracking import Tracker, log_to_parent
from paraphrase.sweep.record.views import params_of, searched_of, share_view
from paraphrase.sweep.report.dashboard import furnish
from paraphrase.sweep.report.figures import draw_figures, plain_copy
from paraphrase.sweep.report.front_models import models_of
from paraphrase.sweep.report.page import Section
from paraphrase.sweep.report.sections import shown_filters
from paraphrase.sweep.report.sweep_page import arms_of, write_sweep_page
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import EXPLAINER, store_of, sweep_folder, sweep_key, tracking_uri, trial_folder
from paraphrase.sweep.study.results import describe, export_csv, front_text, load
from paraphrase.sweep.study.study import STORED, identity_of, own_trials, pareto_trials
from paraphrase.sweep.workers.tasks import Tasks


def write_report(sweep: SweepConfig, study: optuna.Study, recorder: Recorder, tasks: Tasks) -> None:
    """Draw and write everything that belongs to the sweep as a whole; nothing is doubled when it is done again."""
    folder = sweep_folder(sweep.name) / "report"
    front = pareto_trials(study, sweep.constraints)
    shown = shown_filters(front, sweep)
    for trial in front:
        recorder.later(Tracker.know, trial.number, trial.user_attrs["mlflow_run"])
        recorder.later(Tracker.mark_front, trial.number)
    pages: dict[str, Path] = {}
    models = [] if arms_of(sweep) else [*shown, *(t for t in front if t not in shown)]
    logged: list[tuple[Path, int | None]] = []
    with closing(Process("draws the figures")) as process, models_of(models, sweep, tasks.meta, recorder):
        if figures := _figures_of(sweep, study, folder):
            process.begin(draw_figures, *figures)
        for trial in shown:
            drawn = _filter_pages(sweep, tasks, trial)
            logged += [(page, trial.number) for page in drawn]
            pages |= {f"trial-{trial.number}-{page.name}": page for page in drawn}
        if figures:
            logged += [(file, None) for file in process.answer()]
    write_atomically(folder / "pareto.json", json.dumps(describe(sweep.name), indent=2))
    write_atomically(folder / "trials.csv", export_csv(sweep.name))
    write_atomically(folder / "pareto.txt", front_text(study, sweep) + "\n")
    write_atomically(folder / "facts.json", json.dumps(facts(), indent=2))
    write_sweep_page(sweep.name, ask=functools.partial(recorder.now, Tracker.with_client))
    names = ("pareto.json", "trials.csv", "pareto.txt", "facts.json", "curves.png", "report.html")
    for file, number in [*logged, *((folder / name, None) for name in names)]:
        recorder.now(Tracker.log_artifact, file, number)
    if front:
        params = recorder.now(Tracker.with_client, params_of, front[0].user_attrs["mlflow_run"])
        view = sweep.experiment, identity_of(study), sweep.objectives, searched_of(params, sweep.space)
        recorder.now(Tracker.with_client, share_view, *view)
        furnish(sweep, study, front, recorder.experiment, pages)
    if store := store_of(sweep):
        store.put(folder, f"{sweep_key(sweep.name)}/report")


def _figures_of(sweep: SweepConfig, study: optuna.Study, folder: Path) -> list[Any]:
    """Arguments of `draw_figures`; none where there is nothing to draw.

    A grid of arms is no search: it has neither a front nor importances.
    """
    copy = plain_copy(study, own_trials(study))
    if arms_of(sweep) or not copy.trials:
        return []
    front = {t.number for t in pareto_trials(study, sweep.constraints)}
    return [copy, front, study.user_attrs.get("baseline", {}).get("performer", {}), folder]


def _filter_pages(sweep: SweepConfig, tasks: Tasks, trial: FrozenTrial) -> list[Path]:
    """The page of the trial's filters (figure 3 of the paper) and the gallery of all of them; drawn once."""
    folder = trial_folder(sweep.name, trial.number)
    pages = [folder / "filters.png", folder / "gallery.html"]
    if not all(page.exists() for page in pages):
        from paraphrase.core.config import to_mapping
        from paraphrase.sweep.settings.space import resolve

        config = resolve(trial.params, sweep.space, to_mapping(sweep.base_config()))
        try:
            tasks.pages(config, folder / EXPLAINER, trial.user_attrs.get(STORED), pages)
        except InputError as error:  # on a cluster the images may lie on one node alone
            say(f"trial {trial.number}: its filters are not drawn: {error}")
    return pages


def report_again(name: str, out: Path | None = None, more: Sequence[Section] = ()) -> Path:
    """Draw and write the report of a sweep from its study, finished or not; returns the page.

    Args:
        out: the HTML file; None: the one in the sweep's folder, which is also logged to its parent run.
        more: sections below the summary.

    Raises:
        InputError: if there is no such sweep or it has no study yet, or the file cannot be written.
    """
    sweep, study = load(name)
    if study is None:
        raise InputError(f"sweep {name}: has no trials yet; start it with `paraphrase sweep resume {name}`")
    out = fit_for_output(out) if out else None
    try:
        if figures := _figures_of(sweep, study, sweep_folder(name) / "report"):
            draw_figures(*figures)
        page = write_sweep_page(name, out, more)
    except OSError as error:
        raise InputError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    if out is None:
        log_to_parent(tracking_uri(sweep), sweep.experiment, identity_of(study), [page])
    return page
