"""Programs beside each other on one machine: each in a session of its own, its output in a file, killed with all it started."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

READY_SECONDS = 180.0
"""How long a part may take to start on a machine that is busy."""
PORTS = range(20000, 32000)
"""Where parts listen: below the ports that the kernel gives to connections, so that none is taken between choice and start."""

OWN = ("AWS_", "MLFLOW_", "PG", "RCLONE_", "RAY_ADDRESS", "RAY_API_", "RAY_AUTH_")
"""Beginnings of variables that parts get from here alone, never from whoever starts them."""

_given: set[int] = set()


class NotReady(RuntimeError):
    """A part that cannot be started here, or did not start; the message ends with what its log ends with."""


def free_port() -> int:
    """A port on which nothing listens, at no address of this machine, and that was given to nobody in this process."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            if port not in _given:
                _given.add(port)
                return port


def answers(address: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def flags(values: Mapping[str, object]) -> list[str]:
    """Arguments of a command line."""
    return [f"--{name}={value}" for name, value in values.items()]


def private_file(path: Path, text: str) -> Path:
    """Write a file that nobody else may read, at no moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path


def family(leader: int) -> list[int]:
    """Living processes of a leader's session, and all that descend from them: Ray's jobs begin sessions of their own."""
    session, children = set(), dict[int, list[int]]()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                # the name, in brackets, may hold anything; then come state, parent, group and session
                state, parent, _, its_session = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:4]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(entry))
                    session |= {int(entry)} if int(its_session) == leader else set()
    found, ahead = set(session), [leader, *session]
    while ahead:
        new = [child for child in children.get(ahead.pop(), []) if child not in found]
        found.update(new)
        ahead += new
    return sorted(found)


class Process:
    """A program that can be started again after it was stopped or killed.

    Args:
        name: for messages, and of the log.
        logs: folder of the log.
        over: set when all parts end: nothing is started, and nothing waited for, from then on.
    """

    def __init__(self, name: str, logs: Path, over: threading.Event) -> None:
        self.name, self.log, self.over = name, logs / f"{name}.log", over
        self.log.unlink(missing_ok=True)  # of an earlier run in the same folder
        self._running: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str | Path], settings: Mapping[str, str], user: int | None = None) -> None:
        """Start it, with more variables in its environment, and as another user if one is given."""
        if self.over.is_set():
            raise NotReady(f"{self.name}: the parts are ending")
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                list(map(str, command)),
                env={name: value for name, value in os.environ.items() if not name.startswith(OWN)} | dict(settings),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )

    @property
    def running(self) -> bool:
        """Whether the program itself runs."""
        return self._running is not None and self._running.poll() is None

    def members(self) -> list[int]:
        """The program and all that it started."""
        return family(self._running.pid) if self._running else []

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait for a start to end.

        Raises:
            NotReady: if the program ends, or takes too long.
        """
        end = time.monotonic() + READY_SECONDS
        while not ready():
            if not self.running or self.over.is_set() or time.monotonic() > end:
                what = f"not ready after {READY_SECONDS:g} s" if self.running else "ended while it started"
                raise NotReady(f"{self.name}: {what}; {self.log} ends with: {self.last_line()}")
            time.sleep(0.05)

    def last_line(self) -> str:
        """What the log ends with."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "nothing"

    def tell(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and return at once."""
        if self.running:
            assert self._running
            self._running.send_signal(sign)

    def stop(self, sign: signal.Signals = signal.SIGTERM, seconds: float = 20.0) -> None:
        """Ask it to end, and kill what is left of it."""
        self.tell(sign)
        if self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and all that it started, again until nothing of it is left."""
        while members := self.members():
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self._running:
            self._running.wait()
