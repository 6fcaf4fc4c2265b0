"""Commands as a user gives them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from paraphrase.cli import main

SMALL: dict[str, Any] = {
    "data": {"train_images": 96, "test_images": 48},
    "performer": {"fit": {"epochs": 2, "batch_size": 16}},
}
"""The base of sweeps and suites in tests: the smallest data, which `furnished` homes have ready."""

PATIENCE = 600.0
"""Seconds; what takes longer hangs."""


def command(*arguments: str) -> list[str]:
    """`paraphrase` for a process of its own."""
    return [sys.executable, "-m", "paraphrase", *arguments]


def paraphrase(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as what starts Ray must be."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE)


def paraphrase_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which has imported already what takes longer than the command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(arguments))
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one of pytest's processes makes and all of them read."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            try:
                make(folder)
            except BaseException:  # nobody may read a half of it
                shutil.rmtree(folder)
                raise
    return folder
