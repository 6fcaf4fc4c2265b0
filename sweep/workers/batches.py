"""How many trials train as one batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna

from paraphrase.core.config import to_mapping
from paraphrase.core.terminal.console import say
from paraphrase.core.train.training import batch_key
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.study.study import BLIND, budget
from paraphrase.sweep.workers.cluster import worker_settings

SECONDS_IN_BATCH = "seconds_in_batch"
"""User attribute of a study: size of a batch -> measured seconds of an epoch for each of its trials."""

WORTH_IT = 0.9
"""A batch that takes a larger share of the time of its trials one by one is not worth it: they start and end together."""


def trials_per_batch(study: optuna.Study, sweep: SweepConfig, cache: str, gpus: float, at_once: int) -> int:
    """Most trials in one batch: as configured, else measured once a study on a GPU of the cluster, whose `at_once` places for
    batches all get some.

    CPUs have no batches unless they are asked for, so that a trial has the same bits whatever runs beside it. Nor have
    samplers that learn from each trial what to propose next, nor early stopping, which decides on trials one by one.

    Args:
        cache: key of the base configuration's cache.
    """
    if sweep.early_stopping:
        return 1
    if sweep.resources.trials_per_batch:
        return sweep.resources.trials_per_batch
    if not gpus or sweep.sampler not in BLIND or batch_key(sweep.base_config()) is None:
        return 1
    taken = study.user_attrs.get(SECONDS_IN_BATCH)
    if taken is None:
        taken = _time_batches(sweep, cache, gpus)
        study.set_user_attr(SECONDS_IN_BATCH, taken)
    share = math.ceil(budget(sweep) / at_once)
    size = best_batch({int(size): seconds for size, seconds in taken.items() if int(size) <= share})
    if size > 1:
        say(f"{size} trials train as one batch, in {taken[str(size)] / taken['1']:.2f} of the time that they take one by one")
    return size


def _time_batches(sweep: SweepConfig, cache: str, gpus: float) -> dict[str, float]:
    """`time_batches` in a worker, for the base configuration; empty if the worker dies of it."""
    import ray

    from paraphrase.sweep.workers.timing import time_batches

    settings = worker_settings(sweep) | {"config": to_mapping(sweep.base_config()), "cache": cache}
    try:
        # said here and not by `options`, the GPU makes Ray end the worker with its task, which frees the memory
        remote = ray.remote(num_cpus=sweep.resources.cpus_per_trial, num_gpus=gpus, max_retries=0)(time_batches)
        taken = ray.get(remote.remote(settings))
    except ray.exceptions.RayError as error:
        say(f"trials train one by one: timing batches of them failed: {str(error).strip().splitlines()[-1]}")
        return {}
    return {str(size): seconds for size, seconds in taken.items()}


def best_batch(taken: Mapping[int, float]) -> int:
    """The size of a batch that is fastest; 1 if none is clearly faster than trials one by one.

    Args:
        taken: from `time_batches`.
    """
    if not taken:
        return 1
    size = min(taken, key=taken.__getitem__)
    return size if taken[size] <= WORTH_IT * taken[1] else 1
