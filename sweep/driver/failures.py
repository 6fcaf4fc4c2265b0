"""Why trials fail, as Ray Tune keeps it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, RayActorError


def last_failure(tune_trial: Any) -> Exception | None:
    """What a trial of Ray Tune failed of last, if it left word."""
    file = Path(tune_trial.pickled_error_file) if tune_trial and tune_trial.pickled_error_file else None
    return cloudpickle.loads(file.read_bytes()) if file and file.exists() else None


def is_lost(error: Exception | None) -> bool:
    """Whether a trial failed because its node was lost: nobody there tells of its worker's end, or Ray knows of the node's."""
    if isinstance(error, ActorUnavailableError):
        return True
    return isinstance(error, RayActorError) and bool(
        re.search(r"node (has )?died|node.{0,80}(dead|terminated|preempted)", str(error))
    )


def last_error(tune_trial: Any) -> str:
    """Why a trial of Ray Tune failed last, in a line."""
    error = last_failure(tune_trial)
    if error is None:
        return "no message"
    if isinstance(error, RayActorError):
        return "its node was lost" if is_lost(error) else "its worker died"
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
