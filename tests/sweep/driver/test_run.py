"""Real sweeps over real training, through the command line, with Ray."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from commands import PATIENCE, SMALL, check_runs, command, paraphrase, paraphrase_here, small_sweep, until
from optuna.trial import TrialState

from paraphrase.core.config import load_config, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.train.training import Training
from paraphrase.sweep.commands import Sweep
from paraphrase.sweep.driver.plan import describe_plan
from paraphrase.sweep.driver.run import _warm_start
from paraphrase.sweep.driver.searcher import BATCH, drop_leftovers
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.settings.config import load_sweep
from paraphrase.sweep.settings.folder import (
    CHECKPOINT,
    keep_sweep,
    read_sweep,
    storage_url,
    sweep_folder,
    trial_folder,
    write_yaml,
)
from paraphrase.sweep.study.study import open_study
from paraphrase.sweep.workers.batches import SECONDS_IN_BATCH, best_batch
from paraphrase.sweep.workers.cluster import worker_settings
from paraphrase.sweep.workers.trainable import ExplainerTrial

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

EPOCHS = 3


@pytest.fixture(autouse=True)
def home(furnished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return furnished


def workers(parent: int) -> list[int]:
    """Trials' worker processes below a process: a driver, or this one where its Ray is used."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
    rows = [(int(r.split()[0]), int(r.split()[1]), r.split(None, 2)[2]) for r in table]
    below, found = {parent}, []
    for _ in range(6):
        below |= {pid for pid, ppid, _ in rows if ppid in below}
    for pid, _, name in rows:
        if pid in below and "ray::ExplainerTrial" in name:
            found.append(pid)
    return found


def check_record(home: Path, name: str, trials: int, epochs: int = EPOCHS) -> dict[str, Any]:
    """The record is whole: the budget's number of ended trials, one run each, every series without gap or double."""
    shown = json.loads(paraphrase_here("sweep", "show", name, "--json").stdout)
    states = shown["trials"]
    assert states["complete"] + states["pruned"] + states["failed"] == trials
    assert states["running"] == states["waiting"] == 0
    client = open_client(f"sqlite:///{home / 'mlflow.db'}")
    for run in check_runs(client, name, trials, epochs):
        if run.data.tags.get("trial_state") == "complete":
            assert {"config.yaml", "explainer"} <= {a.path for a in client.list_artifacts(run.info.run_id)}
    return shown


