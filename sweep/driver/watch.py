"""What happens beside the trials at every turn of Ray Tune's loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from paraphrase.sweep.driver.progress import Progress
from paraphrase.sweep.driver.searcher import StudySearcher, last_error

SECONDS_EVERY = 2.0


class Watch(Callback):
    """Draws the progress line, tells the study what the record has, and ends the sweep if either cannot be kept.

    Args:
        save_seconds: called every few seconds.
    """

    def __init__(self, searcher: StudySearcher, progress: Progress, save_seconds: Callable[[], None]) -> None:
        self.searcher, self.progress, self.save_seconds = searcher, progress, save_seconds
        self.saved = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.tune_trials[trial.trial_id] = trial

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        if self.searcher.node_lost(trial.trial_id):
            trial.max_failures += 1  # that was none of its own
        self.progress.say(f"trial {number}: {last_error(trial)}; it goes on from its last finished epoch")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.searcher.settle(patient=False)
        if self.searcher.failure:
            raise self.searcher.failure
        self.progress.draw()
        if time.monotonic() - self.saved > SECONDS_EVERY:
            self.save_seconds()
            self.saved = time.monotonic()
