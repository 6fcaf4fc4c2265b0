"""Whether a cluster can run a sweep: all checks at once, each with what to do about it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sql

from paraphrase.core.errors import InputError
from paraphrase.core.terminal.console import waiting
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import sqlite_file, storage_url, store_of, tracking_uri, without_password
from paraphrase.sweep.study.lease import clock_of
from paraphrase.sweep.study.storage import open_storage
from paraphrase.sweep.study.study import budget
from paraphrase.sweep.workers.cluster import address_of, available, cluster, concurrency, demand_gpus, gpus_of_trial, is_spread
from paraphrase.sweep.workers.nodes import SKEW, ask_nodes, refuse_sqlite, wrong_with

LOW_SPACE = 5.0
"""GiB of scratch below which a node is named."""


NOT_THERE = "sqlite in the home folder, not there yet: for a driver on this machine alone"


class Finding(NamedTuple):
    """What one check found."""

    check: str
    """What was looked at."""
    state: str
    """ok, warning or wrong."""
    found: str
    """What is so, and where it is not right what to do about it."""


def diagnose(sweep: SweepConfig) -> Iterator[Finding]:
    """Look at everything that a sweep needs beyond this process; nothing is changed but what is written to be read again.

    Args:
        sweep: whose `store`, `storage`, `tracking_uri` and `resources` are looked at.
    """
    yield _token(sweep)
    yield _timed("store", lambda: _store(sweep))
    yield _timed("study", lambda: _study(sweep))
    yield _timed("MLflow", lambda: _mlflow(sweep))
    yield from _nodes(sweep)


def _timed(check: str, look: Callable[[], str]) -> Finding:
    began = time.monotonic()
    try:
        with waiting(f"checking {check}"):
            found = look()
    except InputError as error:
        return Finding(check, "wrong", str(error))
    return Finding(check, "ok", f"{found} ({time.monotonic() - began:.1f} s)")


def _token(sweep: SweepConfig) -> Finding:
    """Ray takes commands from whoever reaches its ports, unless a token is asked for."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    there = bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()
    if mode == "token" and there:
        if file.is_file() and file.stat().st_mode & 0o077:
            return Finding("Ray token", "warning", f"others can read it: chmod 600 {file}")
        return Finding("Ray token", "ok", "asked for, and here")
    if mode == "token":
        return Finding("Ray token", "wrong", f"asked for, but not in {file}; `ray get-auth-token --generate`, alike on all nodes")
    if address_of(sweep.resources):
        remedy = "`ray get-auth-token --generate`, then RAY_AUTH_MODE=token for every `ray start` and driver"
        return Finding("Ray token", "warning", f"not asked for: whoever reaches the ports can run code; {remedy}")
    return Finding("Ray token", "ok", "not needed: a local Ray")


def _store(sweep: SweepConfig) -> str:
    if store := store_of(sweep):
        store.check()
        return f"{store.uri}: written, read, listed, deleted"
    return "none: all nodes must share PARAPHRASE_HOME"


def _study(sweep: SweepConfig) -> str:
    url = storage_url(sweep)
    if (file := sqlite_file(url)) and not file.exists():
        return NOT_THERE
    storage = open_storage(url)
    if storage.server is None:
        return "sqlite: for a driver on this machine alone"
    with storage.server.connect() as connection:
        theirs = connection.execute(sql.select(clock_of(storage.server))).scalar_one()
    skew = abs(theirs - time.time())
    if skew > SKEW:
        raise InputError(f"storage: its clock differs by {skew:.0f} s from this one: set both by NTP")
    return f"{without_password(url)}: schema {storage.get_current_version()}"


def _mlflow(sweep: SweepConfig) -> str:
    uri = tracking_uri(sweep)
    if (file := sqlite_file(uri)) and not file.exists():
        return NOT_THERE
    open_client(uri)
    return without_password(uri)


def _nodes(sweep: SweepConfig) -> Iterator[Finding]:
    if not address_of(sweep.resources):
        yield Finding("nodes", "ok", "a local Ray, which ends with the sweep; `--address` names a cluster")
        return
    try:
        with cluster(sweep.resources):
            there, spread = available(), is_spread()
            with waiting("asking every node"):
                nodes = ask_nodes(sweep.store)
            total = f"{len(nodes)} nodes, {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs"
            yield Finding("nodes", "ok", total)
            for line in wrong_with(nodes, sweep.store):
                yield Finding("nodes", "wrong", line)
            for node in nodes:
                if abs(node.skew) > SKEW:
                    yield Finding("clocks", "warning", f"node {node.name}: differs by {node.skew:.0f} s; set it by NTP")
                if sweep.store and node.free < LOW_SPACE:
                    text = f"node {node.name}: {node.free:.1f} GiB free; PARAPHRASE_SCRATCH names a larger disk"
                    yield Finding("scratch", "warning", text)
            yield from _demand(sweep, there, spread)
    except InputError as error:
        yield Finding("nodes", "wrong", str(error))


def _demand(sweep: SweepConfig, there: dict[str, Any], spread: bool) -> Iterator[Finding]:
    """Whether the cluster has what the sweep's trials ask for."""
    try:
        demand_gpus(sweep.resources, there, sweep.base_config().train.device, spread)
        if spread:
            refuse_sqlite(sweep)
        at_once = concurrency(sweep.resources, there, budget(sweep))
    except InputError as error:
        yield Finding("resources", "wrong", str(error))
        return
    gpus = gpus_of_trial(sweep.resources, there)
    each = f"{sweep.resources.cpus_per_trial:g} CPUs and {gpus:g} GPUs"
    waits = ", once there are nodes for them" if sweep.resources.wait_for else ""
    yield Finding("resources", "ok", f"{at_once} trials of {each} at once{waits}")
