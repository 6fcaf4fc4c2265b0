"""The Ray cluster: an existing one by its address, or a quiet local one that ends with the command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from paraphrase.core.errors import InputError
from paraphrase.core.home import home
from paraphrase.core.terminal.console import waiting
from paraphrase.sweep.settings.config import Resources

OBJECT_STORE = 256 * 2**20  # bytes; results are small, and nothing else goes through the store

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # the raylet's paragraph about each dead worker; we say it in a line
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def quiet_ray() -> None:
    """Settings that Ray reads when it is imported: no statistics, no loggers of its own, no output."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def _connect(address: str | None) -> None:
    import ray

    if address:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, object_store_memory=OBJECT_STORE
        )


@contextmanager
def cluster(resources: Resources) -> Iterator[dict[str, float]]:
    """Connect to the cluster or start a local one; yields its resources, and ends what it started.

    Raises:
        InputError: if there is no cluster at the address.
    """
    quiet_ray()
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    address = resources.address or os.environ.get("RAY_ADDRESS")
    if address and address.startswith("http"):
        raise InputError(f"resources.address: {address} is a job server; give host:port of the cluster, or use `ray job submit`")
    try:
        own = not ray.is_initialized()  # a notebook may be connected already
        if own:
            with waiting("connecting to the cluster" if address else "starting Ray"):
                _connect(address)
    except ConnectionError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"resources.address: no Ray cluster at {address}: {first}") from None
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield ray.cluster_resources()
    finally:
        if own:
            ray.shutdown()


def gpus_of_trial(resources: Resources, available: dict[str, float]) -> float:
    """GPUs of a trial: as configured, else one where there are any."""
    if resources.gpus_per_trial is not None:
        return resources.gpus_per_trial
    return 1.0 if available.get("GPU", 0) >= 1 else 0.0


def concurrency(resources: Resources, available: dict[str, float], trials: int) -> int:
    """Trials at once: as many as fit, at most as many as configured.

    Raises:
        InputError: if not even one fits.
    """
    gpus = gpus_of_trial(resources, available)
    fit = int(available.get("CPU", 0) / resources.cpus_per_trial + 1e-9)
    if fit < 1:
        raise InputError(
            f"resources.cpus_per_trial: {resources.cpus_per_trial:g} do not fit; there are {available.get('CPU', 0):g}"
        )
    if gpus > 0:
        fit = min(fit, int(available.get("GPU", 0) / gpus + 1e-9))
        if fit < 1:
            raise InputError(f"resources.gpus_per_trial: {gpus:g} do not fit; there are {available.get('GPU', 0):g}")
    return max(1, min(fit, resources.concurrency or fit, trials))


def worker_settings(resources: Resources) -> dict[str, Any]:
    """What a worker must know of the driver, for `enter`: `home`, `cwd` and the `threads` of a trial."""
    return {"home": str(home()), "cwd": os.getcwd(), "threads": threads_of_trial(resources)}


def threads_of_trial(resources: Resources) -> int:
    """Threads that torch computes a trial with."""
    return max(1, int(resources.cpus_per_trial))


def enter(settings: Mapping[str, Any]) -> None:
    """Make this worker's home and folder the driver's, and torch's threads those of a trial."""
    import torch

    os.environ["PARAPHRASE_HOME"] = settings["home"]
    if os.path.isdir(settings["cwd"]):  # relative paths of the configuration are the driver's
        os.chdir(settings["cwd"])
    torch.set_num_threads(settings["threads"])
