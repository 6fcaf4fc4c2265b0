"""Why trials fail, as Ray Tune notes it: its text is read, never its pickled error, which anyone might have put there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

NOTED = re.compile(r"^Failure # \d+ \(occurred at .*\)\n", re.MULTILINE)
"""What Ray Tune writes before each failure of a trial."""
ACTOR = re.compile(r"The actor (?!.*raised in its creation task)")
"""How Ray begins where a worker is gone, and not its code the cause."""
LOST = re.compile(r"The actor \S+ is unavailable|node (has )?died|node.{0,80}(dead|terminated|preempted)")
"""Nobody there tells of the worker's end, or Ray knows of the node's."""


def last_failure(tune_trial: Any) -> str:
    """What a trial of Ray Tune failed of last, in Ray's words; empty: it left no word."""
    file = Path(tune_trial.error_file) if tune_trial and tune_trial.error_file else None
    return NOTED.split(file.read_text(errors="replace"))[-1].strip() if file and file.exists() else ""


def is_lost(failure: str) -> bool:
    """Whether a trial failed because its node was lost."""
    return bool(ACTOR.match(failure) and LOST.search(failure))


def last_error(tune_trial: Any) -> str:
    """Why a trial of Ray Tune failed last, in a line."""
    failure = last_failure(tune_trial)
    if ACTOR.match(failure):
        return "its node was lost" if is_lost(failure) else "its worker died"
    return failure.splitlines()[-1].strip() if failure else "no message"
