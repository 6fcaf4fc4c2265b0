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
ALIKE = 3
"""Trials that must fail alike, one after another, for a sweep to be given up in which none has gone well."""


class InARow:
    """Counts failures that are no fault of a trial's values: a device that is not there, a full disk, a module that is missing.

    Args:
        hopeful: whether some trial went well already; then nothing is counted.
    """

    def __init__(self, hopeful: bool) -> None:
        self.hopeful, self._cause, self.count = hopeful, "", 0

    def ended(self, went_well: bool, reason: str | None, spread: bool = False) -> bool:
        """A trial ended; whether the sweep is to be given up.

        Args:
            went_well: whether it was trained.
            reason: why it failed, if that came from outside of the training.
            spread: whether there are several nodes; a broken one is left out before it fails thrice as often.
        """
        self.hopeful = self.hopeful or went_well
        cause = re.sub(r"0x[0-9a-f]+|\d+", "#", reason or "")  # numbers of trials and processes differ
        self.count = self.count + 1 if cause and cause == self._cause else 1
        self._cause = cause
        return bool(cause) and not self.hopeful and self.count >= (3 * ALIKE if spread else ALIKE)


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
