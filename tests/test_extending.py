"""The changes that `docs/extending.md` shows apply to the code as it is, and their tests pass."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from house import ROOT

PARTS = ("term", "metric", "ablation", "data source", "figure")


def test_each_shown_change_is_one_code_file_and_one_test_and_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    diffs = re.findall(r"```diff\n(.*?)```", text, flags=re.DOTALL)
    assert len(diffs) == len(PARTS)
    for folder in ("core", "sweep", "ablations", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "paraphrase", tmp_path / "paraphrase", symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    tests = []
    for diff in diffs:
        files = re.findall(r"^\+\+\+ b/(\S+)$", diff, flags=re.MULTILINE)
        (test,) = [file for file in files if file.startswith("tests/")]
        assert len(files) == 2
        tests.append(test)
        done = subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(PARTS)} passed" in done.stdout, done.stdout
