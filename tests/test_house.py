"""Who may import whom, what imports nothing heavy, and that a user's own modules are never taken for ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT, drawing, rooms

LINT = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]

BLOCK = """
import importlib, pathlib, sys

BLOCKED = {"ray", "optuna", "mlflow", "scipy", "plotly", "matplotlib", "captum", "jinja2"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED or name.startswith(("paraphrase.sweep", "paraphrase.ablations")):
            raise ImportError(f"core must not import {name}")

sys.meta_path.insert(0, Block())
for file in sorted(pathlib.Path("core").rglob("*.py")):
    importlib.import_module("paraphrase." + ".".join(file.with_suffix("").parts).removesuffix(".__init__"))
"""


def test_rooms_import_only_from_those_below_and_never_in_a_circle() -> None:
    done = subprocess.run(LINT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("core/files.py", "from paraphrase.core.config import Config", "Rooms of core"),
        ("core/data/records.py", "def late():\n    from paraphrase.core.data.checks import check_image", "in a circle"),
        ("core/train/training.py", "import ray", "core knows nothing of ray"),
        ("sweep/study/study.py", "import paraphrase.ablations.arms", "A floor imports only"),
        ("sweep/report/page.py", "import paraphrase.sweep.driver.run", "Rooms of sweep"),
        ("ablations/arms.py", "import paraphrase.ablations.suite", "Rooms of ablations"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, module: str, line: str, broken: str) -> None:
    for folder in ("core", "sweep", "ablations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "paraphrase", tmp_path / "paraphrase", symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = subprocess.run(LINT, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert any(broken in text and "BROKEN" in text for text in done.stdout.splitlines()), done.stdout


def test_the_house_is_drawn_as_it_is() -> None:
    assert f"```mermaid\n{drawing()}\n```" in (ROOT / "docs" / "architecture.md").read_text()
    for floor in ("core", "sweep", "ablations"):
        there = {p.stem for p in (ROOT / floor).iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
        assert {room for layer in rooms(floor) for room in layer} == there - {"__init__"}


def test_core_needs_neither_ray_nor_optuna_nor_mlflow() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("paraphrase", "pydantic"),
        ("paraphrase.cli", "pydantic"),
        ("paraphrase.cli", "rich"),
        ("paraphrase.sweep.settings.config", "torch"),
        ("paraphrase.sweep.study.results", "torch"),
        ("paraphrase.core.train.training", "torchvision"),
        ("paraphrase.core.pictures.filters_page", "torchvision"),
    ],
)
def test_what_starts_often_imports_nothing_that_takes_seconds_and_is_not_needed(module: str, heavy: str) -> None:
    program = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
