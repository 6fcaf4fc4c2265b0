"""How long an epoch takes, and with it whether trials should train as one batch: measured on a few real steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch

from paraphrase.core.config import Config, from_mapping
from paraphrase.core.device import choose_device
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.train.training import Training, TrainingEnded
from paraphrase.sweep.workers.cluster import enter
from paraphrase.sweep.workers.tasks import open_by_key

MEASURED_STEPS = 4
"""Enough to tell a sweep's cost on a CPU; a batch is compared on more, since a GPU takes milliseconds for one."""
COMPARED_STEPS = 32
BATCHES = (1, 2, 4, 8)
"""Sizes of a batch of trials that are tried."""


def measure_epoch(config: Config, cache: FeatureCache, steps: int = MEASURED_STEPS, trials: int = 1) -> tuple[float, float]:
    """Seconds of an epoch of one or more trials in a batch, extrapolated from a few real steps and as large a share of the
    evaluation; and that share.

    Raises:
        TrainingEnded: if the training of this configuration cannot go on.
    """
    images = len(cache.train.labels)
    share = min(1.0, steps * config.train.batch_size / images)
    mirror = cache.mirror and _first(cache.mirror, share)
    part = dataclasses.replace(cache, train=_first(cache.train, share), test=_first(cache.test, share), mirror=mirror)
    training = Training.together([config] * trials, part) if trials > 1 else Training(config, part)
    training.run_epoch()  # the first one warms up
    begin = time.perf_counter()
    training.run_epoch()
    return (time.perf_counter() - begin) / share, share


def _first(split: Any, share: float) -> Any:
    """The first images of a split of the cache."""
    count = max(2, round(share * len(split.labels)))
    parts = [[t[:count] for t in value] if isinstance(value, list | tuple) else value[:count] for value in split]
    return type(split)(*parts)


def time_batches(settings: Mapping[str, Any]) -> dict[int, float]:
    """Size of a batch -> seconds of an epoch, shared out to its trials; runs in a worker, on the trials' own resources.

    Args:
        settings: `config`, `cache` and what `enter` takes, as a trial has them.

    Returns:
        Sizes from 1 as far as the device's memory goes; empty if this configuration cannot be trained.
    """
    enter(settings)
    config = from_mapping(Config, settings["config"])
    cache = open_by_key(settings["cache"], settings["store"]).to(choose_device(config.train.device))  # all of it: it takes memory
    taken: dict[int, float] = {}
    try:
        for size in BATCHES:
            taken[size] = measure_epoch(config, cache, COMPARED_STEPS, size)[0] / size
    except (TrainingEnded, torch.OutOfMemoryError):
        pass
    return taken
