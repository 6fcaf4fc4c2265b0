from __future__ import annotations

from types import SimpleNamespace

from paraphrase.sweep.driver.scheduler import ResumableASHA, rung_epochs
from paraphrase.sweep.settings.config import EarlyStopping

SETTINGS = EarlyStopping(metric="p", mode="max", grace_epochs=1, reduction_factor=2)
CURVES = {0: [0.5, 0.6, 0.7, 0.8], 1: [0.6, 0.7, 0.8, 0.9], 2: [0.4, 0.5, 0.6, 0.7], 3: [0.55, 0.56, 0.57, 0.58]}


def run(scheduler: ResumableASHA, number: int, start: int = 0) -> int:
    """Run a trial on its curve until it is stopped or ends; returns its last epoch."""
    trial = SimpleNamespace(trial_id=f"ray{number}{start}", config={"number": number})
    scheduler.on_trial_add(None, trial)
    history = [{"epoch": i + 1, "p": v} for i, v in enumerate(CURVES[number])]
    for epoch in range(max(start, 1), len(history) + 1):
        new = history[:epoch] if epoch == max(start, 1) else history[epoch - 1 : epoch]
        result = {"epoch": epoch, "p": history[epoch - 1]["p"], "history": [(number, new)]}
        if epoch == len(history):
            scheduler.on_trial_complete(None, trial, result)
            return epoch
        if scheduler.on_trial_result(None, trial, result) == "STOP":
            scheduler.on_trial_complete(None, trial, result)
            return epoch
    return 0


def rungs(scheduler: ResumableASHA) -> list:
    return scheduler._brackets[0]._rungs


def test_worse_trials_are_stopped_and_the_best_go_on() -> None:
    scheduler = ResumableASHA(SETTINGS, 4)
    assert [run(scheduler, number) for number in CURVES] == [4, 4, 1, 2]


def test_resumed_scheduler_decides_as_one_that_was_never_interrupted() -> None:
    whole = ResumableASHA(SETTINGS, 4)
    ends = {number: run(whole, number) for number in (0, 1)}
    recorded = {n: {e + 1: CURVES[n][e] for e in range(end)} for n, end in ends.items()}
    resumed = ResumableASHA(SETTINGS, 4, recorded)
    assert rungs(resumed) == rungs(whole)
    assert [run(resumed, n) for n in (2, 3)] == [run(whole, n) for n in (2, 3)] == [1, 2]
    assert rungs(resumed) == rungs(whole)


def test_trial_that_goes_on_from_its_checkpoint_fills_its_earlier_rungs() -> None:
    scheduler = ResumableASHA(SETTINGS, 4)
    run(scheduler, 1, start=3)
    assert all(recorded == {1: CURVES[1][int(milestone) - 1]} for milestone, recorded in rungs(scheduler))


def test_missing_metric_stops_nothing() -> None:
    scheduler = ResumableASHA(SETTINGS, 4)
    trial = SimpleNamespace(trial_id="a", config={"number": 0})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"epoch": 1, "history": [(0, [{"epoch": 1}])]}) == "CONTINUE"


def test_rungs_are_the_epochs_at_which_it_decides() -> None:
    assert rung_epochs(EarlyStopping("p", "max", grace_epochs=2, reduction_factor=3.0), 20) == [2, 6, 18]
    assert rung_epochs(EarlyStopping("p", "max", grace_epochs=1, reduction_factor=1.5), 4) == [1, 2, 3, 4]
    assert rung_epochs(EarlyStopping("p", "max", grace_epochs=5), 4) == []
