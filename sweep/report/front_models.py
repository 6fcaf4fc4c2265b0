"""The explainers of a front as models of MLflow, made while figures and pages are drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from paraphrase.core.errors import first_line
from paraphrase.core.explainer.checkpoint import EXPLAINER as WEIGHTS
from paraphrase.core.measure.metrics import short_name
from paraphrase.core.terminal.console import say
from paraphrase.sweep.record.logged_models import try_to_log_models
from paraphrase.sweep.record.models import Export, Wanted
from paraphrase.sweep.record.recorder import Recorder
from paraphrase.sweep.record.tracking import Tracker
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import EXPLAINER, store_of, trial_folder
from paraphrase.sweep.study.results import metrics_of
from paraphrase.sweep.study.study import STORED


@contextmanager
def models_of(trials: Sequence[FrozenTrial], sweep: SweepConfig, meta: Mapping[str, Any], recorder: Recorder) -> Iterator[None]:
    """Make models of trials meanwhile, and log them at the end; without them the record is as whole.

    Args:
        trials: the first one's model is also made with the performer, of images; that may be large.
        meta: of their cache.
    """
    problems: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch, wanted = Path(folder), {}
        for trial in trials:
            performer = Path(meta["performer_folder"])
            of_images = str(performer) if trial is trials[0] and performer.exists() else None
            try:
                explainer = str(_brought(sweep, trial, scratch / EXPLAINER / str(trial.number)))
            except Exception as error:  # of the store
                problems[trial.number] = first_line(error)
                continue
            out = str(scratch / "models" / str(trial.number))
            wanted[trial.number] = Wanted(explainer, meta["channels"], meta["map_size"], out, of_images)
        export = Export(wanted) if wanted else None
        yield
        problems |= export.problems() if export else {}
        for trial in trials:
            if trial.number not in problems:
                measured = ", ".join(f"{short_name(key)} {value:.4g}" for key, value in metrics_of(trial).items())
                logged = recorder.experiment, trial.user_attrs["mlflow_run"], Path(wanted[trial.number].out), measured
                if problem := recorder.now(Tracker.with_client, try_to_log_models, *logged):
                    problems[trial.number] = problem
    for number, problem in problems.items():
        say(f"trial {number}: is no model in MLflow: {problem}")


def _brought(sweep: SweepConfig, trial: FrozenTrial, scratch: Path) -> Path:
    """The folder of a trial's explainer: in this home, else brought from the store."""
    folder, store = trial_folder(sweep.name, trial.number) / EXPLAINER, store_of(sweep)
    if store is None or (folder / WEIGHTS).exists():
        return folder
    store.get(trial.user_attrs[STORED], scratch)
    return scratch
