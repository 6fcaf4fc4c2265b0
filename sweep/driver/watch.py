"""What happens beside the trials at every turn of Ray Tune's loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from paraphrase.sweep.driver.progress import Progress
from paraphrase.sweep.driver.searcher import StudySearcher, last_error
from paraphrase.sweep.record.tracking import FLUSH_SECONDS, Tracker

SECONDS_EVERY = 2.0


class Watch(Callback):
    """Draws the progress line, writes what waits, and ends the sweep if the record cannot be kept.

    Args:
        save_seconds: called every few seconds.
    """

    def __init__(self, searcher: StudySearcher, progress: Progress, tracker: Tracker, save_seconds: Callable[[], None]) -> None:
        self.searcher, self.progress, self.tracker, self.save_seconds = searcher, progress, tracker, save_seconds
        self.saved = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.searcher.tune_trials[trial.trial_id] = trial

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self.progress.say(f"trial {number}: {last_error(trial)}; it goes on from its last finished epoch")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.searcher.failure:
            raise self.searcher.failure
        self.tracker.flush_if_due(FLUSH_SECONDS)
        self.progress.draw()
        if time.monotonic() - self.saved > SECONDS_EVERY:
            self.save_seconds()
            self.saved = time.monotonic()
