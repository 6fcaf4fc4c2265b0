from __future__ import annotations

import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from databases import tables_of, tables_stamped
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from paraphrase.core.errors import InputError
from paraphrase.core.terminal import console
from paraphrase.sweep.record.client import open_client, open_experiment
from paraphrase.sweep.record.tracking import Tracker, delete_runs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> MlflowClient:
    """A real sqlite store, which the tests share under different study names."""
    file = shutil.copy(empty_store, tmp_path_factory.mktemp("mlflow"))
    return open_client(f"sqlite:///{file}")


def tracker(store: MlflowClient, study: str, tmp_path: Path) -> Tracker:
    """A tracker as a new process would open it."""
    return Tracker(store, open_experiment(store, study, tmp_path.as_uri()), study, f"id of {study}", {"data_hash": "abc"})


def history(epochs: int, first: int = 1, late: int = 0) -> list[dict]:
    return [
        {"epoch": e, "timestamp": 1_700_000_000_000 + e * 1000 + late, "seconds": 1.0, "p": 0.5 + e / 100, "dead": None}
        for e in range(first, epochs + 1)
    ]


def series(store: MlflowClient, run: str, key: str = "p") -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in store.get_metric_history(run, key))


def test_child_runs_carry_parent_parameters_tags_and_metrics(store: MlflowClient, tmp_path: Path) -> None:
    one = tracker(store, "plain", tmp_path)
    run = one.start_trial(3, "003 eta=1", {"loss.eta": 1.0, "data.landmarks": {}, "long": "x" * 9000})
    one.log(3, history(4))
    (tmp_path / "config.yaml").write_text("a: 1")
    one.end_trial(3, "complete", None, [tmp_path / "config.yaml"], end=1_700_000_009_000)
    found = store.get_run(run)
    assert found.info.status == "FINISHED" and found.info.run_name == "003 eta=1"
    assert found.data.tags["mlflow.parentRunId"] == one.parent
    assert found.data.tags["data_hash"] == "abc" and found.data.tags["trial_number"] == "3"
    assert found.data.params["loss.eta"] == "1.0" and found.data.tags["trial_state"] == "complete"
    assert series(store, run) == [(e, 0.5 + e / 100) for e in range(1, 5)]
    assert "dead" not in found.data.metrics
    assert [f.path for f in store.list_artifacts(run)] == ["config.yaml"]


def test_killed_and_resumed_driver_leaves_neither_gaps_nor_doubles(store: MlflowClient, tmp_path: Path) -> None:
    first = tracker(store, "killed", tmp_path)
    run = first.start_trial(0, "000", {"loss.eta": 1.0})
    first.log(0, history(2))
    first.flush()
    first.log(0, history(3, first=3))  # waits, and is lost with the process
    second = tracker(store, "killed", tmp_path)
    assert second.parent == first.parent
    assert second.start_trial(0, "000", {"loss.eta": 1.0, "loss.kappa": 5.0}) == run
    second.log(0, history(4, late=77))  # the whole history; a repeated epoch may have another timestamp
    second.log(0, history(4))
    second.end_trial(0, "complete", None, [], end=None)
    third = tracker(store, "killed", tmp_path)
    assert third.start_trial(0, "000", {}) == run
    third.log(0, history(5))
    third.end_trial(0, "complete", None, [], end=None)
    assert series(store, run) == [(e, 0.5 + e / 100) for e in range(1, 6)]
    assert store.get_run(run).data.params == {"loss.eta": "1.0", "loss.kappa": "5.0"}
    runs = store.search_runs([second.experiment], "tags.study = 'killed'")
    assert Counter(r.data.tags["kind"] for r in runs) == {"sweep": 1, "trial": 1}


def test_sweeps_of_one_name_from_two_homes_have_runs_of_their_own(store: MlflowClient, tmp_path: Path) -> None:
    experiment = open_experiment(store, "shared", tmp_path.as_uri())
    mine, yours = (Tracker(store, experiment, "same", identity, {}) for identity in ("a1", "b2"))
    assert mine.parent != yours.parent
    assert mine.start_trial(0, "000", {"loss.eta": 1.0}) != yours.start_trial(0, "000", {"loss.eta": 2.0})
    delete_runs(str(store.tracking_uri), "shared", "a1")
    left = store.search_runs([experiment], "tags.study = 'same'")
    assert {run.data.tags["study_id"] for run in left} == {"b2"} and len(left) == 2


