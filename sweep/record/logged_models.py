"""Logs the explainers that were made models to their runs in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraphrase.core.errors import first_line
from paraphrase.sweep.record.client import passing

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ON_FEATURE, ON_IMAGE = "explainer", "image_explainer"
"""Names of a run's models: of the performer's feature, and of an image."""
TAKES = {ON_FEATURE: "The performer's feature", ON_IMAGE: "Images in [0, 1], of the performer's size"}
"""What a model is of."""


def log_models(client: MlflowClient, experiment: str, run: str, folder: Path, measured: str) -> None:
    """Log the models of a folder to a run; one of a name that the run has already is left out.

    Args:
        experiment, run: ids.
        measured: on the test images, in words.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    outputs = client.get_run(run).outputs
    named = {output.model_id for output in (outputs.model_outputs if outputs else [])}
    known = {m.name: m for m in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'")}
    for saved in sorted(folder.iterdir()):
        about = f"{TAKES[saved.name]} -> maps of the interpretable filters. On the test images: {measured}."
        tags = {"mlflow.note.content": about}
        logged = known.get(saved.name) or client.create_logged_model(experiment, saved.name, run, tags)
        if logged.status == LoggedModelStatus.READY:
            continue
        model = Model.load(str(saved))
        model.run_id, model.model_id = run, logged.model_id
        model.save(str(saved / "MLmodel"))
        client.log_model_artifacts(logged.model_id, str(saved))
        if logged.model_id not in named:
            client.log_outputs(run, [LoggedModelOutput(logged.model_id, 0)])
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)  # last: until then it is gone on with


def try_to_log_models(client: MlflowClient, *arguments: Any) -> str:
    """Do `log_models`; why it cannot be done, as by a server without models, or nothing."""
    try:
        log_models(client, *arguments)
    except Exception as error:
        if passing(error):
            raise
        return first_line(error)
    return ""
