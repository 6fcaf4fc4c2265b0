"""The folder of a sweep: its configuration, its lock and its trials' checkpoints.

<home>/sweeps/NAME/sweep.yaml                        the configuration that `resume` goes on with
<home>/sweeps/NAME/lock                              held by the one driver
<home>/sweeps/NAME/trials/NUMBER/config.yaml         resolved configuration of a trial
<home>/sweeps/NAME/trials/NUMBER/checkpoint/         exact states after its last finished epochs, until the trial has ended
<home>/sweeps/NAME/trials/NUMBER/explainer/          the finished explainer
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from paraphrase.core.config import from_mapping, read_yaml, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.files import regular, write_atomically
from paraphrase.core.home import home
from paraphrase.core.schema import parse_yaml
from paraphrase.sweep.settings.config import SweepConfig, check_name
from paraphrase.sweep.store.checkpoints import Checkpoints
from paraphrase.sweep.store.objects import Store

CHECKPOINT, EXPLAINER = "checkpoint", "explainer"
SWEEP = "sweep.yaml"
SUITE_TABLES = "shown.json"
"""In the report of a suite: its arms against the base as the screen shows them, [title, cells] for each metric."""
ARTIFACTS = "mlartifacts"
"""Folder of the files of MLflow's runs, beside a database of its own."""
ADDRESSES = ("storage", "tracking_uri")
"""Fields that may hold a password."""
QUICKLY = 256 * 2**20
"""Bytes of the largest database that is looked through whenever it is opened first."""


def sweep_folder(name: str) -> Path:
    """Folder of a sweep, whether it exists or not."""
    return home() / "sweeps" / name


def trial_folder(name: str, number: int) -> Path:
    """Folder of a trial, whether it exists or not."""
    return sweep_folder(name) / "trials" / str(number)


def sweep_key(name: str) -> str:
    """Where a sweep lies in a store; its trials as in the folder, their checkpoints and explainers by attempts."""
    return f"sweeps/{name}"


def trial_key(name: str, number: int) -> str:
    """Where a trial lies in a store."""
    return f"{sweep_key(name)}/trials/{number}"


def checkpoints_of(name: str, number: int, store: Store | None) -> Checkpoints:
    """Where a trial, or the batch that it is the first of, keeps its state while it trains."""
    return Checkpoints(trial_folder(name, number) / CHECKPOINT, store, f"{trial_key(name, number)}/{CHECKPOINT}")


def store_of(sweep: SweepConfig) -> Store | None:
    """The sweep's store; None: the home folder is all there is."""
    return Store(sweep.store) if sweep.store else None


def sweep_names() -> list[str]:
    """Every sweep of this home, by name."""
    return sorted(p.parent.name for p in (home() / "sweeps").glob(f"*/{SWEEP}"))


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Ten times as fast where PyYAML was built with libyaml."""


def yaml_of(config: Any) -> str:
    """A configuration dataclass as YAML."""
    return str(yaml.dump(to_mapping(config), Dumper=DUMPER, sort_keys=False, allow_unicode=True))


def write_yaml(path: Path, config: Any) -> None:
    """Write a configuration dataclass as YAML, atomically."""
    write_atomically(path, yaml_of(config))


def read_sweep(name: str) -> SweepConfig:
    """The configuration of an existing sweep.

    Raises:
        InputError: if there is none of that name.
    """
    check_name(name)  # it may be any text, also a way out of the home
    file = sweep_folder(name) / SWEEP
    if not file.is_file():
        known = ", ".join(sweep_names()) or "none yet"
        raise InputError(f"sweep {name}: not found in {home() / 'sweeps'}; there are: {known}")
    mapping = read_yaml(file)
    try:
        return from_mapping(SweepConfig, mapping)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def keep_sweep(sweep: SweepConfig) -> None:
    """Write the configuration that `resume` goes on with, also to the store, since a driver's home may vanish.

    Passwords in its addresses are kept here alone, in a file that nobody else can read.
    """
    file, secret = sweep_folder(sweep.name) / SWEEP, shown(sweep) != sweep
    write_atomically(file, yaml_of(sweep), 0o600 if secret else 0o666)
    if store := store_of(sweep):
        store.write(f"{sweep_key(sweep.name)}/{SWEEP}", yaml_of(shown(sweep)).encode())


def bring_sweep(sweep: SweepConfig) -> bool:
    """Whether there is a sweep of this name: in this home, or brought here from the store that it would have."""
    file = sweep_folder(sweep.name) / SWEEP
    if not file.is_file() and (store := store_of(sweep)) and store.has(f"{sweep_key(sweep.name)}/{SWEEP}"):
        key = f"{sweep_key(sweep.name)}/{SWEEP}"
        kept = from_mapping(SweepConfig, parse_yaml(store.read(key).decode(), f"{sweep.store}/{key}"))
        same: dict[str, Any] = {a: getattr(sweep, a) for a in ADDRESSES if getattr(shown(sweep), a) == getattr(kept, a)}
        keep_sweep(replace(kept, **same))
    return file.is_file()


def storage_url(sweep: SweepConfig) -> str:
    """Where the study lives."""
    return sweep.storage or f"sqlite:///{home() / 'studies.db'}"


def tracking_uri(sweep: SweepConfig) -> str:
    """Where the MLflow runs live."""
    return sweep.tracking_uri or f"sqlite:///{home() / 'mlflow.db'}"


def sqlite_file(url: str) -> Path | None:
    """The file of a sqlite database, by its URL; None: it is another kind."""
    return Path(url.removeprefix("sqlite:///").partition("?")[0]) if url.startswith("sqlite:///") else None


def check_sqlite(url: str) -> None:
    """Look through a sqlite database, unless it is larger than `QUICKLY`.

    Raises:
        InputError: names the file if it is damaged.
    """
    file = sqlite_file(url)
    if not file or not regular(file).exists() or file.stat().st_size > QUICKLY:
        return
    try:
        with closing(sqlite3.connect(file, timeout=120)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:  # locked, or not to be opened: whoever opens it says so
        return
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise InputError(f"{file}: is damaged ({' '.join(found.split())}); sqlite's `.recover` saves what can be read")


def artifact_root(sweep: SweepConfig) -> str | None:
    """Where MLflow shall keep the files of runs, as a URI: beside a database of its own; None: a server knows by itself."""
    uri = tracking_uri(sweep)
    if file := sqlite_file(uri):
        return (file.absolute().parent / ARTIFACTS).as_uri()
    return (home() / ARTIFACTS).as_uri() if re.match(r"(postgresql|mysql|mssql)\b", uri) else None


def without_password(text: str) -> str:
    """A text whose addresses have no passwords."""
    return re.sub(r"://([^\s/@:]*)(:[^\s/@]*)?@", r"://\1@", text)


def shown(sweep: SweepConfig) -> SweepConfig:
    """The configuration as anyone may see it: without passwords in its addresses."""
    hidden: dict[str, Any] = {a: without_password(getattr(sweep, a)) for a in ADDRESSES if getattr(sweep, a)}
    return replace(sweep, **hidden)


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