def test_a_run_that_was_deleted_is_restored(store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tracker(store, "deleted", tmp_path)
    run = one.start_trial(0, "000", {"loss.eta": 1.0})
    store.delete_run(run)
    one.log(0, history(2))
    one.flush()
    assert len(series(store, run)) == 2 and store.get_run(run).info.lifecycle_stage == "active"
    assert "MLflow: run 000 had been deleted; it is restored" in capsys.readouterr().err
    for deleted in (run, one.parent):
        store.delete_run(deleted)
    second = tracker(store, "deleted", tmp_path)
    assert second.parent == one.parent and second.start_trial(0, "000", {}) == run
    assert capsys.readouterr().err.count("it is restored") == 2
    store.delete_experiment(second.experiment)
    assert tracker(store, "deleted", tmp_path).parent == one.parent
    assert "MLflow: experiment deleted had been deleted; it is restored" in capsys.readouterr().err


def test_a_run_that_is_gone_for_ever_is_said_and_ends_nothing(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tracker(store, "gone", tmp_path)
    one.know(0, "0" * 32)
    for _ in range(2):
        one.mark_front(0)
    one.log_artifact(Path(__file__), 0)
    assert capsys.readouterr().err.count(f"run {'0' * 32} is there no longer; nothing more is written into it") == 1


def test_what_mlflow_refuses_in_a_run_that_is_there_is_an_error(store: MlflowClient, tmp_path: Path) -> None:
    one = tracker(store, "refused", tmp_path)
    one.start_trial(0, "000", {"loss.eta": 1.0})
    one.flush()
    one.start_trial(0, "000", {"loss.eta": 2.0})
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        one.flush()


def test_a_trial_takes_four_requests_however_much_it_has_to_say(store: MlflowClient, tmp_path: Path) -> None:
    one, asked = tracker(store, "requests", tmp_path), Counter[str]()

    class Counted:
        def __getattr__(self, name: str) -> Any:
            asked[name] += 1
            return getattr(store, name)

    one.client = Counted()  # type: ignore[assignment]
    run = one.start_trial(0, "000", {f"p{i}": i for i in range(150)}, earlier=False)
    one.log(0, [{"epoch": e, "timestamp": e, **{f"m{i}": float(e) for i in range(40)}} for e in range(1, 31)])
    one.end_trial(0, "complete", None, [], end=None)
    assert asked == {"create_run": 1, "log_batch": 2, "set_terminated": 1}
    found = store.get_run(run).data
    assert len(found.params) == 150 and len(found.metrics) == 40 and found.tags["trial_state"] == "complete"
    assert [m.step for m in store.get_metric_history(run, "m39")] == list(range(1, 31))


def test_ends_are_told_apart(store: MlflowClient, tmp_path: Path) -> None:
    one = tracker(store, "ends", tmp_path)
    ends = {}
    for number, (state, reason) in enumerate([("pruned", "stopped early"), ("failed", "the loss is not finite")]):
        run = one.start_trial(number, str(number), {})
        one.end_trial(number, state, reason, [], end=None)
        found = store.get_run(run)
        ends[state] = (found.info.status, found.data.tags["trial_state"], found.data.tags["reason"])
    assert ends == {
        "pruned": ("KILLED", "pruned", "stopped early"),
        "failed": ("FAILED", "failed", "the loss is not finite"),
    }


def test_parent_metrics_are_written_once(store: MlflowClient, tmp_path: Path) -> None:
    for _ in range(2):
        one = tracker(store, "parent", tmp_path)
        one.log_parent({"performer/location_instability": 0.1}, {"loss.eta": 1.0})
        one.end("FINISHED", 0.01)
    assert len(store.get_metric_history(one.parent, "performer/location_instability")) == 1
    parent = store.get_run(one.parent).data
    assert parent.tags["logging_share"] == "0.0100" and "logging_share" not in parent.metrics
    assert store.get_run(one.parent).info.status == "FINISHED"


def test_store_that_cannot_be_opened_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"tracking_uri: sqlite:////proc/none/mlflow\.db cannot be opened"):
        open_client("sqlite:////proc/none/mlflow.db")


@pytest.mark.parametrize("version", ["451aebb31d03", "ffffffffffff"])
def test_tables_of_another_version_are_named_and_left_as_they_are(empty_store: Path, tmp_path: Path, version: str) -> None:
    file = Path(shutil.copy(empty_store, tmp_path / "other.db"))
    stamped = tables_stamped(file, version)
    with pytest.raises(InputError, match=rf"^tracking_uri: sqlite:///{file} cannot be opened: .*(mlflow db upgrade|revision)"):
        open_client(f"sqlite:///{file}")
    assert tables_of(file) == stamped


def test_a_store_that_was_moved_with_its_artifacts_finds_them_again(
    empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "a home", tmp_path / "moved"
    before.mkdir()
    shutil.copy(empty_store, before / "mlflow.db")
    client = open_client(f"sqlite:///{before / 'mlflow.db'}")
    one = Tracker(client, open_experiment(client, "moved", (before / "mlartifacts").as_uri()), "moved", "id", {})
    run = one.start_trial(0, "000", {})
    (tmp_path / "config.yaml").write_text("a: 1")
    one.end_trial(0, "complete", None, [tmp_path / "config.yaml"], end=1_700_000_009_000)
    before.rename(after)
    capsys.readouterr()
    moved = open_client(f"sqlite:///{after / 'mlflow.db'}")
    assert capsys.readouterr().err == f"MLflow: {after} was {before}; what is recorded there is found again\n"
    assert [f.path for f in moved.list_artifacts(run)] == ["config.yaml"]
    assert moved.get_run(run).info.artifact_uri == (after / "mlartifacts" / run / "artifacts").as_uri()
    open_client(f"sqlite:///{after / 'mlflow.db'}")
    assert capsys.readouterr().err == ""


def test_a_server_that_does_not_answer_is_said_and_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(console, "SILENCE", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"http://me:secret@127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(InputError, match=r"tracking_uri: http://me@127.0.0.1:.* cannot be opened"):
            open_client(uri)
    assert time.monotonic() - began < 30
    said = capsys.readouterr().err
    assert said.startswith("waiting for the tracking server http://me@127.0.0.1:") and "secret" not in said


def test_a_proxy_that_may_be_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"http proxies are set, which NO_PROXY=127\.0\.0\.1 goes round"):
        open_client("http://127.0.0.1:9")
