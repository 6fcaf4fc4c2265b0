"""What whole commands share: the smallest data with its performer and cache, and one Ray for those in the test's own process."""

from __future__ import annotations

import inspect
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SMALL, made_once

from paraphrase.core.config import Config, from_mapping
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.measure.evaluation import baseline
from paraphrase.core.terminal import console
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.settings.config import Resources
from paraphrase.sweep.workers.cluster import cluster

os.environ.setdefault("RAY_worker_niceness", "0")  # a trial beside another test would wait until that is done


BAD_INPUT = re.compile(r"InputError|(return)?code == 2|def test_\w*(named|damage|refuse|no_name_leads|noticed)")
"""What tests of bad input expect, or say in their names."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests of bad input, by what they expect: `pytest -m bad_input` runs them.

    What starts a cluster begins first, as many in each process, so that the end has short tests to share.
    """
    for item in items:
        if isinstance(item, pytest.Function) and BAD_INPUT.search(inspect.getsource(item.function)):
            item.add_marker("bad_input")
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # which get equal runs of the list
    long = [item for item in items if item.get_closest_marker("cluster")]
    short = [item for item in items if not item.get_closest_marker("cluster")]
    items[:] = [item for k in range(processes) for item in (*long[k::processes], *short[k::processes])]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database for MLflow, which takes seconds to make."""

    def make(folder: Path) -> None:
        open_client(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()

    return made_once(tmp_path_factory, "store", make) / "mlflow.db"


@pytest.fixture(scope="session")
def warm_home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A home in which `SMALL` is drawn, fitted, cached and measured, with a database for MLflow."""

    def make(home: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PARAPHRASE_HOME", str(home))
            baseline(open_cache(from_mapping(Config, SMALL), progress=False))
        shutil.copy(empty_store, home)

    return made_once(tmp_path_factory, "warm", make)


@pytest.fixture
def furnished(warm_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, with all that is in the warm one."""
    shutil.copytree(warm_home, tmp_path / "home", dirs_exist_ok=True)
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def ray_here() -> Iterator[str]:
    """The address of a Ray that this process's sweeps use, as a notebook's do: starting one takes longer than a small sweep."""
    with cluster(Resources()):
        import ray

        yield ray.get_runtime_context().gcs_address


@pytest.fixture
def on_ray_here(ray_here: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same for commands in processes of their own: they connect to it, and its workers lie below this process."""
    monkeypatch.setenv("RAY_ADDRESS", ray_here)
    return ray_here


@pytest.fixture(autouse=True)
def no_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `drawing the report ...` where this machine is slow: tests count lines."""
    monkeypatch.setattr(console, "SILENCE", 3600.0)
