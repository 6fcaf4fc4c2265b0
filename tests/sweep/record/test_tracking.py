from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from paraphrase.core.errors import InputError
from paraphrase.sweep.record.tracking import Tracker, open_client, open_experiment


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> MlflowClient:
    """A real sqlite store, which the tests share under different study names."""
    file = shutil.copy(empty_store, tmp_path_factory.mktemp("mlflow"))
    return open_client(f"sqlite:///{file}")


def tracker(store: MlflowClient, study: str, tmp_path: Path) -> Tracker:
    """A tracker as a new process would open it."""
    return Tracker(store, open_experiment(store, study, tmp_path.as_uri()), study, {"data_hash": "abc"})


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
    assert [m.step for m in store.get_metric_history(one.parent, "logging_share")] == [0, 1]
    assert store.get_run(one.parent).info.status == "FINISHED"


def test_store_that_cannot_be_opened_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"tracking_uri: sqlite:////proc/none/mlflow\.db cannot be opened"):
        open_client("sqlite:////proc/none/mlflow.db")
