from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import made_once, paraphrase_here, small_sweep

from paraphrase.sweep.settings.config import SweepConfig, load_sweep

SMALL: dict[str, Any] = {
    "base": {
        "data": {"train_images": 96, "test_images": 48},
        "performer": {"fit": {"epochs": 3, "batch_size": 16}},
        "train": {"epochs": 3, "batch_size": 32},
    },
    "space": {
        "explainer.interp_widths.0": {"type": "categorical", "choices": [8, 16]},
        "loss.eta": {"type": "float", "low": 0.3, "high": 3.0, "log": True},
        "explainer.mask": {"type": "categorical", "choices": ["none", "peak"]},
        "explainer.mask_beta": {"type": "float", "low": 1, "high": 6, "when": {"explainer.mask": ["peak", "mean"]}},
    },
    "objectives": {"location_instability": "minimize", "p": "maximize", "reconstruction_error": "minimize"},
    "trials": 6,
}


@pytest.fixture(scope="module")
def swept(warm_home: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: str) -> Path:
    """A home with a finished sweep."""

    def make(folder: Path) -> None:
        shutil.copytree(warm_home, folder / "home")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PARAPHRASE_HOME", str(folder / "home"))
            ran = paraphrase_here("sweep", "run", str(small_sweep(folder, "damaged", epochs=1, trials=2)))
            assert ran.returncode == 0, ran.stderr

    return made_once(tmp_path_factory, "swept", make) / "home"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own."""
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small sweep with some of its fields changed."""

    def write(**changes: Any) -> Path:
        file = tmp_path / "small.yaml"
        file.write_text(yaml.safe_dump(SMALL | changes))
        return file

    return write


@pytest.fixture
def small(sweep_file: Callable[..., Path]) -> Callable[..., SweepConfig]:
    """The small sweep with some of its fields changed."""
    return lambda **changes: load_sweep(sweep_file(**changes))
