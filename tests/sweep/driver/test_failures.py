"""What counts as a trial's own failure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial

from paraphrase.sweep.driver import searcher as module
from paraphrase.sweep.driver.failures import InARow, is_lost, last_error, last_failure
from paraphrase.sweep.driver.searcher import StudySearcher

NO_CONTEXT = ActorDiedError()
CREATION = RayActorError(error_msg="The actor died because of an error raised in its creation task, f()\nKeyError: x")


def trial_of(folder: Path, *errors: Exception) -> Any:
    """A trial of Ray Tune that failed so, as itself notes it."""
    trial = Trial("trainable", stub=True)
    trial.storage = SimpleNamespace(trial_driver_staging_path=str(folder))
    for error in errors:
        trial.handle_error(error)  # type: ignore[arg-type]
    return trial


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ActorUnavailableError("RPC error: Socket closed", None), "its node was lost"),
        (RayActorError(error_msg="The actor died because its node has died."), "its node was lost"),
        (RayActorError(error_msg="The actor is dead because its worker process has died."), "its worker died"),
        (NO_CONTEXT, "its worker died"),
        (CREATION, "KeyError: x"),
        (ValueError("first\nthe actor's node died"), "the actor's node died"),
    ],
)
def test_a_failure_is_said_in_a_line(tmp_path: Path, error: Exception, line: str) -> None:
    trial = trial_of(tmp_path, ValueError("earlier"), error)
    assert last_error(trial) == line
    assert is_lost(last_failure(trial)) is (line == "its node was lost")
    assert last_error(None) == "no message"


def test_what_lies_pickled_in_the_session_folder_is_not_opened(tmp_path: Path) -> None:
    trial = trial_of(tmp_path, ActorUnavailableError("RPC error", None))
    assert (tmp_path / "error.pkl").exists()
    (tmp_path / "error.pkl").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "opened") + b"'\ntR.")
    assert last_error(trial) == "its node was lost"
    assert not (tmp_path / "opened").exists()


def test_failures_of_one_cause_in_a_row_give_a_sweep_up_unless_something_went_well() -> None:
    full, gone = "trial 3: disk full at 0x7fa0", "cuda:0 is not available"
    count = InARow(hopeful=False)
    assert [count.ended(False, why) for why in (full, full, gone, full, None, full, full)] == [False] * 7
    assert count.ended(False, full.replace("3", "12").replace("7fa0", "a1"))
    assert not any(InARow(hopeful=True).ended(False, full) for _ in range(9))
    several = InARow(hopeful=False)
    assert [several.ended(False, gone, spread=True) for _ in range(9)] == [False] * 8 + [True]
    late = InARow(hopeful=False)
    assert not any([late.ended(True, None), *(late.ended(False, gone) for _ in range(9))])


def test_a_lost_node_is_forgiven_so_often_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOST", 2)
    searcher = StudySearcher.__new__(StudySearcher)
    searcher.tune_trials = {"t": trial_of(tmp_path, ActorUnavailableError("RPC error", None))}
    searcher.live, searcher.lost = {"t": [SimpleNamespace(number=7)]}, {}  # type: ignore[list-item]
    assert [searcher.forgiven("t") for _ in range(3)] == [True, True, False]
    searcher.tune_trials["t"] = trial_of(tmp_path, RayActorError(error_msg="The actor is dead: its worker process has died"))
    assert not searcher.forgiven("t") and searcher.lost == {7: 3}


def test_a_trial_that_ray_tune_ended_with_retries_left_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies while it is handed on gives two failures at once; Ray Tune ends the trial at the second."""
    monkeypatch.setattr(module, "MOST_LOST", 2)
    died = RayActorError(error_msg="The actor is dead because its worker process has died.")
    searcher = StudySearcher.__new__(StudySearcher)
    searcher.tune_trials = {"t": trial_of(tmp_path, died, died)}
    searcher.live, searcher.lost = {"t": [SimpleNamespace(number=7)]}, {}  # type: ignore[list-item]
    searcher.tune_trials["t"].max_failures = 3
    assert [searcher.ended_early("t") for _ in range(3)] == [True, True, False]
    searcher.lost, searcher.tune_trials["t"].max_failures = {}, 1
    assert not searcher.ended_early("t") and not searcher.ended_early("never started") and not searcher.lost