def test_killed_driver_and_killed_worker_cost_nothing_but_time(home: Path, tmp_path: Path) -> None:
    epochs = 8
    base = SMALL | {"train": {"epochs": epochs, "batch_size": 16}, "explainer": {"interp_widths": [8]}}
    file = small_sweep(tmp_path, "killed", base=base, trials=2, resources={"concurrency": 2})
    trials = home / "sweeps" / "killed" / "trials"
    driver = subprocess.Popen(command("sweep", "run", str(file)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: list(trials.glob("*/checkpoint/0*/checkpoint.safetensors")), driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    log = tmp_path / "log"
    with log.open("w") as out:
        driver = subprocess.Popen(command("sweep", "resume", "killed"), stdout=out, stderr=out)
        os.kill(until(lambda: workers(driver.pid), driver)[0], signal.SIGKILL)
        assert driver.wait(PATIENCE) == 0
    assert "it goes on from its last finished epoch" in log.read_text()
    shown = check_record(home, "killed", 2, epochs)
    assert shown["trials"]["complete"] == 2 and shown["pareto"] and shown["seconds"] > 0
    assert "location_instability" in shown["performer"]


def test_a_trial_that_cannot_go_on_ends_alone_and_a_sweep_goes_on_only_as_it_was_begun(
    home: Path, tmp_path: Path, ray_here: str
) -> None:
    space = {"loss.eta": {"type": "categorical", "choices": [0.3, 1e39, 1.0]}}
    file = small_sweep(tmp_path, "failing", space=space, trials=3, sampler="grid", resources={"trials_per_batch": 3})
    ran = paraphrase_here("sweep", "run", str(file))
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[1].startswith("performer") and lines[6].startswith("trial ")
    shown = check_record(home, "failing", 3)
    assert (shown["trials"]["complete"], shown["trials"]["failed"]) == (2, 1)
    assert "the loss is not finite" in paraphrase_here("sweep", "export", "failing").stdout
    again = paraphrase_here("sweep", "run", str(file))
    assert again.returncode == 2 and "exists already" in again.stderr
    other = paraphrase_here("sweep", "run", str(file), "--resume", "base.train.epochs=9")
    assert other.returncode == 2 and "was begun with base.train.epochs=3, which cannot become 9" in other.stderr
    same = paraphrase_here("sweep", "run", str(file), "--resume", "resources.concurrency=2")
    assert same.returncode == 0 and "finished already" in same.stderr


def test_interrupted_sweep_says_how_to_go_on_and_takes_a_larger_budget(home: Path, tmp_path: Path, on_ray_here: str) -> None:
    file = small_sweep(tmp_path, "topped", trials=2)
    driver = subprocess.Popen(command("sweep", "run", str(file)), stderr=subprocess.PIPE, text=True)
    until(lambda: workers(os.getpid()), driver)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130 and "paraphrase sweep resume topped" in errors
    resumed = paraphrase_here("sweep", "resume", "topped", "--trials", "3")
    assert resumed.returncode == 0, resumed.stderr
    check_record(home, "topped", 3)
    picked = json.loads(paraphrase_here("sweep", "pick", "topped", "--json").stdout)
    assert (Path(picked["folder"]) / "config.yaml").exists()
    assert paraphrase_here("sweep", "delete", "topped").returncode == 0
    assert "sweep topped: not found" in paraphrase_here("sweep", "show", "topped").stderr


@pytest.mark.parametrize("inherited", [signal.SIG_IGN, signal.SIG_DFL])
def test_sigterm_ends_a_driver_that_was_started_in_the_background(inherited: signal.Handlers) -> None:
    """A shell has what it starts with `&` ignore SIGINT, which SIGTERM was turned into; Ray Tune's handler comes later."""
    code = """
import os, signal, time
from paraphrase.sweep.driver.run import _sigterm_like_sigint

try:
    with _sigterm_like_sigint():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""
    run = [sys.executable, "-c", code]
    ran = subprocess.run(run, capture_output=True, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, inherited))
    assert ran.stdout == "interrupted\n", ran.stderr


def test_sigterm_while_ray_starts_ends_the_driver_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run, log = command("sweep", "run", str(small_sweep(tmp_path, "told"))), tmp_path / "log"
    with log.open("w") as out:
        driver = subprocess.Popen(run, stderr=out, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    until(lambda: "0 of 4 trials done" in log.read_text(), driver, log)
    time.sleep(0.5)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(PATIENCE) == 130
    assert "Exception ignored" not in log.read_text() and "Traceback" not in log.read_text()


def test_a_study_that_is_gone_is_said_and_not_begun_again(home: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small_sweep(tmp_path, "gone", storage=f"sqlite:///{tmp_path / 'study.db'}"))
    keep_sweep(sweep)
    (home / "sweeps" / "gone" / "trials" / "0").mkdir(parents=True)
    for action in ("resume", "show", "export", "pick"):
        found = paraphrase_here("sweep", action, "gone")
        assert found.returncode == 2 and not (tmp_path / "study.db").exists()
        assert "sweep gone: its study is not in sqlite:///" in found.stderr and "paraphrase sweep delete gone" in found.stderr
    assert "sweep gone: its study is not" in paraphrase_here("sweep", "list").stderr
    assert paraphrase_here("sweep", "delete", "gone").returncode == 0


def test_where_there_is_a_store_the_home_may_vanish(
    home: Path, tmp_path: Path, ray_here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAPHRASE_SCRATCH", str(tmp_path / "scratch"))
    file = small_sweep(tmp_path, "stored", trials=1)
    where = [f"store={(tmp_path / 'store').as_uri()}", *(f"{k}=sqlite:///{tmp_path / k}.db" for k in ("storage", "tracking_uri"))]
    ran = paraphrase_here("sweep", "run", str(file), *where)
    assert ran.returncode == 0, ran.stderr
    trial = trial_folder("stored", 0)
    assert (trial / "filters.png").exists() and (trial / "explainer" / "explainer.safetensors").exists()
    assert not list((tmp_path / "scratch" / "sweeps").glob("*/trials/*"))  # a node keeps nothing of a trial that has ended
    shutil.rmtree(home / "sweeps")
    again = paraphrase_here("sweep", "run", str(file), "--resume", "trials=2", *where)
    assert again.returncode == 0, again.stderr
    assert Sweep("stored").best().explainer.interp_widths == [8]
    assert (tmp_path / "store" / "sweeps" / "stored" / "report" / "report.html").exists()
    assert paraphrase_here("sweep", "delete", "stored").returncode == 0
    assert not (tmp_path / "store" / "sweeps" / "stored").exists()
    assert (tmp_path / "mlartifacts").is_dir() and not Path("mlruns").exists()  # beside the database, not where one stands


def test_a_dry_run_says_that_the_data_are_not_there() -> None:
    ran = paraphrase_here("sweep", "run", "birds", "--dry-run", "base.data.path=nowhere")
    assert ran.returncode == 2 and "trials: " in ran.stdout
    assert ran.stderr.startswith(f"paraphrase: data.path: there is no folder {Path.cwd() / 'nowhere'}; get CUB")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("base.data.source=nosuch", "data.source: unknown source 'nosuch'"),
        ("base.data.categories=[cat,bat]", "data.categories.1: unknown category 'bat'; did you mean 'cat'?"),
        ("base.performer.arch=nosuch", "performer.arch: unknown"),
        ("base.performer.weights=/nowhere/weights.pth", "performer.weights: /nowhere/weights.pth does not exist"),
        ("base.performer.feature=features.99", "performer.feature: small has no module features.99"),
        ("base.train.device=cuda:7", "train.device: cuda:7 is not available"),
        ("resources.cpus_per_trial=1000", "resources.cpus_per_trial: 1000 do not fit"),
        ("tracking_uri=http://me:hunter2@127.0.0.1:9", "tracking_uri: http://me@127.0.0.1:9 cannot be opened"),
        ("warm_start=nobody", "sweep nobody: not found"),
        ("store=file:///proc/nowhere", "store: file:///proc/nowhere: "),
    ],
)
def test_a_dry_run_says_what_would_stop_the_sweep(home: Path, tmp_path: Path, change: str, message: str) -> None:
    before = sorted(home.rglob("*"))
    ran = paraphrase_here("sweep", "run", str(small_sweep(tmp_path, "planned")), "--dry-run", change)
    assert ran.returncode == 2 and ran.stderr.splitlines()[-1].startswith(f"paraphrase: {message}"), ran.stderr
    assert "hunter2" not in ran.stdout + ran.stderr
    assert sorted(home.rglob("*")) == before


def test_a_sweep_whose_trials_all_fail_for_one_cause_is_given_up_and_they_can_be_tried_again(
    home: Path, tmp_path: Path, ray_here: str
) -> None:
    file = small_sweep(tmp_path, "doomed", epochs=1, max_retries=0, trials=5)
    for number in range(5):  # where an explainer is to be written
        trial_folder("doomed", number).mkdir(parents=True)
        (trial_folder("doomed", number) / "explainer").write_text("in the way")
    ran = paraphrase_here("sweep", "run", str(file))
    assert ran.returncode == 1, ran.stderr
    assert "3 trials in a row failed, and none went well: " in ran.stderr and "--retry-failed" in ran.stderr
    assert json.loads(paraphrase_here("sweep", "show", "doomed", "--json").stdout)["trials"]["failed"] == 3
    shutil.rmtree(home / "sweeps" / "doomed" / "trials")
    again = paraphrase_here("sweep", "resume", "doomed", "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert "3 failed trials are tried again" in again.stderr
    trials = Sweep("doomed").study.trials
    assert [t.state for t in trials] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE] * 5
    assert [t.params for t in trials[3:6]] == [t.params for t in trials[:3]]
    assert json.loads(paraphrase_here("sweep", "show", "doomed", "--json").stdout)["trials"]["complete"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [("warm_start=nobody", "sweep nobody: not found"), ("tracking_uri=nowhere://x", "tracking_uri: nowhere")],
)
def test_what_cannot_be_opened_leaves_nothing_behind(home: Path, tmp_path: Path, change: str, message: str) -> None:
    refused = paraphrase_here("sweep", "run", str(small_sweep(tmp_path, "unborn")), change)
    assert refused.returncode == 2 and message in refused.stderr
    assert not (home / "sweeps" / "unborn").exists()


def test_a_warm_start_that_is_done_needs_its_source_no_more(home: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small_sweep(tmp_path, "warm"), ["warm_start=gone"])
    study = open_study(sweep, storage_url(sweep), create=True)
    with pytest.raises(InputError, match="sweep gone: not found"):
        _warm_start(study, sweep)
    study.set_user_attr("warm_started", 3)
    _warm_start(study, sweep)


def test_a_dry_run_counts_gpus_as_the_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(small_sweep(tmp_path, "dry", resources={"concurrency": None, "cpus_per_trial": 0.1}))
    assert "4 at once" in describe_plan(sweep)  # its budget
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert "1 at once" in describe_plan(sweep)


def test_a_sweep_whose_tracking_store_is_gone_can_be_deleted(home: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small_sweep(tmp_path, "orphan"), ["tracking_uri=nowhere://x"])
    open_study(sweep, storage_url(sweep), create=True)
    write_yaml(sweep_folder("orphan") / "sweep.yaml", sweep)
    deleted = paraphrase_here("sweep", "delete", "orphan")
    assert deleted.returncode == 0 and "its runs were not deleted: tracking_uri: nowhere" in deleted.stderr
    assert not sweep_folder("orphan").exists()


def test_a_worker_killed_in_its_first_save_begins_anew(home: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small_sweep(tmp_path, "half"), ["trials=1"])
    folder = trial_folder("half", 0)
    (folder / "checkpoint" / ".000001-0001.99").mkdir(parents=True)
    (folder / "checkpoint" / ".000001-0001.99" / "checkpoint.safetensors").write_bytes(b"half")
    member = {"number": 0, "config": to_mapping(sweep.base_config())}
    place = {"sweep": "half", "cache": None, "rungs": []}
    trial = ExplainerTrial({"number": 0, "members": [member], **place, **worker_settings(sweep)})
    result = trial.step()
    assert "ended" not in result and result["epoch"] == 1


def test_what_a_killed_driver_left_of_ended_trials_is_deleted(home: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small_sweep(tmp_path, "left"))
    study = open_study(sweep, storage_url(sweep), create=True)
    trials = [study.ask() for _ in range(4)]
    for trial in trials[1:3]:
        trial.set_user_attr(BATCH, [1, 2])
    for trial in trials[:2]:  # the first trial of the batch has ended, but its checkpoint holds the second one too
        study.tell(trial, state=TrialState.FAIL)
    for trial in trials:
        (trial_folder("left", trial.number) / CHECKPOINT).mkdir(parents=True)
    drop_leftovers(study, sweep)
    assert [(trial_folder("left", t.number) / CHECKPOINT).exists() for t in trials] == [False, True, True, True]


def test_bad_data_leaves_nothing_behind(home: Path, tmp_path: Path) -> None:
    file = small_sweep(tmp_path, "bad", base={"data": {"source": "cub", "path": str(tmp_path / "nowhere")}})
    ran = paraphrase_here("sweep", "run", str(file))
    assert ran.returncode == 2 and len(ran.stderr.strip().splitlines()) == 1
    assert not (home / "sweeps" / "bad").exists()


def arms_sweep(folder: Path, name: str, seeds: int = 2, masks: tuple[str, ...] = ("none", "peak"), **resources: Any) -> Path:
    """A grid of loss weights and seeds, of which those with one mask can share a batch."""
    space = {
        "loss.lambda_f": {"type": "categorical", "choices": [0.0, 3.0]},
        "explainer.mask": {"type": "categorical", "choices": list(masks)},
        "train.seed": {"type": "int", "low": 0, "high": seeds - 1},
    }
    # without the terms whose gradients let rounding errors of a batched product grow fast
    base = SMALL | {"train": {"epochs": EPOCHS, "batch_size": 32}, "explainer": {"interp_widths": [8]}}
    base |= {"loss": {"lambda_r": 0.0, "lambda_m": 0.0, "lambda_g": 0.0, "kappa": 1.5, "eta": 1.4}}
    trials = 2 * len(masks) * seeds
    return small_sweep(folder, name, base=base, space=space, sampler="grid", trials=trials, resources=resources)


def batches(name: str) -> set[tuple[int, ...]]:
    """The batches in which the trials of a sweep were trained, each by its trials' numbers."""
    sweep = read_sweep(name)
    trials = open_study(sweep, storage_url(sweep)).get_trials(deepcopy=False)
    return {tuple(t.user_attrs.get(BATCH, [t.number])) for t in trials}


def test_trials_that_share_a_batch_end_as_trials_of_their_own(home: Path, tmp_path: Path, ray_here: str) -> None:
    ran = paraphrase_here("sweep", "run", str(arms_sweep(tmp_path, "batched", seeds=1, trials_per_batch=4)))
    assert ran.returncode == 0, ran.stderr
    check_record(home, "batched", 4)
    assert Counter(map(len, batches("batched"))) == {2: 2}  # two have one mask
    rows = list(csv.DictReader(paraphrase_here("sweep", "export", "batched").stdout.splitlines()))
    assert len({(row["loss.lambda_f"], row["explainer.mask"]) for row in rows}) == 4
    for row in rows:
        config = load_config(trial_folder("batched", int(row["number"])) / "config.yaml")
        alone = Training(config, open_cache(config, progress=False))
        while not alone.finished:
            metrics = alone.run_epoch()
        for name in ("location_instability", "p", "reconstruction_error", "fidelity", "mutual_information"):
            assert float(row[name]) == pytest.approx(metrics[name], rel=2e-2, abs=5e-3), (row["number"], name)
    assert not list((home / "sweeps" / "batched" / "trials").glob("*/checkpoint"))  # three times as large as what is kept


def test_a_killed_driver_goes_on_with_its_batches_and_one_whose_worker_died_too_often_is_tried_trial_by_trial(
    home: Path, tmp_path: Path, on_ray_here: str
) -> None:
    file = arms_sweep(tmp_path, "batches", seeds=3, masks=("none",))
    epochs = 8

    def saved(size: int) -> set[int]:
        """First trials of the batches of this size that have a checkpoint."""
        found = {int(f.parents[2].name) for f in (home / "sweeps" / "batches" / "trials").glob("*/checkpoint/0*/*.safetensors")}
        return found & {batch[0] for batch in batches("batches") if len(batch) == size} if found else set()

    settings = [f"base.train.epochs={epochs}", "resources.trials_per_batch=1", "trials=4", "max_retries=0"]
    arguments = ["run", str(file), *settings]
    for size in (1, 2):
        driver = subprocess.Popen(command("sweep", *arguments), stderr=subprocess.DEVNULL)
        until(lambda size=size: saved(size), driver)
        driver.kill()
        driver.wait()
        arguments = ["resume", "batches", "resources.trials_per_batch=2"]
    resumed = paraphrase_here("sweep", "resume", "batches")
    assert resumed.returncode == 0, resumed.stderr
    check_record(home, "batches", 4, epochs)
    ended = batches("batches")
    assert Counter(map(len, ended)) == {1: 2, 2: 1}  # what began alone went on alone

    driver = subprocess.Popen(command("sweep", "resume", "batches", "--trials", "6"), stderr=subprocess.DEVNULL)
    until(lambda: saved(2), driver)
    os.kill(workers(os.getpid())[0], signal.SIGKILL)
    assert driver.wait(PATIENCE) == 0
    assert check_record(home, "batches", 6, epochs)["trials"]["complete"] == 6
    assert batches("batches") == ended | {(4,), (5,)}


def test_trials_that_fit_are_asked_of_the_cluster_at_once(home: Path, tmp_path: Path, on_ray_here: str) -> None:
    """So that an autoscaler sees all that is wanted: while others hold the machine, both trials wait for it together."""
    import ray
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    held = placement_group([{"CPU": 1}] * int(ray.cluster_resources()["CPU"]))
    ray.get(held.ready())
    try:
        file = small_sweep(tmp_path, "demand", trials=2, resources={"concurrency": 2})
        driver = subprocess.Popen(command("sweep", "run", str(file)), stderr=subprocess.DEVNULL)
        until(lambda: [group["state"] for group in placement_group_table().values()].count("PENDING") == 2, driver)
    finally:
        remove_placement_group(held)
    assert driver.wait(PATIENCE) == 0
    assert check_record(home, "demand", 2)["trials"]["complete"] == 2


def test_batches_keep_to_the_budget(home: Path, tmp_path: Path, ray_here: str) -> None:
    start = [{"loss.eta": eta} for eta in (0.4, 0.5, 0.6, 0.7)]
    file = small_sweep(tmp_path, "budget", start=start, trials=2, resources={"trials_per_batch": 8})
    ran = paraphrase_here("sweep", "run", str(file))
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(paraphrase_here("sweep", "show", "budget", "--json").stdout)["trials"]
    assert shown["complete"] == 2 and shown["running"] == 0


def test_where_a_cluster_has_gpus_the_size_of_a_batch_is_measured_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"GPU": 1}))  # Ray places by it; torch trains on what there is
    file = arms_sweep(tmp_path, "measured", seeds=1, masks=("none",))
    ran = paraphrase("sweep", "run", str(file))
    assert ran.returncode == 0, ran.stderr
    check_record(home, "measured", 2)
    sweep = read_sweep("measured")
    taken = open_study(sweep, storage_url(sweep)).user_attrs[SECONDS_IN_BATCH]
    assert list(taken) == ["1", "2", "4", "8"] and all(0 < seconds < 60 for seconds in taken.values())
    size = best_batch({int(size): seconds for size, seconds in taken.items() if int(size) <= 2})  # as many as there are trials
    assert max(map(len, batches("measured"))) == size
    assert ("train as one batch" in ran.stderr) == (size > 1)
