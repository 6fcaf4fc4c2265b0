"""A user's own modules are called core, sweep and ablations too: ours are taken wherever a sweep is started."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import PATIENCE, SMALL, command

QUICK = {
    "base": SMALL | {"train": {"epochs": 1, "batch_size": 32}},
    "space": {"loss.eta": {"type": "float", "low": 0.3, "high": 3.0, "log": True}},
    "objectives": {"reconstruction_error": "minimize"},
    "trials": 2,
}


@pytest.fixture
def theirs(tmp_path: Path, furnished: Path) -> Path:
    """A folder in which every one of our names is theirs; whoever imports one of them ends."""
    folder = tmp_path / "theirs"
    for module in ("sweep.py", "core/__init__.py", "ablations.py", "train.py", "schema.py"):
        (folder / module).parent.mkdir(parents=True, exist_ok=True)
        (folder / module).write_text("raise SystemExit('this is theirs')")
    (folder / "mine.yaml").write_text(yaml.safe_dump(QUICK))
    return folder


@pytest.fixture
def running_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster that was there before, started elsewhere, with a token of its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = str(Path(sys.executable).parent / "ray")
    start = [ray, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    head = subprocess.Popen([*start, "--include-dashboard=false", "--block"], cwd="/", env=environment, stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(60)


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.cluster
def test_a_sweep_started_beside_modules_of_our_names_trains_and_says_why_no_trial_is_complete(theirs: Path) -> None:
    """The reason is that of our training, in a worker: theirs would have ended it."""
    path = os.pathsep.join([str(theirs), os.environ.get("PYTHONPATH", "")])
    done = run(theirs, "sweep", "run", "mine.yaml", "base.train.learning_rate=1e30", PYTHONPATH=path)
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if "no trial is complete" in line]
    assert last == ["sweep mine: no trial is complete: the loss is not finite in epoch 1 (seed 0) (2 of 2)"]
    assert "Traceback" not in done.stderr and "worker died" not in done.stderr


@pytest.mark.cluster
def test_it_is_whole_on_a_running_cluster(theirs: Path, running_cluster: str) -> None:
    done = run(theirs, "sweep", "run", "mine.yaml", "trials=1", RAY_ADDRESS=running_cluster)
    assert done.returncode == 0, done.stderr
    assert "worker died" not in done.stderr and "trial 0" in done.stdout


def test_a_script_of_theirs_can_import_both(theirs: Path) -> None:
    (theirs / "core" / "__init__.py").write_text("MINE = True")
    (theirs / "script.py").write_text("import core, paraphrase.core.config as ours; assert core.MINE and ours.Config().loss.eta")
    done = subprocess.run([sys.executable, "script.py"], cwd=theirs, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
