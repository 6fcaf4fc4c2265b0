"""What counts as a trial's own failure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, RayActorError

from paraphrase.sweep.driver import searcher as module
from paraphrase.sweep.driver.failures import last_error
from paraphrase.sweep.driver.searcher import StudySearcher


def trial_of(folder: Path, error: Exception) -> Any:
    (folder / "error.pkl").write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(pickled_error_file=str(folder / "error.pkl"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ActorUnavailableError("RPC error: Socket closed", None), "its node was lost"),
        (RayActorError(error_msg="The actor died because its node has died."), "its node was lost"),
        (RayActorError(error_msg="The actor is dead because its worker process has died."), "its worker died"),
        (ValueError("first\nlast"), "last"),
    ],
)
def test_a_failure_is_said_in_a_line(tmp_path: Path, error: Exception, line: str) -> None:
    assert last_error(trial_of(tmp_path, error)) == line
    assert last_error(None) == "no message"


def test_a_lost_node_is_forgiven_so_often_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOST", 2)
    searcher = StudySearcher.__new__(StudySearcher)
    searcher.tune_trials = {"t": trial_of(tmp_path, ActorUnavailableError("RPC error", None))}
    searcher.live, searcher.lost = {"t": [SimpleNamespace(number=7)]}, {}  # type: ignore[list-item]
    assert [searcher.forgiven("t") for _ in range(3)] == [True, True, False]
    searcher.tune_trials["t"] = trial_of(tmp_path, RayActorError(error_msg="its worker process has died"))
    assert not searcher.forgiven("t") and searcher.lost == {7: 3}
