"""The folder of a sweep: its configuration, its lock and its trials' checkpoints.

<home>/sweeps/NAME/sweep.yaml                        the configuration that `resume` goes on with
<home>/sweeps/NAME/lock                              held by the one driver
<home>/sweeps/NAME/trials/NUMBER/config.yaml         resolved configuration of a trial
<home>/sweeps/NAME/trials/NUMBER/checkpoint/         exact state after its last finished epoch, until the trial has ended
<home>/sweeps/NAME/trials/NUMBER/explainer/          the finished explainer
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from paraphrase.core.config import from_mapping, read_yaml, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.files import write_atomically
from paraphrase.core.home import home
from paraphrase.sweep.settings.config import SweepConfig

CHECKPOINT = "checkpoint"


def sweep_folder(name: str) -> Path:
    """Folder of a sweep, whether it exists or not."""
    return home() / "sweeps" / name


def trial_folder(name: str, number: int) -> Path:
    """Folder of a trial, whether it exists or not."""
    return sweep_folder(name) / "trials" / str(number)


def checkpoint_folder(name: str, number: int) -> Path:
    """Where a trial, or the batch that it is the first of, keeps its state while it trains."""
    return trial_folder(name, number) / CHECKPOINT


def sweep_names() -> list[str]:
    """Every sweep of this home, by name."""
    return sorted(p.parent.name for p in (home() / "sweeps").glob("*/sweep.yaml"))


def write_yaml(path: Path, config: Any) -> None:
    """Write a configuration dataclass as YAML, atomically."""
    write_atomically(path, yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True))


def read_sweep(name: str) -> SweepConfig:
    """The configuration of an existing sweep.

    Raises:
        InputError: if there is none of that name.
    """
    file = sweep_folder(name) / "sweep.yaml"
    if not file.is_file():
        known = ", ".join(sweep_names()) or "none yet"
        raise InputError(f"sweep {name}: not found in {home() / 'sweeps'}; there are: {known}")
    return from_mapping(SweepConfig, read_yaml(file))


def storage_url(sweep: SweepConfig) -> str:
    """Where the study lives."""
    return sweep.storage or f"sqlite:///{home() / 'studies.db'}"


def tracking_uri(sweep: SweepConfig) -> str:
    """Where the MLflow runs live."""
    return sweep.tracking_uri or f"sqlite:///{home() / 'mlflow.db'}"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a sweep's lock; the system lets go of it whenever the process ends.

    Raises:
        InputError: if another driver holds it.
    """
    folder = sweep_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise InputError(f"sweep {name}: is being run by process {owner}; wait for it or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
