"""What a sweep would run and what it would cost; writes nothing."""

from __future__ import annotations

import os
import time
from typing import Any

import yaml

from core.config import Config, to_mapping
from sweep.config import SweepConfig
from sweep.driver import refuse_existing
from sweep.folder import storage_url, tracking_uri
from sweep.progress import duration
from sweep.study import budget

MEASURED_STEPS = 3


def describe_plan(sweep: SweepConfig) -> str:
    """The resolved sweep, where it would run, and an estimate of its time, measured on real steps if there is a cache.

    Raises:
        InputError: if there is a sweep of this name already.
    """
    refuse_existing(sweep)
    mapping = to_mapping(sweep)
    mapping["space"] = {path: {k: v for k, v in d.items() if v} for path, d in mapping["space"].items()}
    at_once = _fits(sweep)
    lines = [
        yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True).rstrip(),
        "",
        f"trials: {budget(sweep)}, {sweep.sampler} over {len(sweep.space)} fields, {at_once} at once",
        f"study: {storage_url(sweep)}",
        f"MLflow: {tracking_uri(sweep)}, experiment {sweep.experiment}",
        *_cost(sweep, at_once),
    ]
    return "\n".join(lines)


def _fits(sweep: SweepConfig) -> int:
    """Trials at once on this machine; a cluster's size is known only once it is connected to."""
    resources = sweep.resources
    fit = int(len(os.sched_getaffinity(0)) / resources.cpus_per_trial)
    if resources.gpus_per_trial:
        import torch

        fit = min(fit, int(torch.cuda.device_count() / resources.gpus_per_trial))
    return max(1, min(fit, resources.concurrency or fit, budget(sweep)))


def _cost(sweep: SweepConfig, at_once: int) -> list[str]:
    from core.cache import cache_exists

    config = sweep.base_config()
    if not cache_exists(config):
        return ["cost: not known before the cache is there; build it with `paraphrase cache build` and ask again"]
    step, steps = _measure(config)
    epochs = config.train.epochs
    seconds = budget(sweep) * epochs * steps * step / at_once
    measured = f"{step * 1000:.0f} ms a step of the base configuration, {steps} steps an epoch, {epochs} epochs"
    return [f"cost: about {duration(seconds)} ({measured}; evaluation and start-up come on top)"]


def _measure(config: Config) -> tuple[float, int]:
    """Seconds of a real training step on this machine, and steps an epoch."""
    from core.cache import open_cache

    from core.training import Training

    training: Any = Training(config, open_cache(config, progress=False))
    training.explainer.train()
    begin = 0.0
    for step in range(MEASURED_STEPS + 1):
        if step == 1:  # the first one warms up
            begin = time.perf_counter()
        training.step(step)
    return (time.perf_counter() - begin) / MEASURED_STEPS, training.steps
