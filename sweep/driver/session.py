"""One run of the driver: what it holds while it lives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna

from paraphrase.sweep.record.tracking import Tracker
from paraphrase.sweep.settings.config import SweepConfig

if TYPE_CHECKING:
    from paraphrase.core.features.cache import FeatureCache


@dataclass
class Session:
    """One run of the driver."""

    sweep: SweepConfig
    study: optuna.Study
    tracker: Tracker
    cache: FeatureCache
    begin: float
    """time.monotonic() of its start."""
    seconds_before: float
    """What earlier sessions took."""

    def save_seconds(self) -> None:
        """Keep the time that the sweep has taken so far, in all its sessions."""
        self.study.set_user_attr("seconds", self.seconds_before + time.monotonic() - self.begin)
