"""Where a sweep keeps its things, and what it shows of their addresses."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from paraphrase.core.config import to_mapping
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import artifact_root, bring_sweep, keep_sweep, read_sweep, sweep_folder

SECRET = "postgresql://sweeps:hunter2@db/studies"


def test_a_password_stays_in_this_home_in_a_file_for_its_owner_alone(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    sweep = small(storage=SECRET, tracking_uri="http://me:hunter2@tracking:5000", store=(tmp_path / "store").as_uri())
    keep_sweep(sweep)
    file = sweep_folder(sweep.name) / "sweep.yaml"
    assert read_sweep(sweep.name).storage == SECRET and stat.S_IMODE(file.stat().st_mode) == 0o600
    stored = next((tmp_path / "store").rglob("sweep.yaml")).read_text()
    assert "hunter2" not in stored and yaml.safe_load(stored)["storage"] == "postgresql://sweeps@db/studies"


def test_a_sweep_brought_from_its_store_has_the_password_that_is_given(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    sweep = small(storage=SECRET, store=(tmp_path / "store").as_uri())
    keep_sweep(sweep)
    for given, known in [(SECRET, SECRET), (SECRET.replace("hunter2", "new"), SECRET.replace("hunter2", "new"))]:
        (sweep_folder(sweep.name) / "sweep.yaml").unlink()
        assert bring_sweep(replace(sweep, storage=given, trials=sweep.trials + 5))
        assert to_mapping(read_sweep(sweep.name)) == to_mapping(replace(sweep, storage=known))


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("sqlite:////data/runs.db", "file:///data/mlartifacts"),
        ("http://tracking:5000", None),
        ("databricks", None),
        ("postgresql+psycopg://db/mlflow", "home"),
    ],
)
def test_files_of_runs_lie_beside_their_database(
    small: Callable[..., SweepConfig], home: Path, uri: str, root: str | None
) -> None:
    assert artifact_root(small(tracking_uri=uri)) == ((home / "mlartifacts").as_uri() if root == "home" else root)
