"""What happens beside the trials at every turn of Ray Tune's loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.tune import Callback

from paraphrase.sweep.driver.failures import last_error
from paraphrase.sweep.driver.progress import Progress
from paraphrase.sweep.driver.searcher import StudySearcher
from paraphrase.sweep.driver.strikes import STRIKES, Strikes

SECONDS_EVERY = 2.0
NODE_SECONDS = 5.0
"""How long a worker may take to say where it runs."""


class Watch(Callback):
    """Draws the progress line, tells the study what the record has, and ends the sweep if either cannot be kept.

    Args:
        strikes: told of what goes well and what fails on which node.
        save_seconds: called every few seconds.
    """

    def __init__(self, searcher: StudySearcher, progress: Progress, strikes: Strikes, save_seconds: Callable[[], None]) -> None:
        self.searcher, self.progress, self.strikes, self.save_seconds = searcher, progress, strikes, save_seconds
        self.saved = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.tune_trials[trial.trial_id] = trial
        if self.strikes.nodes() > 1:
            with suppress(ray.exceptions.RayError, TimeoutError):  # it may be gone already
                self.strikes.began(trial.trial_id, ray.get(trial.temporary_state.ray_actor.node.remote(), timeout=NODE_SECONDS))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.tune_trials[trial.trial_id] = trial  # it may have failed before it started
        number = trial.config["number"]
        if self.searcher.forgiven(trial.trial_id):
            trial.max_failures += 1
        else:
            self._failed(trial)
        self.strikes.apply(trial)
        self.progress.say(f"trial {number}: {last_error(trial)}; it goes on from its last finished epoch")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._failed(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.strikes.went_well(trial.trial_id)

    def _failed(self, trial: Any) -> None:
        if out := self.strikes.failed(trial.trial_id, trial.config["number"]):
            self.progress.say(f"node {out[:8]}: {STRIKES} trials in a row failed there; it is left out")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.searcher.settle(patient=False)
        if self.searcher.failure:
            raise self.searcher.failure
        self.progress.draw()
        if time.monotonic() - self.saved > SECONDS_EVERY:
            self.save_seconds()
            self.saved = time.monotonic()
