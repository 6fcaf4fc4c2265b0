"""What a sweep would run, what it would cost, and what would stop it; writes nothing but a probe into the store."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from paraphrase.core.config import to_mapping
from paraphrase.core.cores import cores
from paraphrase.core.device import choose_device
from paraphrase.core.errors import InputError
from paraphrase.core.home import unfit_home
from paraphrase.core.terminal.console import duration
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import read_sweep, shown, sqlite_file, storage_url, store_of, tracking_uri, without_password
from paraphrase.sweep.study.study import budget, refuse_existing
from paraphrase.sweep.workers.cluster import address_of, concurrency, threads_of_trial


def describe_plan(sweep: SweepConfig) -> str:
    """The resolved sweep, where it would run, and its estimated time, measured on real steps if there is a cache."""
    mapping = to_mapping(shown(sweep))
    mapping["space"] = {
        path: {k: v for k, v in d.items() if v not in (None, False, [], {})} for path, d in mapping["space"].items()
    }
    try:
        at_once, cost = concurrency(sweep.resources, _this_machine(), budget(sweep)), None
    except InputError:
        at_once, cost = 1, "cost: not measured, it is meant for another machine"
    lines = [
        yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True).rstrip(),
        "",
        f"trials: {budget(sweep)}, proposed by {sweep.sampler} over {len(sweep.space)} fields, {at_once} at once",
        f"study: {without_password(storage_url(sweep))}",
        f"MLflow: {without_password(tracking_uri(sweep))}, experiment {sweep.experiment}",
        cost or _cost(sweep, at_once),
    ]
    return "\n".join(lines)


def problems(sweep: SweepConfig) -> list[str]:
    """What would stop the sweep before it trains, a line each: home, name, data, performer, device, resources, servers."""
    found = [said for check in (_home, _name, _inputs, _machine, _tracking, _source, _store) if (said := _of(check, sweep))]
    return list(dict.fromkeys(found))


def _of(check: Callable[[SweepConfig], None], sweep: SweepConfig) -> str | None:
    try:
        check(sweep)
    except InputError as error:
        return str(error)
    return None


def _name(sweep: SweepConfig) -> None:
    refuse_existing(sweep)


def _inputs(sweep: SweepConfig) -> None:
    from paraphrase.core.features.obtain import channels_of

    channels_of(sweep.base_config())


def _machine(sweep: SweepConfig) -> None:
    """Only of this machine: what a cluster has is known once it is connected to."""
    if address_of(sweep.resources):
        return
    choose_device(sweep.base_config().train.device)
    concurrency(sweep.resources, _this_machine(), budget(sweep))


def _this_machine() -> dict[str, float]:
    import torch

    return {"CPU": float(cores()), "GPU": float(torch.cuda.device_count())}


def _home(_: SweepConfig) -> None:
    if reason := unfit_home():
        raise InputError(reason)


def _tracking(sweep: SweepConfig) -> None:
    uri = tracking_uri(sweep)
    if (file := sqlite_file(uri)) is None or file.exists():  # else it is made by the sweep
        open_client(uri)


def _source(sweep: SweepConfig) -> None:
    if sweep.warm_start:
        read_sweep(sweep.warm_start)


def _store(sweep: SweepConfig) -> None:
    if store := store_of(sweep):
        store.check()


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
