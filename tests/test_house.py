from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCK = """
import importlib, pathlib, sys

BLOCKED = {"ray", "optuna", "mlflow", "sweep", "ablations", "scipy", "plotly", "matplotlib", "captum", "jinja2"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"core must not import {name}")

sys.meta_path.insert(0, Block())
for file in sorted(pathlib.Path("core").rglob("*.py")):
    if file.name != "__main__.py":
        importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
"""


def test_core_needs_neither_ray_nor_optuna_nor_mlflow() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCK], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("paraphrase.sweep.study.results", "torch"),
        ("paraphrase.core.train.training", "torchvision"),
        ("paraphrase.core.pictures.filters_page", "torchvision"),
    ],
)
def test_what_starts_often_imports_nothing_that_takes_seconds_and_is_not_needed(module: str, heavy: str) -> None:
    program = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
