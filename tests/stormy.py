"""A small sweep on a cluster of this machine, as a user starts it and as what breaks leaves it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import PATIENCE, command, small_sweep
from parts import missing
from up import Local

from paraphrase.sweep.store.objects import Store

ALL = ("postgres", "store", "mlflow", "ray")
MARKS = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.skipif(bool(missing(ALL)), reason=missing(ALL) or "")]
EPOCHS, TRIALS = 40, 6


def stormy_sweep(folder: Path, name: str = "stormy") -> Path:
    """Its file."""
    return small_sweep(folder, name, EPOCHS, {"concurrency": 2}, sampler="random", trials=TRIALS)


@dataclass
class Stormy:
    """The sweep, and the parts that it runs on.

    Args:
        file: of the sweep.
        log: what drivers write to.
    """

    it: Local
    file: Path
    log: Path

    @property
    def where(self) -> list[str]:
        """Settings that say where the sweep is kept."""
        return [f"storage={self.it.storage}", f"tracking_uri={self.it.tracking_uri}", f"store={self.it.store}"]

    def command(self, *settings: str) -> list[str]:
        """What a user types, the first time and every other."""
        return command("sweep", "run", str(self.file), "--resume", *self.where, *settings)

    def drive(self, *settings: str, home: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a driver, by default in the home of this test."""
        environment = os.environ | ({"PARAPHRASE_HOME": str(home)} if home else {})
        return subprocess.Popen(self.command(*settings), env=environment, stdout=self.log.open("a"), stderr=subprocess.STDOUT)

    def refused(self, *settings: str) -> tuple[int, str]:
        """With what a driver ends that cannot run, and its last line."""
        ran = subprocess.run(self.command(*settings), capture_output=True, text=True, timeout=PATIENCE)
        return ran.returncode, ran.stderr.splitlines()[-1]

    def told(self) -> str:
        """What drivers wrote."""
        return self.log.read_text()

    def saved(self, trial: int | str = "") -> list[str]:
        """Keys of the checkpoints in the store, the oldest first, of one trial or of all."""
        keys = Store(self.it.store).keys(f"sweeps/stormy/trials/{trial}")
        return sorted(key for key in keys if "/checkpoint/" in key and key.endswith("MANIFEST.json"))


@contextlib.contextmanager
def stormy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, nodes: int = 2, netns: bool = False, proxied: bool = False
) -> Iterator[Stormy]:
    """The sweep with all parts running, whose addresses are in the environment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file, log = stormy_sweep(folder), folder / "log"
    log.touch()
    with Local(folder / "local", nodes=nodes, parts=ALL, netns=netns, proxied=proxied) as it:
        for name, value in it.environment.items():
            monkeypatch.setenv(name, value)
        yield Stormy(it, file, log)


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte; the file whose end makes room again."""
    filler = disk / "filler"
    file = os.open(filler, os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, bytes(4096))
    os.close(file)
    return filler
