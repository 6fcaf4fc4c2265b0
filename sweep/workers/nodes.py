"""What every node of a cluster must have in common with the driver: asked of each before anything trains."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paraphrase.core.errors import InputError, first_line
from paraphrase.core.home import home
from paraphrase.sweep.record import facts
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import storage_url, tracking_uri
from paraphrase.sweep.store.caches import open_scratch
from paraphrase.sweep.store.objects import Store

SKEW = 5.0
"""Seconds that clocks may differ before it is said."""
ANSWER_SECONDS = 120.0
"""How long a node may take to answer: it imports torch first."""


class Node(NamedTuple):
    """What a node says of itself."""

    name: str
    """First characters of its id in Ray."""
    versions: dict[str, str]
    """Of what must be the same everywhere."""
    skew: float
    """Seconds that its clock is ahead of the driver's, as far as the call tells."""
    sees_home: bool
    """Whether it sees the driver's home folder."""
    store: str
    """Why it cannot read and write the store; empty if it can."""
    scratch: str
    """Why its scratch folder cannot be used; empty if it can."""
    free: float
    """GiB free there."""


def versions() -> dict[str, str]:
    """Versions of what must be the same on all nodes; without the code's own in git, which an installed package does not know."""
    return {name: version for name, version in facts.versions().items() if name != "code"}


def _answer(marker: str, store: str | None) -> dict[str, Any]:
    """Runs on a node."""
    import shutil

    found: dict[str, Any] = {"versions": versions(), "clock": time.time(), "sees_home": Path(marker).exists()}
    checks: dict[str, Callable[[], object]] = {"store": Store(store).check if store else versions, "scratch": open_scratch}
    for name, check in checks.items():
        try:
            check()
            found[name] = ""
        except InputError as error:
            found[name] = str(error)
    found["free"] = 0.0 if found["scratch"] else shutil.disk_usage(open_scratch()).free / 2**30
    return found


def ask_nodes(store: str | None) -> list[Node]:
    """Every living node's answer, that of the driver's own too, with no CPU of theirs; a node that goes meanwhile is passed over.

    Raises:
        InputError: names a node that does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    home().mkdir(parents=True, exist_ok=True)
    marker = home() / f".seen-{uuid.uuid4().hex}"
    marker.touch()
    try:
        asked, began = [], time.time()
        for node in (n for n in ray.nodes() if n["Alive"]):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, max_retries=3, scheduling_strategy=there)(_answer)  # type: ignore[call-overload]
            asked.append((node, task.remote(str(marker), store)))
        nodes = []
        for node, answer in asked:
            name = node["NodeID"][:8]
            try:
                found = ray.get(answer, timeout=ANSWER_SECONDS)
            except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
                continue
            except (ray.exceptions.RayError, TimeoutError) as error:
                raise InputError(f"node {name}: cannot run a task: {first_line(error)}") from None
            clock = found.pop("clock")
            skew = clock - max(began, min(clock, time.time()))  # 0 if it was between question and answer
            nodes.append(Node(name=name, skew=skew, **found))
        return nodes
    finally:
        marker.unlink()


def wrong_with(nodes: Sequence[Node], store: str | None) -> list[str]:
    """What keeps nodes from running trials, a line each."""
    here, lines = versions(), list[str]()
    for node in nodes:
        theirs = node.versions
        other = [f"{name} {theirs.get(name)}, not {mine}" for name, mine in here.items() if theirs.get(name) != mine]
        if other:
            lines.append(f"node {node.name}: has {', '.join(other)}: all nodes must have the driver's versions")
        if not store and not node.sees_home:
            lines.append(
                f"node {node.name}: does not see PARAPHRASE_HOME ({home()}): give `store: s3://BUCKET/PREFIX`, or a home folder "
                "that all nodes share"
            )
        lines += [f"node {node.name}: {reason}" for reason in (node.store, node.scratch if store else "") if reason]
    return lines


def check_nodes(sweep: SweepConfig) -> None:
    """Refuse a cluster that cannot run the sweep's trials.

    Raises:
        InputError: says what is wrong with the first node that cannot.
    """
    if lines := wrong_with(ask_nodes(sweep.store), sweep.store):
        raise InputError(lines[0])


def refuse_sqlite(sweep: SweepConfig) -> None:
    """Refuse files of this node as the record of a sweep on several: a driver that begins anew on another would not find them.

    Raises:
        InputError: names the field.
    """
    for field, url in (("storage", storage_url(sweep)), ("tracking_uri", tracking_uri(sweep))):
        if url.startswith("sqlite"):
            server = "postgresql+psycopg://USER@HOST/optuna" if field == "storage" else "http://HOST:5000"
            raise InputError(f"{field}: is a sqlite file, but the sweep runs on several nodes: name a server, such as {server}")
