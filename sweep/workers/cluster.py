"""The Ray cluster: an existing one by its address, or a quiet local one that ends with the command."""

from __future__ import annotations

import logging
import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paraphrase.core.cores import cores
from paraphrase.core.errors import InputError, first_line
from paraphrase.core.home import home
from paraphrase.core.terminal.console import say, waiting
from paraphrase.sweep.patience import OPENING, OutOfPatience, patiently
from paraphrase.sweep.settings.config import Resources, SweepConfig
from paraphrase.sweep.store.caches import open_scratch
from paraphrase.sweep.workers.head import knock

OBJECT_STORE = 256 * 2**20  # bytes; results are small, and nothing else goes through the store

LONGEST_BASE = 30
"""Characters of the folder that Ray's sessions may lie in: with their own names, those of its sockets keep below 108."""

LOOK_SECONDS = 5.0
"""How often the nodes of a cluster are looked at while a sweep runs."""

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
        _reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            "local",
            num_cpus=cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE,
            _temp_dir=None if "RAY_TMPDIR" in os.environ else session_folder(),
        )


def _reach(address: str) -> None:
    """Wait a little for a head that is just starting.

    Raises:
        ConnectionError: if nothing listens there, or something else, for which Ray itself would wait much longer.
    """
    import ray

    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConnectionError("expected host:port, or auto")
    try:
        patiently(
            lambda: knock(address, OPENING),
            f"the Ray cluster at {address}",
            lambda error: isinstance(error, OSError),
            patience=OPENING,
        )
        ray._raylet.GcsClient(address=address)  # type: ignore[attr-defined]  # as `ray health-check` does
    except (OutOfPatience, ray.exceptions.RayError) as error:
        raise ConnectionError(str(error)) from None


def session_folder() -> str:
    """Where a local cluster keeps its sessions, closed to other users; Ray's own choice is open to all, and sockets lie in it.

    Raises:
        InputError: if there is no room for it.
    """
    base = tempfile.gettempdir()
    base = base if len(base) <= LONGEST_BASE else "/tmp"  # Ray's sockets would have names that are too long
    folder = Path(base) / f"ray-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            folder = Path(tempfile.mkdtemp(prefix="ray-", dir=base))  # somebody else was first
    except OSError as error:
        raise InputError(f"{folder}: Ray cannot keep its session there ({error.strerror}); name a folder in TMPDIR") from None
    return f"{folder}/s"  # Ray opens this one to all, but nobody gets so far


def address_of(resources: Resources) -> str | None:
    """Of a running cluster; None: a local one is started.

    Raises:
        InputError: if it is that of a server that hands commands on, which then would not run where the cluster is.
    """
    address, field = resources.address or os.environ.get("RAY_ADDRESS"), _field(resources)
    if address == "local":  # as Ray says it
        return None
    if address and address.startswith("http"):
        raise InputError(f"{field}: {address} is a job server; give host:port of the cluster, or use `ray job submit`")
    if address and address.startswith("ray://"):
        raise InputError(f"{field}: {address} is of Ray Client, not for Ray Tune; give host:port, or use `ray job submit`")
    return address


def _field(resources: Resources) -> str:
    """What names the cluster."""
    return "resources.address" if resources.address else "RAY_ADDRESS"


@contextmanager
def _deferring_sigterm() -> Iterator[None]:
    """Let a SIGTERM that comes meanwhile do afterwards what it would have done.

    Ray puts a handler of its own in place, which ends the process from wherever it is: if that is a hook of a fork, of which
    there are many while Ray starts, Python drops the exception, and the process goes on with a lock that nobody releases.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    from ray._private import utils

    came: list[int] = []
    before, theirs = signal.signal(signal.SIGTERM, lambda number, _: came.append(number)), utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs
        signal.signal(signal.SIGTERM, before)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def cluster(resources: Resources) -> Iterator[None]:
    """Connect to the cluster or start a local one; ends what it started.

    Raises:
        InputError: if there is no cluster at the address.
    """
    quiet_ray()
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    address = address_of(resources)
    try:
        own = not ray.is_initialized()  # a notebook may be connected already
        if own:
            with waiting("connecting to the cluster" if address else "starting Ray"), _deferring_sigterm():
                _connect(address)
    except ConnectionError as error:
        raise InputError(f"{_field(resources)}: no Ray cluster at {address}: {first_line(error)}") from None
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def head_address() -> str:
    """Host and port of the head that this driver is connected to."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def nodes_with_cpus() -> int:
    """How many nodes there are now on which trials can run."""
    import ray

    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def is_spread() -> bool:
    """Whether trials run, or will, on other machines than the driver: several nodes, or none with a CPU yet."""
    import ray

    return sum(node["Alive"] for node in ray.nodes()) > 1 or not nodes_with_cpus()


def is_leaving() -> bool:
    """Whether this worker's node was announced to go: a spot machine's notice, or a drain."""
    import ray
    from ray._private.state import state  # as Ray Train asks

    return ray.get_runtime_context().get_node_id() in state.get_draining_nodes()


