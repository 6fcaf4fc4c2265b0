"""What a sweep would run and what it would cost; writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from paraphrase.core.config import to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.terminal.console import duration
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import storage_url, tracking_uri
from paraphrase.sweep.study.study import budget, refuse_existing
from paraphrase.sweep.workers.cluster import concurrency, threads_of_trial


def describe_plan(sweep: SweepConfig) -> str:
    """The resolved sweep, where it would run, and its estimated time, measured on real steps if there is a cache.

    Raises:
        InputError: if there is a sweep of this name already.
    """
    refuse_existing(sweep)
    mapping = to_mapping(sweep)
    mapping["space"] = {
        path: {k: v for k, v in d.items() if v not in (None, False, [], {})} for path, d in mapping["space"].items()
    }
    at_once = _fits(sweep)
    lines = [
        yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True).rstrip(),
        "",
        f"trials: {budget(sweep)}, proposed by {sweep.sampler} over {len(sweep.space)} fields, {at_once} at once",
        f"study: {storage_url(sweep)}",
        f"MLflow: {tracking_uri(sweep)}, experiment {sweep.experiment}",
        _lacking(sweep.base_config().data.path) or _cost(sweep, at_once),
    ]
    return "\n".join(lines)


def _fits(sweep: SweepConfig) -> int:
    """Trials at once on this machine; a cluster's size is known only once it is connected to."""
    import torch

    here = {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}
    try:
        return concurrency(sweep.resources, here, budget(sweep))
    except InputError:  # it is meant for another machine
        return 1


def _lacking(data: str | None) -> str | None:
    """A line where the data are not there, which is no error: the sweep may be meant for another machine."""
    there = data is None or Path(data).expanduser().exists()
    return None if there else f"data: there is no {data} here; `base.data.path=FOLDER` names another place"


def _cost(sweep: SweepConfig, at_once: int) -> str:
    import torch

    from paraphrase.core.features.cache import load_cache
    from paraphrase.core.features.obtain import built_cache
    from paraphrase.sweep.workers.timing import measure_epoch

    config = sweep.base_config()
    folder = built_cache(config)
    if folder is None:
        return "cost: not known before the cache is there; `paraphrase cache build` makes it"
    threads = threads_of_trial(sweep.resources)
    torch.set_num_threads(threads)
    epoch, share = measure_epoch(config, load_cache(folder))
    seconds = budget(sweep) * config.train.epochs * epoch / at_once
    return (
        f"cost: about {duration(seconds)} at most; an epoch of the base configuration takes {epoch:.1f} s with {threads} "
        f"threads (measured on {share:.0%} of the images), a trial has {config.train.epochs}"
    )
