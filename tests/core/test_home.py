from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


def test_a_user_without_a_name_can_import_what_asks_for_one() -> None:
    """As in containers that run under any number."""
    stranger = ["unshare", "--user", "--map-user=54321", "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME"]
    if not shutil.which("unshare") or subprocess.run([*stranger, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    code = "import paraphrase, getpass, pathlib, ray.tune, mlflow; print(getpass.getuser(), pathlib.Path.home())"
    ran = subprocess.run([*stranger, sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0] == "uid54321"
