"""A sweep in a storm: faults at random, seeded, until it is done; then it must be what a quiet one is.

    PYTHONPATH=tests:infra/local python tests/infra/soak.py [--trials 24] [--seed 0] [--every 10] [--deck .1]

`make cluster-test` runs it. The faults are those of `DECK`, each drawn as often as it is there: an hour of them with
`--trials 150 --deck 1`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from commands import check_runs, command, exported, small_sweep
from up import Local

from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.store.objects import Store
from paraphrase.sweep.study import lease

EPOCHS = 40
AWAY = (2.0, 12.0)
"""Seconds that a server is away."""
DECK = {
    "worker": 50,
    "node": 20,
    "drain": 10,
    "postgres_restarts": 20,
    "postgres_away": 5,
    "study_reply_lost": 10,
    "mlflow_away": 20,
    "run_reply_lost": 10,
    "store_away": 5,
    "upload_cut": 5,
    "object_damaged": 5,
    "driver_killed": 10,
    "driver_told_to_end": 5,
    "driver_frozen": 2,
    "writer": 5,
}
"""Fault -> how often it is in a whole deck."""
GOES_ON = (130, -signal.SIGKILL, -signal.SIGTERM)
"""How a driver may end before its sweep does."""


class Storm:
    """A driver, and what happens to it.

    Args:
        it: the parts.
        run: command of the driver.
        home: of the driver.
        log: of its output.
        seed: of what happens.
        share: of the deck.
    """

    def __init__(self, it: Local, run: list[str], home: Path, log: Path, seed: int, share: float) -> None:
        self.it, self.run, self.home, self.log = it, run, home, log
        self.random = random.Random(seed)
        self.deck = [name for name, often in DECK.items() for _ in range(math.ceil(often * share))]
        self.random.shuffle(self.deck)
        self.done: Counter[str] = Counter()
        self.drives = 0
        self.driver = self._drive()
        self.nodes = list(range(1, it.workers + 1))

    def _drive(self) -> subprocess.Popen:
        self.drives += 1
        environment = {**os.environ, "PARAPHRASE_HOME": str(self.home)}
        return subprocess.Popen(self.run, env=environment, stdout=self.log.open("a"), stderr=subprocess.STDOUT)

    def again(self) -> bool:
        """Start the driver again if it ended before the sweep did; whether the sweep is done."""
        code = self.driver.poll()
        if code is None:
            return False
        if code == 0:
            return True
        assert code in GOES_ON, f"the driver ended with {code}:\n{self.log.read_text()[-3000:]}"
        self.driver = self._drive()
        return False

    def _new_node(self, number: int) -> None:
        self.nodes.remove(number)
        self.nodes.append(self.it.start_node())

    def worker(self) -> None:
        """A process that trains is killed."""
        self._kill_one("ray::ExplainerTrial")

    def writer(self) -> None:
        """The process that writes to MLflow for the driver is killed."""
        self._kill_one("paraphrase.sweep.process", str(self.driver.pid))

    def _kill_one(self, of: str, parent: str = "") -> None:
        table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()
        pids = [int(line.split()[0]) for line in table if of in line and parent in ("", line.split()[1])]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(pids), signal.SIGKILL)

    def node(self) -> None:
        """A node is gone from one moment to the next; another comes."""
        number = self.random.choice(self.nodes)
        self.it.kill_node(number)
        self._new_node(number)

    def drain(self) -> None:
        """A spot node is announced to go, and goes."""
        number = self.random.choice(self.nodes)
        self.it.drain_node(number, 5)
        time.sleep(5)
        self.it.kill_node(number)
        self._new_node(number)

    def postgres_restarts(self) -> None:
        self.it.restart_postgres()

    def _away(self, stop: Callable[[], None], start: Callable[[], None]) -> None:
        stop()
        time.sleep(self.random.uniform(*AWAY))
        start()

    def postgres_away(self) -> None:
        self._away(self.it.stop_postgres, self.it.start_postgres)

    def mlflow_away(self) -> None:
        self._away(self.it.stop_mlflow, self.it.start_mlflow)

    def store_away(self) -> None:
        self._away(self.it.stop_store, self.it.start_store)

    def driver_killed(self) -> None:
        """A driver's pod is gone, with its home."""
        self.driver.kill()
        self.driver.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def driver_told_to_end(self) -> None:
        self.driver.send_signal(signal.SIGTERM)
        self.driver.wait()

    def study_reply_lost(self) -> None:
        """Postgres has committed, and nobody is told."""
        self.it.proxies["postgres"].swallow_reply(b"COMMIT")

    def run_reply_lost(self) -> None:
        """MLflow has written, and nobody is told."""
        self.it.proxies["mlflow"].swallow_reply(self.random.choice((b"runs/create", b"runs/log-batch", b"runs/update")))

    def upload_cut(self) -> None:
        """The store is gone in the middle of what is sent to it."""
        self.it.proxies["store"].cut_after(self.random.randrange(1_000, 100_000))
        time.sleep(self.random.uniform(*AWAY))
        self.it.proxies["store"].pass_on()

    def object_damaged(self) -> None:
        """A bit of a checkpoint in the store is another."""
        stored = sorted(self.it.objects.folder.rglob("checkpoint/*/*"))
        if files := [file for file in stored if file.is_file() and file.stat().st_size]:
            file = self.random.choice(files)
            with contextlib.suppress(FileNotFoundError):  # a later one has taken its place
                content = bytearray(file.read_bytes())
                content[self.random.randrange(len(content))] ^= 1
                file.write_bytes(content)

    def driver_frozen(self) -> None:
        """A driver's machine stands still for longer than its lease, and then goes on beside the one that took over.

        It ends with 130 if it had the lease, with 2 if it was still to ask for it, with 0 if it had written everything.
        """
        frozen = self.driver
        frozen.send_signal(signal.SIGSTOP)
        self.home = self.home.with_name(f"{self.home.name}-again")  # of another machine
        self.driver = self._drive()
        time.sleep(lease.SECONDS + 5)
        frozen.send_signal(signal.SIGCONT)
        code = frozen.wait()
        assert code in (0, 2, 130), f"a driver without its lease ended with {code}:\n{self.log.read_text()[-3000:]}"
        if code == 0 and self.driver.wait() == 2:  # it woke up in time: the second one was refused
            self.driver = self._drive()

    def rage(self, every: float) -> None:
        """Let something happen every so many seconds, until the sweep is done."""
        while not self.again():
            time.sleep(self.random.uniform(0.5, 1.5) * every)
            if self.deck and self.driver.poll() is None:
                fault = self.deck.pop()
                print(f"{time.strftime('%H:%M:%S')} {fault}", flush=True)
                getattr(self, fault)()
                self.done[fault] += 1


