"""A process of its own that calls functions for this one, which Python's lock would let it do in turns only.

Neither fork nor multiprocessing's spawn, for the reasons that the menagerie's drawing has: threads, and scripts without a guard.
`python -m paraphrase.sweep.process FD` serves the other end of the pipe with that number, and ends with it.
"""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from typing import Any

from paraphrase.core.terminal.console import say
from paraphrase.sweep.patience import OutOfPatience

DIE_WITH_PARENT = 1
"""Of prctl(2): PR_SET_PDEATHSIG."""


def start_python(module: str, *arguments: str, **how: Any) -> subprocess.Popen[Any]:
    """Start a module in a quiet Python that finds what this one finds.

    Args:
        how: arguments of Popen.
    """
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-m", module, *arguments], env=os.environ | quiet, **how)


class Process:
    """Calls functions there, one after another; they, their arguments and what they return are pickled.

    Args:
        work: what it is there for, in words: "draws the figures".
    """

    def __init__(self, work: str) -> None:
        self.work = work
        self._pipe, theirs = Pipe()
        with theirs:
            descriptor = theirs.fileno()
            nowhere: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
            self._process = start_python(__spec__.name, str(descriptor), pass_fds=[descriptor], **nowhere)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have a function called, which is not waited for; `answer` has what it returns."""
        self._send(False, False, function, arguments)

    def keep(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function, and keep there what it returns.

        Raises:
            OutOfPatience: if the process has ended.
        """
        self._send(True, False, function, arguments)
        self.answer()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns that is called with what is kept, and the arguments.

        Raises:
            OutOfPatience: if the process has ended.
        """
        self._send(False, True, function, arguments)
        return self.answer()

    def _send(self, keep: bool, kept: bool, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        with suppress(OSError):  # it has ended, which is said where its answer is waited for
            self._pipe.send((keep, kept, function, arguments))

    def answer(self) -> Any:
        """What the function of the last `begin` returns; waits for it, and raises what it raises.

        Raises:
            OutOfPatience: if the process has ended.
        """
        try:
            value, errors, said = self._pipe.recv()
        except (EOFError, OSError):
            raise OutOfPatience(f"the process that {self.work} ended with {self._process.wait()}") from None
        for line in said:
            say(line)
        if errors:
            for error, cause in pairwise(errors):
                error.__cause__ = cause
            raise errors[0]
        return value

    def close(self) -> None:
        """End the process, also where it still works: it has nothing to put in order."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and its causes, as they can be pickled."""
    found: list[BaseException] = []
    while error:
        error.add_note("".join(traceback.format_exception(error, chain=False)))
        try:
            pickle.loads(pickle.dumps(error))
            found.append(error)
        except Exception:  # it keeps a connection, or its class takes other arguments
            found.append((ConnectionError if isinstance(error, OSError) else RuntimeError)(str(error)))
        error = error.__cause__ or error.__context__
    return found


def _die_with_the_parent() -> None:
    """Whoever kills the driver kills this process at once, so that nothing is written when the next driver looks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def main(asking: Connection) -> None:
    """Do what is asked until the pipe is closed."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # which a terminal, or a scheduler, sends to all; the driver ends in order
        signal.signal(ending, signal.SIG_IGN)
    _die_with_the_parent()
    kept: Any = None
    with suppress(EOFError, OSError):
        while True:
            keep, with_kept, function, arguments = asking.recv()
            said, value, errors = io.StringIO(), None, list[BaseException]()
            try:
                with redirect_stderr(said):
                    value = function(kept, *arguments) if with_kept else function(*arguments)
            except Exception as error:
                errors = _chain(error)
            if keep and not errors:
                kept, value = value, None
            asking.send((value, errors, said.getvalue().splitlines()))


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
