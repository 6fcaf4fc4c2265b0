"""One run of the driver: what it holds while it lives."""

from __future__ import annotations

import time
from dataclasses import dataclass

import optuna

from paraphrase.sweep.record.recorder import Recorder
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.workers.tasks import Tasks


@dataclass
class Session:
    """One run of the driver."""

    sweep: SweepConfig
    study: optuna.Study
    recorder: Recorder
    tasks: Tasks
    begin: float
    """time.monotonic() of its start."""
    seconds_before: float
    """What earlier sessions took."""

    def save_seconds(self) -> None:
        """Keep the time that the sweep has taken so far, in all its sessions."""
        self.study.set_user_attr("seconds", self.seconds_before + time.monotonic() - self.begin)
