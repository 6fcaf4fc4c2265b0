"""Sweeps on clusters that break under them: each must end as one in quiet.

The numbers are those of `docs/clusters/faults.md`, where each fault has its outcome.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import PATIENCE, check_runs, command, exported, until
from network import Network
from nodes import Node
from processes import NotReady
from stormy import EPOCHS, MARKS, TRIALS, Stormy, fill, stormy, stormy_sweep

from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.store.checkpoints import UPLOAD_SECONDS

pytestmark = MARKS
Rows = list[dict[str, str]]
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def check(it: Stormy, expected: Rows) -> None:
    """Study, MLflow and store hold what they should, and nothing else."""
    assert exported("stormy") == expected
    for run in check_runs(open_client(it.it.tracking_uri), "stormy", TRIALS, EPOCHS):
        if run.data.tags["kind"] == "trial":
            assert run.data.tags["explainer_uri"].startswith(f"{it.it.store}/sweeps/stormy/trials/")
    assert not it.saved()


def ended(it: Stormy, driver: subprocess.Popen[bytes], code: int = 0) -> None:
    """Wait for a driver's end."""
    assert driver.wait(PATIENCE) == code, it.told()


def training(node: Node) -> list[int]:
    """The processes of a node that train."""
    found = []
    for pid in node.members():
        with contextlib.suppress(OSError):  # ended meanwhile
            if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::ExplainerTrial.train"):
                found.append(pid)
    return found


