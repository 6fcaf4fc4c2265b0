"""`paraphrase`, which notes where it writes and is killed there.

    python crash.py NOTES [SIDE POINT] -- sweep run x.yaml

appends each point that it, or the process that writes to MLflow for it, comes to to the file NOTES; at the first that is POINT
it is killed, SIDE of it being `before` or `after`. A point is what is done (a transaction of the study, a request to MLflow, a
file or a stored object that takes its place or goes away) with the functions of the product that do it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from s3fs import S3FileSystem
from sqlalchemy.engine.default import DefaultDialect

from paraphrase.cli import main
from paraphrase.sweep.study import lease

DEEP = 3
"""Functions of the product that name a point."""
BENEATH = ("patience.py", "storage.py")
"""Modules through which everything goes."""


def whereabouts() -> list[str]:
    """The functions of the product that are at work, the innermost last."""
    frames = [f for f in traceback.extract_stack() if "/paraphrase/" in f.filename and "/tests/" not in f.filename]
    files = [(Path(f.filename).name, f.name) for f in frames if Path(f.filename).name not in BENEATH]
    return [f"{file.removesuffix('.py')}.{name}" for file, name in files][-DEEP:]


class Killer:
    """Kills a driver at a point.

    Args:
        notes: file of the points that it came to.
        side: before or after the point.
        whom: the driver; None: this process.
    """

    def __init__(self, notes: str, side: str = "", point: str = "", whom: int | None = None) -> None:
        self.notes, self.side, self.point, self.whom = Path(notes), side, point, whom

    def at(self, side: str, what: str) -> None:
        """This process is before or after a write."""
        point = f"{what} {' > '.join(whereabouts())}"
        with self.notes.open("a") as file:
            file.write(f"{side} {point}\n")
        if (side, point) == (self.side, self.point):
            for process in (self.whom, os.getpid()):
                if process:
                    os.kill(process, signal.SIGKILL)

    def watch(self, owner: Any, name: str, what: str, concerns: Callable[..., bool] = lambda *_, **__: True) -> None:
        """Have a function that writes come to its points."""
        real = getattr(owner, name)

        @functools.wraps(real)
        def watched(*arguments: Any, **named: Any) -> Any:
            if not concerns(*arguments, **named):
                return real(*arguments, **named)
            self.at("before", what)
            done = real(*arguments, **named)
            self.at("after", what)
            return done

        setattr(owner, name, watched)


def changes(session: Any, method: str, url: str, *_: Any, **__: Any) -> bool:
    return method.upper() != "GET" and not url.endswith("/search")


def watch_writes(killer: Killer) -> None:
    """Have all that this process writes come to its points."""
    killer.watch(DefaultDialect, "do_commit", "commit")
    killer.watch(requests.Session, "request", "request", changes)
    killer.watch(os, "replace", "replace")
    killer.watch(shutil, "rmtree", "rmtree")
    for name in ("_pipe_file", "_put_file", "_rm"):
        killer.watch(S3FileSystem, name, name)


if __name__ == "__main__":
    split = sys.argv.index("--")
    told = sys.argv[1:split]
    lease.SECONDS, lease.RENEWED = 4.0, 0.5  # nobody is to wait a minute for each of those who are killed
    watch_writes(Killer(*told))
    os.environ["CRASH"] = json.dumps(told)
    sys.path.insert(0, str(Path(__file__).with_name("crashing")))
    sys.exit(main(sys.argv[split + 1 :]))
