"""What Optuna Dashboard shows of a study beside its values: notes that lead to MLflow's runs, and pages as artifacts.

`optuna-dashboard sqlite:///.paraphrase/studies.db --artifact-dir .paraphrase/artifacts`; the extra `dashboard` brings it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import FrozenTrial

from paraphrase.core.home import home
from paraphrase.sweep.record.views import MODE
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import tracking_uri, trial_folder, without_password


def furnish(
    sweep: SweepConfig, study: optuna.Study, front: Sequence[FrozenTrial], experiment: str, pages: Mapping[str, Path]
) -> None:
    """Write notes of the study and of the trials of its front, where the dashboard is installed, and add pages to its artifacts.

    Args:
        experiment: id of MLflow's experiment.
        pages: the name that a page is to have -> its file; one that is there already is left.
    """
    known = {meta.filename for meta in get_all_artifact_meta(study)}
    store = home() / "artifacts"
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, page in pages.items():
            if name not in known and page.exists():
                (link := Path(folder) / name).symlink_to(page.resolve())
                upload_artifact(artifact_store=FileSystemArtifactStore(store), file_path=str(link), study_or_trial=study)
    if find_spec("optuna_dashboard") is None:
        return
    from optuna_dashboard import save_note

    save_note(study, f"`paraphrase report {sweep.name}` draws its report, `paraphrase ui {sweep.name}` opens it in MLflow.")
    for trial in front:
        # it takes a trial that is running; of it, these
        addressed: Any = SimpleNamespace(storage=study._storage, study=study, _trial_id=trial._trial_id)
        save_note(addressed, _note(sweep, trial, experiment))


def _note(sweep: SweepConfig, trial: FrozenTrial, experiment: str) -> str:
    uri = tracking_uri(sweep)
    server = without_password(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    run = f"{server}/#/experiments/{experiment}/runs/{trial.user_attrs['mlflow_run']}?{MODE}"
    also = "" if uri.startswith("http") else f" (while `paraphrase ui {sweep.name}` runs)"
    explainer = trial_folder(sweep.name, trial.number) / "explainer"
    return f"On the front. [Its run in MLflow]({run}){also}.\n\n`paraphrase explain --explainer {explainer}`"
