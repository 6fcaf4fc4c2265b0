"""What a trial costs besides its training: `python tests/benchmarks/trials.py [trials] [sampler]`.

Trials of one epoch of nothing, through the real driver with study and MLflow in sqlite files, against Ray Tune alone with the
same trainable in the same run; seconds a trial in each tenth of them, the driver's memory and the sizes of the databases.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

METRICS = {f"metric_{i}": 0.5 for i in range(30)} | {"reconstruction_error": 0.1, "p": 0.9, "landmark_error": 0.1}


def trainable() -> type:
    """One epoch of nothing, reported as a trial's is."""
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.number = config.get("number", 0)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.number = new_config.get("number", 0)
            return True

        def step(self) -> dict[str, Any]:
            entry = METRICS | {"epoch": 1, "seconds": 0.0, "timestamp": int(time.time() * 1000)}
            return entry | {"history": [(self.number, [entry])], "explainers": [], "done": True}

    return Nothing


def tenths(times: list[float]) -> str:
    """Seconds a trial in each tenth."""
    n = max(1, len(times) // 10)
    ends = [times[i : i + n] for i in range(0, len(times), n)]
    return " ".join(f"{(part[-1] - part[0]) / max(1, len(part) - 1):.3f}" for part in ends if len(part) > 1)


def memory() -> float:
    """Largest MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(trials: int) -> list[float]:
    """When Ray Tune's own random search ended each trial."""
    from ray import tune

    times: list[float] = []

    class Times(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            times.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        tune.run(
            trainable(),
            config={"x": tune.uniform(0, 1)},
            num_samples=trials,
            storage_path=folder,
            resources_per_trial={"cpu": 1},
            reuse_actors=True,
            max_concurrent_trials=2,
            verbose=0,
            callbacks=[Times()],
        )
    return times


def ours(trials: int, sampler: str) -> list[float]:
    """When our driver ended each trial, in study and MLflow."""
    from paraphrase.sweep.driver import progress
    from paraphrase.sweep.driver.run import _run_trials, open_recorder
    from paraphrase.sweep.driver.session import Session
    from paraphrase.sweep.process import Process
    from paraphrase.sweep.settings.config import find_sweep_file, load_sweep
    from paraphrase.sweep.settings.folder import keep_sweep, storage_url
    from paraphrase.sweep.study.study import open_study
    from paraphrase.sweep.workers import trainable as module
    from paraphrase.sweep.workers.tasks import Tasks

    times: list[float] = []
    ended = progress.Progress.ended
    progress.Progress.ended = lambda *a: (times.append(time.monotonic()), ended(*a))[1]  # type: ignore[method-assign, func-returns-value]
    module.ExplainerTrial = trainable()  # type: ignore[misc]
    objectives = [
        "objectives={reconstruction_error: minimize, p: maximize}",
        "resources.concurrency=2",
        "start=[]",
        "base.train.epochs=1",
    ]
    sweep = load_sweep(find_sweep_file("menagerie"), [f"trials={trials}", f"sampler={sampler}", *objectives], "nothing")
    keep_sweep(sweep)
    study = open_study(sweep, storage_url(sweep), create=True)
    meta: dict[str, Any] = {
        "dataset_fingerprint": "-",
        "performer_fingerprint": "-",
        "key": "-",
        "dataset": "-",
        "performer": "-",
    }
    meta["images"] = {"train": 0, "test": 0}
    with closing(Process("writes to MLflow")) as process:
        recorder = open_recorder(sweep, study, meta, process)
        tasks = Tasks(sweep)
        tasks.meta = meta
        session = Session(sweep, study, recorder, tasks, time.monotonic(), 0.0)
        _run_trials(session)
        recorder.close()
    share = recorder.seconds / (times[-1] - times[0])
    print(f"  MLflow, in its process: {recorder.seconds / trials * 1e3:.0f} ms a trial, {share:.0%} of the time")
    return times


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    sampler = sys.argv[2] if len(sys.argv) > 2 else "random"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARAPHRASE_HOME"] = folder
        from paraphrase.sweep.settings.config import Resources
        from paraphrase.sweep.workers.cluster import cluster

        with cluster(Resources()):
            theirs = alone(trials)
            before = memory()
            mine = ours(trials, sampler)
        sizes = {p.name: p.stat().st_size / 2**20 for p in Path(folder).glob("*.db")}
    tune, own = ((t[-1] - t[0]) / (len(t) - 1) for t in (theirs, mine))
    print(
        f"{trials} trials, {sampler}: Ray Tune alone {tune:.3f} s a trial, with study and record {own:.3f}: {own - tune:+.3f} s"
    )
    print(f"  Ray Tune alone, by tenths: {tenths(theirs)}")
    print(f"  with study and record:     {tenths(mine)}")
    print(f"  driver's memory {before:.0f} -> {memory():.0f} MiB; " + ", ".join(f"{k} {v:.1f} MiB" for k, v in sizes.items()))


if __name__ == "__main__":
    main()