def test_a_sweep_through_lost_nodes_servers_and_drivers_ends_as_a_quiet_one(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults 1, 2, 8, 11, 16 and 22 in one sweep, whose driver's home is gone when the next one begins."""
    with stormy(tmp_path, monkeypatch) as it:
        parts, home = it.it, tmp_path / "driver"
        driver = it.drive(home=home)
        until(it.saved, driver, it.log)
        node = 1
        while "its node was lost" not in it.told():  # it may have been between two trials
            assert driver.poll() is None, it.told()
            parts.kill_node(node)
            node = parts.start_node()
            parts.restart_postgres()
            time.sleep(3)
        parts.stop_mlflow()
        time.sleep(2)
        assert driver.poll() is None, it.told()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        parts.start_mlflow()
        shutil.rmtree(home)  # as that of a pod
        driver = it.drive(home=home)
        parts.stop_store()
        time.sleep(3)
        parts.start_store()
        ended(it, driver)
        assert "waiting for the lease" in it.told()
        monkeypatch.setenv("PARAPHRASE_HOME", str(home))
        check(it, in_quiet)
        ended(it, it.drive(home=home))
        assert "finished already" in it.told()


@pytest.mark.long
def test_3_a_node_that_is_cut_off_and_comes_back_changes_nothing(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        Network().remove()
    except (NotReady, FileNotFoundError) as error:
        pytest.skip(str(error))
    with stormy(tmp_path, monkeypatch, netns=True) as it:
        driver = it.drive()
        until(it.saved, driver, it.log)
        it.it.cut_node(1)
        until(lambda: "its node was lost" in it.told(), driver, it.log)
        it.it.mend_node(1)
        ended(it, driver)
        check(it, in_quiet)


@pytest.mark.long
def test_4_slow_links_to_the_servers_cost_time_alone(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stormy(tmp_path, monkeypatch, proxied=True) as it:
        for proxy in it.it.proxies.values():
            proxy.pass_on(delay=0.01)  # each way, of each piece
        ended(it, it.drive())
        check(it, in_quiet)


@pytest.mark.long
def test_10_a_driver_that_stands_still_on_a_cluster_that_it_fills_loses_the_sweep_to_the_next(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stormy(tmp_path, monkeypatch) as it:
        frozen = it.drive()
        until(it.saved, frozen, it.log)
        frozen.send_signal(signal.SIGSTOP)
        before, other = len(it.told()), tmp_path / "other"
        second = it.drive(home=other)  # of another machine, which has no cache
        until(lambda: "building the feature cache on the cluster" in it.told()[before:], second, it.log)
        frozen.send_signal(signal.SIGCONT)
        ended(it, frozen, 130)
        ended(it, second)
        monkeypatch.setenv("PARAPHRASE_HOME", str(other))
        check(it, in_quiet)


@pytest.mark.parametrize("notice", ["5_from_the_cloud", "6_by_sigterm"])
def test_a_node_that_is_announced_to_go_is_saved_to_the_store_at_once_and_costs_no_retry(
    furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice: str
) -> None:
    with stormy(tmp_path, monkeypatch, nodes=1) as it:
        driver = it.drive("trials=1", "base.train.epochs=100", "max_retries=0")
        until(lambda: it.saved(0), driver, it.log)
        began, first = time.monotonic(), it.saved(0)
        if notice == "6_by_sigterm":
            it.it.tell_node(1)
        else:
            it.it.drain_node(1, 20)
        until(lambda: it.saved(0)[-1] > first[-1], driver, it.log)
        assert time.monotonic() - began < UPLOAD_SECONDS - 2, "it was not saved because of the notice"
        it.it.start_node()
        it.it.kill_node(1)
        ended(it, driver)
        (row,) = exported("stormy")
        assert (row["state"], row["epochs"]) == ("complete", "100")


@pytest.mark.long
def test_7_a_cluster_that_is_gone_with_its_head_ends_the_driver_and_the_next_one_goes_on(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stormy(tmp_path, monkeypatch) as it:
        driver = it.drive()
        until(it.saved, driver, it.log)
        for node in it.it.cluster.nodes:
            it.it.kill_node(node.number)
        ended(it, driver, 130)
        assert "has not answered for 45 s" in it.told()
        it.it.restart_ray()
        ended(it, it.drive())
        check(it, in_quiet)


def test_31_and_32_a_cluster_without_nodes_is_waited_for_and_gpus_that_never_come_are_an_error(
    furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["trials=2", "base.train.epochs=2"]
    with stormy(tmp_path, monkeypatch, nodes=0) as it:
        code, line = it.refused(*small)
        assert code == 2 and "resources.gpus_per_trial: the cluster has no node for trials yet" in line
        code, line = it.refused(*small, "resources.gpus_per_trial=0", "resources.wait_for=0.03")
        assert code == 130 and "no node with 1 CPU came within the 0.03 min of resources.wait_for" in line
        driver = it.drive(*small, "resources.gpus_per_trial=0", "resources.wait_for=5")
        until(lambda: "waiting for a node with 1 CPU" in it.told(), driver, it.log)
        it.it.start_node()
        ended(it, driver)
        code, line = it.refused(*small, "resources.gpus_per_trial=1", "--name", "gpus")
        assert code == 2 and "resources.gpus_per_trial: 1 do not fit; there are 0; `resources.wait_for` waits for nodes" in line


@pytest.mark.long
def test_33_a_trial_that_gets_no_more_memory_is_tried_again_and_the_others_go_on(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stormy(tmp_path, monkeypatch) as it:
        driver = it.drive()
        pid = until(lambda: training(it.it.cluster.nodes[1]), driver, it.log)[0]
        resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))  # whatever it asks for now, it does not get
        ended(it, driver)
        assert "it goes on from its last finished epoch" in it.told()
        check(it, in_quiet)


def test_35_a_node_that_fails_three_trials_in_a_row_is_left_out(
    furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stormy(tmp_path, monkeypatch) as it:
        driver = it.drive("trials=7", "max_retries=0")
        bad = it.it.cluster.nodes[1]
        while driver.poll() is None:
            for pid in training(bad):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        assert driver.returncode == 0 and "3 trials in a row failed there; it is left out" in it.told(), it.told()
        states = Counter(row["state"] for row in exported("stormy"))
        assert states["failed"] <= 4 and states["complete"] >= 3


@pytest.mark.long
@pytest.mark.skipif(LIBRARY is None, reason="no libfaketime (apt-get install faketime)")
@pytest.mark.parametrize("minutes", ["+10m", "-10m"])
def test_36_clocks_that_differ_change_nothing(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: str
) -> None:
    with stormy(tmp_path, monkeypatch, nodes=1) as it:
        it.it.start_node(LD_PRELOAD=str(LIBRARY), FAKETIME=minutes)
        driver = it.drive()
        until(it.saved, driver, it.log)
        it.it.kill_node(1)  # trials go from one clock to the other
        it.it.start_node()
        ended(it, driver)
        check(it, in_quiet)


@pytest.mark.long
@pytest.mark.skipif(LIBRARY is None, reason="no libfaketime (apt-get install faketime)")
def test_36_a_clock_that_is_an_hour_wrong_is_named_since_s3_refuses_it(
    furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stormy(tmp_path, monkeypatch, nodes=1) as it:
        it.it.start_node(LD_PRELOAD=str(LIBRARY), FAKETIME="+1h")
        code, line = it.refused()
        assert code == 2 and "node" in line and "refuses access" in line and "time" in line


@pytest.mark.long
def test_a_home_whose_disk_is_full_is_waited_for(
    in_quiet: Rows, warm_home: Path, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without servers: study, record, checkpoints and explainers lie on that disk."""
    home, log = small_disk / "home", tmp_path / "log"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PARAPHRASE_HOME", str(home))
    shutil.copytree(warm_home, home)
    run = command("sweep", "run", str(stormy_sweep(tmp_path)))
    driver = subprocess.Popen(run, stdout=log.open("w"), stderr=subprocess.STDOUT)
    until(lambda: list(home.glob("sweeps/stormy/trials/1/checkpoint*")), driver, log)
    filler = fill(small_disk)
    until(lambda: "disk is full" in log.read_text(), driver, log)
    time.sleep(20)
    assert driver.poll() is None, log.read_text()
    filler.unlink()
    assert driver.wait(PATIENCE) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    assert exported("stormy") == in_quiet


@pytest.mark.long
def test_16_mlflow_away_for_five_minutes_costs_nothing(
    in_quiet: Rows, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stormy(tmp_path, monkeypatch) as it:
        driver = it.drive()
        until(it.saved, driver, it.log)
        it.it.stop_mlflow()
        time.sleep(300)
        assert driver.poll() is None, it.told()
        it.it.start_mlflow()
        ended(it, driver)
        check(it, in_quiet)