def available() -> dict[str, float]:
    """What the nodes that are there now have in all: `CPU`, `GPU`."""
    import ray

    return ray.cluster_resources()


def gpus_of_trial(resources: Resources, there: Mapping[str, float]) -> float:
    """GPUs of a trial: as configured, else one where there are any."""
    if resources.gpus_per_trial is not None:
        return resources.gpus_per_trial
    return 1.0 if there.get("GPU", 0) >= 1 else 0.0


def bundle_of(resources: Resources, gpus: float) -> dict[str, float]:
    """What a trial takes of a node, in Ray's words."""
    return {"CPU": resources.cpus_per_trial} | ({"GPU": gpus} if gpus else {})


def demand_gpus(resources: Resources, there: Mapping[str, float], device: str, spread: bool) -> None:
    """Refuse what would train on CPUs for ever, without a word, where GPUs are meant.

    Args:
        device: `train.device` of the base configuration.
        spread: whether nodes may yet come.

    Raises:
        InputError: says what to write.
    """
    if resources.gpus_per_trial is not None or there.get("GPU", 0) >= 1:
        return
    if device.startswith("cuda"):
        raise InputError(f"train.device: {device}, but the cluster has no GPU; resources.gpus_per_trial=1 asks for one")
    if spread and not there.get("CPU"):
        raise InputError(
            "resources.gpus_per_trial: the cluster has no node for trials yet, so it must be said what they need: 1 for a GPU "
            "each, 0 for CPUs alone"
        )


def concurrency(resources: Resources, there: Mapping[str, float], trials: int, gpus: float | None = None) -> int:
    """Trials at once: as many as fit, at most as many as configured; on a cluster that grows, as many as are wanted.

    Args:
        there: from `available`.
        gpus: of a trial, where that is decided; None: `gpus_of_trial`.

    Raises:
        InputError: if not even one fits and the cluster does not grow.
    """
    if resources.wait_for:
        return min(resources.concurrency or trials, trials)
    gpus = gpus_of_trial(resources, there) if gpus is None else gpus
    fit = trials
    for kind, needed in bundle_of(resources, gpus).items():
        has = there.get(kind, 0)
        if (fits := int(has / needed + 1e-9)) < 1:
            waits = "; `resources.wait_for` waits for nodes" if address_of(resources) else ""
            raise InputError(f"resources.{kind.lower()}s_per_trial: {needed:g} do not fit; there are {has:g}{waits}")
        fit = min(fit, fits)
    return max(1, min(fit, resources.concurrency or fit, trials))


class Places:
    """Trials that may run at once, as nodes come and go: asked for often, looked up every few seconds.

    Args:
        resources: of a trial.
        trials: budget.
        gpus: of a trial.
    """

    def __init__(self, resources: Resources, trials: int, gpus: float) -> None:
        self.resources, self.trials, self.gpus = resources, trials, gpus
        self._looked, self._known = -LOOK_SECONDS, 1

    def __call__(self) -> int:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            try:
                self._known = concurrency(self.resources, available(), self.trials, self.gpus)
            except InputError:  # all nodes are gone: those that run are tried again elsewhere, none is begun
                self._known = 1
            self._looked = time.monotonic()
        return self._known


def await_nodes(resources: Resources, gpus: float) -> None:
    """Wait for a node on which a trial fits, of a cluster that grows; says so each minute.

    Raises:
        OutOfPatience: if none has come within `resources.wait_for` minutes.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    if not resources.wait_for:
        return
    bundle = bundle_of(resources, gpus)
    group = placement_group([bundle])  # an autoscaler sees the demand
    wanted, began, said = ", ".join(f"{v:g} {k}" for k, v in bundle.items()), time.monotonic(), 0.0
    try:
        while not ray.wait([group.ready()], timeout=1.0)[0]:
            waited = time.monotonic() - began
            if waited > 60 * resources.wait_for:
                raise OutOfPatience(f"no node with {wanted} came within the {resources.wait_for:g} min of resources.wait_for")
            if waited - said > 60 or not said:
                say(f"waiting for a node with {wanted} ({waited / 60:.0f} of {resources.wait_for:g} min)")
                said = max(waited, 1e-9)
    finally:
        remove_placement_group(group)


def worker_settings(sweep: SweepConfig) -> dict[str, Any]:
    """What a worker must know of the driver: `store`, and for `enter` `home` (None: the node's scratch), `cwd`, `threads`."""
    where = {"store": sweep.store, "home": None if sweep.store else str(home())}
    return where | {"cwd": os.getcwd(), "threads": threads_of_trial(sweep.resources)}


def threads_of_trial(resources: Resources) -> int:
    """Threads that torch computes a trial with."""
    return max(1, int(resources.cpus_per_trial))


def enter(settings: Mapping[str, Any]) -> None:
    """Make this worker's home and folder the driver's, and torch's threads those of a trial."""
    import torch

    os.environ["PARAPHRASE_HOME"] = settings["home"] or str(open_scratch())
    if os.path.isdir(settings["cwd"]):  # relative paths of the configuration are the driver's
        os.chdir(settings["cwd"])
    torch.set_num_threads(settings["threads"])
