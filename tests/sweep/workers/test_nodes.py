"""What is asked of nodes and clusters before anything trains; real ones are in `tests/infra`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import Resources, SweepConfig
from paraphrase.sweep.workers import cluster
from paraphrase.sweep.workers.cluster import Places, concurrency, demand_gpus
from paraphrase.sweep.workers.nodes import Node, ask_nodes, refuse_sqlite, versions, wrong_with


def node(**changes: Any) -> Node:
    good = Node("abc", versions(), 0.0, True, "", "", 50.0)
    return good._replace(**changes)


def test_nodes_that_are_alike_are_right() -> None:
    assert wrong_with([node(), node()], None) == []
    assert wrong_with([node(sees_home=False)], "s3://bucket/x") == []  # nobody needs the driver's home where there is a store
    assert wrong_with([node(scratch="full")], None) == []


@pytest.mark.parametrize(
    ("change", "store", "line"),
    [
        ({"versions": versions() | {"ray": "2.9.0"}}, None, "node abc: has ray 2.9.0, not "),
        ({"versions": {k: v for k, v in versions().items() if k != "torch"}}, None, "node abc: has torch None, not "),
        ({"sees_home": False}, None, "node abc: does not see PARAPHRASE_HOME"),
        ({"store": "store: s3://x: away"}, "s3://x", "node abc: store: s3://x: away"),
        ({"scratch": "PARAPHRASE_SCRATCH: /x"}, "s3://x", "node abc: PARAPHRASE_SCRATCH: /x"),
    ],
)
def test_what_is_wrong_with_a_node_is_a_line(change: dict[str, Any], store: str | None, line: str) -> None:
    (found,) = wrong_with([node(), node(**change)], store)
    assert found.startswith(line)


@pytest.mark.cluster
def test_each_node_is_asked(ray_here: str, home: Path) -> None:
    (found,) = ask_nodes((home / "store").as_uri())
    assert wrong_with([found], "file:///x") == []
    assert found.sees_home and abs(found.skew) < 5 and found.free > 0
    assert not list(home.glob(".seen-*"))


SOME_GO = """
import sys, threading, time
from pathlib import Path

from ray.cluster_utils import Cluster

from paraphrase.sweep.settings.config import Resources
from paraphrase.sweep.workers import nodes
from paraphrase.sweep.workers.cluster import cluster

there, asked = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}), Path(sys.argv[1])
going = there.add_node(num_cpus=1)
answer = nodes._answer


def slowly(marker, store):  # until the other node has gone
    import ray

    (asked / ray.get_runtime_context().get_node_id()).touch()
    time.sleep(8)
    return answer(marker, store)


nodes._answer = slowly


def go():
    while len(list(asked.iterdir())) < 2:
        time.sleep(0.1)
    there.remove_node(going, allow_graceful=False)


with cluster(Resources(address=there.address)):
    threading.Thread(target=go, daemon=True).start()
    print(len(nodes.ask_nodes(None)))
there.shutdown()
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_a_node_that_goes_while_it_is_asked_is_passed_over(home: Path, tmp_path: Path) -> None:
    (tmp_path / "asked").mkdir()
    run = [sys.executable, "-c", SOME_GO, str(tmp_path / "asked")]
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as session:  # so that no other Ray takes it for its cluster
        ran = subprocess.run(run, env=os.environ | {"RAY_TMPDIR": session}, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == "1", ran.stderr[-3000:]


def test_a_record_in_files_of_one_node_is_refused_where_there_are_several() -> None:
    with pytest.raises(InputError, match="storage: is a sqlite file"):
        refuse_sqlite(SweepConfig("x"))
    with pytest.raises(InputError, match="tracking_uri: is a sqlite file"):
        refuse_sqlite(SweepConfig("x", storage="postgresql+psycopg://me@db/optuna"))
    refuse_sqlite(SweepConfig("x", storage="postgresql+psycopg://me@db/optuna", tracking_uri="http://mlflow:5000"))


def test_gpus_that_are_meant_and_absent_are_an_error() -> None:
    with pytest.raises(InputError, match=r"train\.device: cuda, but the cluster has no GPU"):
        demand_gpus(Resources(), {"CPU": 8}, "cuda", spread=False)
    with pytest.raises(InputError, match=r"resources\.gpus_per_trial: the cluster has no node for trials yet"):
        demand_gpus(Resources(), {}, "auto", spread=True)
    with pytest.raises(InputError, match=r"resources\.gpus_per_trial: 1 do not fit; there are 0"):
        concurrency(Resources(gpus_per_trial=1), {"CPU": 8}, 12)
    demand_gpus(Resources(gpus_per_trial=0), {}, "auto", spread=True)
    demand_gpus(Resources(), {"CPU": 8, "GPU": 1}, "cuda", spread=True)


def test_a_cluster_that_grows_is_asked_for_all_trials() -> None:
    assert concurrency(Resources(wait_for=5), {}, 12) == 12
    assert concurrency(Resources(wait_for=5, concurrency=4), {"CPU": 1}, 12) == 4


def test_places_follow_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"CPU": 2.0}
    monkeypatch.setattr(cluster, "available", lambda: there)
    places = Places(Resources(), 12, 0.0)
    assert places() == 2
    there["CPU"] = 6.0
    assert places() == 2  # it is not looked up at every question
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.0)
    assert places() == 6
    there["CPU"] = 0.0
    assert places() == 1
