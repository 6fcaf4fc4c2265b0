from __future__ import annotations

import optuna
import pytest

from paraphrase.sweep.settings.config import EarlyStopping, Resources, SweepConfig
from paraphrase.sweep.settings.space import Dimension
from paraphrase.sweep.workers import batches
from paraphrase.sweep.workers.batches import SECONDS_IN_BATCH, best_batch, trials_per_batch

TAKEN = {"1": 2.0, "2": 1.5, "4": 1.0, "8": 1.2}


def arms(**changes) -> SweepConfig:
    settings = {"sampler": "grid", "space": {"train.seed": Dimension("int", low=0, high=7)}} | changes
    return SweepConfig("arms", **settings)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    """A study of which batches have been timed, so that timing them again would fail."""
    monkeypatch.delattr(batches, "_time_batches")
    study = optuna.create_study()
    study.set_user_attr(SECONDS_IN_BATCH, TAKEN)
    return study


@pytest.mark.parametrize(
    ("taken", "size"),
    [({1: 2.0, 2: 1.5, 4: 1.0, 8: 1.2}, 4), ({1: 2.0, 2: 1.9, 4: 2.1}, 1), ({1: 2.0, 2: 1.0}, 2), ({1: 2.0}, 1), ({}, 1)],
)
def test_a_batch_is_as_large_as_is_clearly_fastest(taken: dict[int, float], size: int) -> None:
    assert best_batch(taken) == size


def test_what_was_measured_is_not_measured_again(study: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert trials_per_batch(study, arms(), "key", gpus=1, at_once=1) == 4
    assert capsys.readouterr().err == "4 trials train as one batch, in 0.50 of the time that they take one by one\n"


@pytest.mark.parametrize(
    ("changes", "gpus", "size"),
    [
        ({}, 0, 1),
        ({"sampler": "tpe"}, 1, 1),
        ({"base": {"train": {"replicates": 2}}}, 1, 1),
        ({"resources": Resources(trials_per_batch=3)}, 0, 3),
        ({"resources": Resources(trials_per_batch=3), "early_stopping": EarlyStopping("p", "max")}, 1, 1),
    ],
)
def test_where_a_batch_would_cost_more_than_time_there_is_none_unless_asked_for(
    study: optuna.Study, changes: dict, gpus: float, size: int
) -> None:
    assert trials_per_batch(study, arms(**changes), "key", gpus, at_once=1) == size


@pytest.mark.parametrize(("at_once", "size"), [(1, 4), (2, 4), (3, 2), (4, 2), (8, 1), (100, 1)])
def test_every_gpu_gets_a_batch(study: optuna.Study, at_once: int, size: int) -> None:
    assert trials_per_batch(study, arms(), "key", gpus=1, at_once=at_once) == size
