"""A sweep on two nodes, of which one is lost after the first epoch and another comes: `make cluster-demo`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
from mlflow.entities import Run
from parts import BIN
from processes import NotReady
from up import Local

SMALL = (
    "trials=4",
    "base.train.epochs=2",
    "base.data.train_images=96",
    "base.data.test_images=48",
    "base.performer.fit.epochs=3",
)
"""What makes the embedded sweep one of minutes."""


def say(text: str) -> None:
    """A line about what happens to the machines, between those of the sweep."""
    print(f"--- {text}", flush=True)


def trials(uri: str) -> list[Run]:
    """What MLflow knows of the trials."""
    client = mlflow.MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments() if e.name == "paraphrase"]
    runs = client.search_runs(experiments) if experiments else []
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def first_epoch(uri: str, sweep: subprocess.Popen[bytes]) -> bool:
    """Wait until a trial has an epoch's metrics; False if the sweep ends before."""
    while not any(run.data.metrics for run in trials(uri)):
        if sweep.poll() is not None:
            return False
        time.sleep(0.5)
    return True


def main() -> int:
    """The sweep's exit status."""
    with tempfile.TemporaryDirectory(prefix="paraphrase-demo-") as folder:
        say("starting Postgres, an S3 server, MLflow, and Ray with two nodes")
        try:
            with Local(Path(folder)) as it:
                say(", ".join(f"{part} after {seconds:.1f} s" for part, seconds in it.seconds.items()))
                return lose_a_node(it)
        except NotReady as error:
            print(f"error: {error}", file=sys.stderr)
            return 2


def lose_a_node(it: Local) -> int:
    """Run the sweep, and take one of its two nodes away."""
    os.environ |= it.environment | {"PARAPHRASE_HOME": f"{it.folder}/home"}
    places = (f"storage={it.storage}", f"tracking_uri={it.tracking_uri}", f"store={it.store}")
    sweep = subprocess.Popen([BIN / "paraphrase", "sweep", "run", "menagerie", "--name", "demo", *SMALL, *places])
    try:
        if first_epoch(it.tracking_uri, sweep):
            it.kill_node(1)
            say("the first epoch is there: node 1 was killed with all that it had, node 2 trains on")
            say(f"node {it.start_node()} has joined")
        code = sweep.wait()
        finished = [run for run in trials(it.tracking_uri) if run.info.status == "FINISHED"]
        say(f"the sweep ended with status {code}; of its 4 trials, MLflow has {len(finished)} finished runs")
        return code
    finally:
        sweep.terminate()
        sweep.wait()


if __name__ == "__main__":
    sys.exit(main())
