"""A driver killed before and after everything that it writes: each sweep must end as one in quiet.

    PYTHONPATH=tests:infra/local python tests/infra/kills.py [--trials 6] [--seed 0] [--most 1000]

`make cluster-test` runs it. What is written, and where, is noted in quiet first; see `crash.py`. A sweep goes on with the next
kill until it is done; then another one begins, whose driver has nothing but the store and the servers.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from commands import check_runs, exported, small_sweep
from up import Local

from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.store.objects import Store

EPOCHS = 10
CRASH = Path(__file__).with_name("crash.py")


class Sweeps:
    """Sweeps of one kind, one after the other, each in a home of its own.

    Args:
        it: what they run on.
        folder: of their homes and notes.
        trials: of each.
    """

    def __init__(self, it: Local, folder: Path, trials: int) -> None:
        self.it, self.folder, self.trials = it, folder, trials
        self.number, self.killed = 0, 0
        self.begin()

    def begin(self) -> None:
        """The next one."""
        self.number += 1
        self.name = f"killed-{self.number}"
        self.home, self.log, self.notes = (self.folder / f"{self.name}.{of}" for of in ("home", "log", "notes"))
        self.file = small_sweep(self.folder, self.name, EPOCHS, {"concurrency": 2}, sampler="random", trials=self.trials)

    def drive(self, *kill: str) -> bool:
        """Run a driver, which may be killed; whether the sweep is done."""
        where = [f"storage={self.it.storage}", f"tracking_uri={self.it.tracking_uri}", f"store={self.it.store}", "max_retries=20"]
        command = [sys.executable, str(CRASH), str(self.notes), *kill, "--", "sweep", "run", str(self.file), "--resume", *where]
        environment = os.environ | {"PARAPHRASE_HOME": str(self.home)}
        with self.log.open("a") as log:
            code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
        assert code in (0, -signal.SIGKILL), f"the driver ended with {code}:\n{self.log.read_text()[-3000:]}"
        self.killed += code != 0
        return code == 0

    def check(self, expected: list[dict[str, str]] | None) -> list[dict[str, str]]:
        """What is exported of the one that is done, if study, MLflow and store are as they should."""
        os.environ["PARAPHRASE_HOME"] = str(self.home)
        rows, store = exported(self.name), Store(self.it.store)
        assert expected is None or rows == expected, f"{self.log.read_text()[-3000:]}\n{rows}\nis not\n{expected}"
        for run in check_runs(open_client(self.it.tracking_uri), self.name, self.trials, EPOCHS):
            if run.data.tags["kind"] == "trial":
                assert store.whole(run.data.tags["explainer_uri"].removeprefix(f"{self.it.store}/"))
        assert not [key for key in store.keys(f"sweeps/{self.name}/trials") if "/checkpoint/" in key]
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--most", type=int, default=1000, help="kills at most")
    parser.add_argument("--seed", type=int, default=0, help="of which, where there are more")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as place, Local(place, parts=("postgres", "store", "mlflow", "ray")) as it:
        os.environ.update(it.environment)
        sweeps = Sweeps(it, Path(place), arguments.trials)
        assert sweeps.drive()
        points = list(dict.fromkeys(sweeps.notes.read_text().splitlines()))
        expected = sweeps.check(None)
        chosen = sorted(random.Random(arguments.seed).sample(range(len(points)), min(len(points), arguments.most)))
        print(f"{len(points)} points in quiet, of which {len(chosen)} are tried", flush=True)
        sweeps.begin()
        missed = []
        for point in (points[i] for i in chosen):
            for _ in range(2):  # one that only a new sweep comes to is tried in one
                before = sweeps.killed
                if not sweeps.drive(*point.split(" ", 1)):
                    break
                sweeps.check(expected)
                sweeps.begin()
            print(f"{'killed' if sweeps.killed > before else 'missed'} {point}", flush=True)
            missed += [point] if sweeps.killed == before else []
        while not sweeps.drive():
            pass
        sweeps.check(expected)
    print(f"{sweeps.killed} kills in {sweeps.number - 1} sweeps, {time.monotonic() - began:.0f} s; {len(missed)} points not met")
    print("study, MLflow and explainers are those of the quiet sweep")


if __name__ == "__main__":
    main()
