"""A finished sweep in the tools that people have: MLflow's models, data and views, and Optuna Dashboard."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import mlflow
import optuna
import pytest
import torch
from commands import PATIENCE, command
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note

import paraphrase
from paraphrase.core.errors import InputError
from paraphrase.core.performer import load_performer
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.record.logged_models import log_models
from paraphrase.sweep.record.models import Export, Wanted
from paraphrase.sweep.record.tracking import system_metrics
from paraphrase.sweep.record.views import SHARED_VIEW
from paraphrase.sweep.ui import free_port, page

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture
def there(swept: Path, home: Path) -> Path:
    """A copy of a home with a finished sweep."""
    shutil.copytree(swept, home, dirs_exist_ok=True)
    return home


@pytest.fixture
def client(there: Path) -> MlflowClient:
    return open_client(f"sqlite:///{there / 'mlflow.db'}")


def runs(client: MlflowClient) -> list[Run]:
    return list(client.search_runs([client.get_experiment_by_name("paraphrase").experiment_id]))


def best(client: MlflowClient) -> Run:
    return next(run for run in runs(client) if run.data.tags.get("pareto") == "true")


def test_explainers_of_the_front_are_models(client: MlflowClient, there: Path, tmp_path: Path) -> None:
    run = best(client)
    folder = there / "sweeps" / "damaged" / "trials" / run.data.tags["trial_number"] / "explainer"
    explainer, (performer, _) = paraphrase.load_explainer(folder), load_performer(next((there / "performers").iterdir()))
    images = torch.rand(3, 3, performer.spec.input_size, performer.spec.input_size)
    feature = performer.features(images).feature
    expected = explainer.interpret(feature)[-1]
    mlflow.set_tracking_uri(client.tracking_uri)
    model = mlflow.pytorch.load_model(f"runs:/{run.info.run_id}/explainer")
    assert torch.equal(model(feature), expected)
    on_image = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/image_explainer")
    assert on_image.metadata.signature.inputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, *images.shape[1:])
    assert torch.equal(torch.from_numpy(on_image.predict(images.numpy())), expected)
    before = [m.model_id for m in run.outputs.model_outputs]
    described = [client.get_logged_model(model).tags["mlflow.note.content"] for model in before]
    assert {text.partition(" ->")[0] for text in described} == {
        "The performer's feature",
        "Images in [0, 1], of the performer's size",
    }
    assert all(f"instab {run.data.metrics['location_instability']:.4g}" in text for text in described)
    channels, side = feature.shape[1:3]
    export = Export(
        {0: Wanted(str(folder), channels, side, str(tmp_path / "a")), 7: Wanted("no/such", channels, side, str(tmp_path / "b"))}
    )
    assert export.problems() == {7: "no/such/explainer.safetensors: there is no such checkpoint"}
    log_models(client, run.info.experiment_id, run.info.run_id, tmp_path / "a", "p 0.9")
    assert [m.model_id for m in client.get_run(run.info.run_id).outputs.model_outputs] == before and len(before) == 2


def test_the_sweep_s_run_names_data_and_commands_and_has_no_metric_of_our_own(client: MlflowClient) -> None:
    parent = next(run for run in runs(client) if run.data.tags["kind"] == "sweep")
    (data,) = parent.inputs.dataset_inputs
    assert data.dataset.name == "menagerie" and json.loads(data.dataset.profile)["images"]["train"] == 96
    assert "paraphrase report damaged" in parent.data.tags["mlflow.note.content"]
    assert "logging_share" in parent.data.tags and "logging_share" not in parent.data.metrics


def test_ui_opens_a_view_of_the_sweep_s_trials(client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("paraphrase")
    identity = best(client).data.tags["study_id"]
    view = json.loads(experiment.tags[SHARED_VIEW + identity])
    found = client.search_runs([experiment.experiment_id], view["searchFilter"])
    assert {run.data.tags["kind"] for run in found} == {"trial"} and len(found) == 2 and "groupBy" not in view
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`reconstruction_error`", True)
    (chart,) = view["compareRunCharts"]
    params = [set(run.data.params) for run in found]
    assert chart["selectedParams"] and all(set(chart["selectedParams"]) <= of_run for of_run in params)
    assert f"viewStateShareKey={identity}" in page(str(client.tracking_uri), "paraphrase", identity)


def test_optuna_dashboard_has_notes_pages_and_columns(client: MlflowClient, there: Path) -> None:
    study = optuna.load_study(study_name="damaged", storage=f"sqlite:///{there / 'studies.db'}")
    assert "paraphrase ui damaged" in get_note(study)
    run = best(client)
    trial = study.trials[int(run.data.tags["trial_number"])]
    notes = study._storage.get_study_system_attrs(study._study_id)
    assert f"/runs/{run.info.run_id}" in notes[f"dashboard:{trial._trial_id}:note_str:0"]
    assert f"trial-{trial.number}-filters.png" in {meta.filename for meta in get_all_artifact_meta(study)}
    assert isinstance(trial.user_attrs["fidelity"], float) and "reconstruction_error" not in trial.user_attrs


def test_this_machine_is_measured_where_mlflow_is_asked_to(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = next(run for run in runs(client) if run.data.tags["kind"] == "sweep").info.run_id
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with system_metrics(str(client.tracking_uri), parent):
        pass
    assert not [k for k in client.get_run(parent).data.metrics if k.startswith("system/")]
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    client.update_run(parent, status="RUNNING")  # of one that has ended nothing is measured
    with system_metrics(str(client.tracking_uri), parent):
        deadline = time.monotonic() + PATIENCE / 10
        while "system/cpu_utilization_percentage" not in client.get_run(parent).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("port", [-1, 0, 65536, 99999])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=f"^--port {port}: must be a number from 1 to 65535"):
        free_port(port)


def test_ui_serves_the_pages_and_ends_with_all_that_it_started(client: MlflowClient) -> None:
    port = free_port(5600)
    began = command("ui", "damaged", "--port", str(port), "--no-browser")
    with subprocess.Popen(began, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ui:
        try:
            assert ui.stdout
            address = ui.stdout.readline().strip()
            assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/") and "viewStateShareKey=" in address
            run = best(client).info.run_id
            for place in ("health", f"get-artifact?path=filters.png&run_uuid={run}"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{place}", timeout=60) as answer:
                    assert answer.status == 200 and (place == "health" or answer.read(4) == b"\x89PNG")
        finally:
            ui.terminate()
        assert ui.wait(60) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5).close()
