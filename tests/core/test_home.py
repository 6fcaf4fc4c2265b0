from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paraphrase.cli import main
from paraphrase.core.home import unfit_home


def test_a_user_without_a_name_can_import_what_asks_for_one() -> None:
    """As in containers that run under any number."""
    stranger = ["unshare", "--user", "--map-user=54321", "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME"]
    if not shutil.which("unshare") or subprocess.run([*stranger, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    code = "import paraphrase, getpass, pathlib, ray.tune, mlflow; print(getpass.getuser(), pathlib.Path.home())"
    ran = subprocess.run([*stranger, sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0] == "uid54321"


@pytest.mark.parametrize("where", ["a file", "below a file", "/proc/nohome", "a disk that is read only"])
@pytest.mark.parametrize(
    "command",
    [("sweep", "run", "menagerie"), ("sweep", "run", "menagerie", "--dry-run"), ("train", "x.yaml"), ("ablate", "--seeds", "2")],
)
def test_a_home_in_which_nothing_can_be_kept_is_named(
    where: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "x.yaml").write_text("train: {epochs: 1}\n")
    places = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "home"}
    if where == "a disk that is read only":
        (tmp_path / "disk").mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path / "disk")], capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        places[where] = tmp_path / "disk" / "home"
    home = places.get(where, Path(where))
    monkeypatch.setenv("PARAPHRASE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    try:
        assert main(list(command)) == 2
    finally:
        if where == "a disk that is read only":
            subprocess.run(["umount", str(tmp_path / "disk")], check=True)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("paraphrase: ")]
    assert str(home) in line and ("set PARAPHRASE_HOME to a folder" in line or "the menagerie cannot be drawn there" in line)


def test_a_home_that_can_be_made_is_fit_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "a" / "b"))
    assert unfit_home() == "" and not (tmp_path / "a").exists()