def check(it: Local, trials: int) -> None:
    """Runs, explainers and store are whole, and nothing else is left."""
    store = Store(it.store)
    for run in check_runs(open_client(it.tracking_uri), "storm", trials, EPOCHS):
        if run.data.tags["kind"] == "trial":
            with tempfile.TemporaryDirectory() as folder:
                store.get(run.data.tags["explainer_uri"].removeprefix(f"{it.store}/"), Path(folder) / "explainer")
    assert not [key for key in store.keys("sweeps/storm/trials") if "/checkpoint/" in key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="of what happens")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two faults, about")
    parser.add_argument("--deck", type=float, default=0.1, help="share of the deck of faults")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        folder = Path(place)
        os.environ["PARAPHRASE_HOME"] = str(folder / "quiet")
        file = small_sweep(folder, "storm", EPOCHS, {"concurrency": 2}, sampler="random", trials=arguments.trials)
        log = folder / "log"
        began = time.monotonic()
        subprocess.run(command("sweep", "run", str(file), "--name", "quiet"), check=True, capture_output=True)
        quiet, expected = time.monotonic() - began, exported("quiet")
        with Local(folder / "local", nodes=2, parts=("postgres", "store", "mlflow", "ray"), proxied=True) as it:
            os.environ.update(it.environment)
            where = [f"storage={it.storage}", f"tracking_uri={it.tracking_uri}", f"store={it.store}", "max_retries=50"]
            began = time.monotonic()
            run = command("sweep", "run", str(file), "--resume", *where)
            storm = Storm(it, run, folder / "driver", log, arguments.seed, arguments.deck)
            try:
                storm.rage(arguments.every)
            except BaseException:
                print(log.read_text()[-6000:])
                raise
            finally:
                storm.driver.kill()
            os.environ["PARAPHRASE_HOME"] = str(storm.home)
            for found, wanted in itertools.zip_longest(exported("storm"), expected, fillvalue={}):
                other = {k: (wanted.get(k), found.get(k)) for k in {**wanted, **found} if wanted.get(k) != found.get(k)}
                if other:
                    raise SystemExit(f"{log.read_text()[-6000:]}\ntrial {found.get('number')} is not as in quiet: {other}")
            check(it, arguments.trials)
        took = time.monotonic() - began
        print(
            f"{arguments.trials} trials: {quiet:.0f} s in quiet, {took:.0f} s with {storm.drives} drivers and {dict(storm.done)}"
        )
        if storm.deck:
            print(f"the sweep was done before these: {dict(Counter(storm.deck))}")
        print("study, MLflow and explainers are those of the quiet sweep")


if __name__ == "__main__":
    main()
