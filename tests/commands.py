"""Commands as a user gives them."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from paraphrase.cli import main

SMALL: dict[str, Any] = {
    "data": {"train_images": 96, "test_images": 48},
    "performer": {"fit": {"epochs": 2, "batch_size": 16}},
}
"""The base of sweeps and suites in tests: the smallest data, which `furnished` homes have ready."""

PATIENCE = 600.0
"""Seconds; what takes longer hangs."""


def small_sweep(folder: Path, name: str, epochs: int = 3, resources: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The file of a small sweep, one trial at a time: a worker takes longer to start than its trials to train.

    It has one objective, since figures of all pairs take longer to draw than its trials to train.
    """
    sweep = {
        "base": SMALL | {"train": {"epochs": epochs, "batch_size": 32}, "explainer": {"interp_widths": [8]}},
        "space": {"loss.eta": {"type": "float", "low": 0.3, "high": 3.0, "log": True}},
        "objectives": {"reconstruction_error": "minimize"},
        "trials": 4,
        "resources": {"concurrency": 1} | (resources or {}),
    } | changes
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(sweep))
    return file


def until(condition: Callable[[], Any], process: subprocess.Popen | None = None, log: Path | None = None) -> Any:
    """Wait until something holds, while a process runs.

    Args:
        log: of the process, which is shown if it ends too early.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        assert process is None or process.poll() is None, log.read_text() if log else "it ended too early"
        time.sleep(0.05)
    raise AssertionError("waited too long")


def exported(name: str) -> list[dict[str, str]]:
    """Of `sweep export`, without what takes different time."""
    text = paraphrase_here("sweep", "export", name).stdout
    return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(io.StringIO(text))]


def check_runs(client: MlflowClient, name: str, trials: int, epochs: int) -> list[Run]:
    """A sweep's runs in MLflow, of which each trial has one, each series of a complete one without gap or double."""
    experiment = client.get_experiment_by_name("paraphrase")
    runs = client.search_runs([experiment.experiment_id], f"tags.study = '{name}'", max_results=1000)
    assert Counter(r.data.tags["kind"] for r in runs) == {"sweep": 1, "trial": trials}
    numbers = sorted(int(r.data.tags["trial_number"]) for r in runs if r.data.tags["kind"] == "trial")
    assert numbers == list(range(trials))
    for run in runs:
        if run.data.tags.get("trial_state") != "complete":
            continue
        assert run.info.status == "FINISHED"
        for key in ("p", "reconstruction_error", "fidelity", "loss_filter", "seconds"):
            steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
            assert sorted(steps) == list(range(1, epochs + 1)), (run.info.run_name, key, steps)
    parent = next(r for r in runs if r.data.tags["kind"] == "sweep")
    assert parent.info.status == "FINISHED"
    return list(runs)


def command(*arguments: str) -> list[str]:
    """`paraphrase` for a process of its own."""
    return [sys.executable, "-m", "paraphrase", *arguments]


def paraphrase(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as what starts Ray must be."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE)


def paraphrase_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has imported already what takes longer than the command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(arguments))
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one of pytest's processes makes and all of them read."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            try:
                make(folder)
            except BaseException:  # nobody may read a half of it
                shutil.rmtree(folder)
                raise
    return folder
