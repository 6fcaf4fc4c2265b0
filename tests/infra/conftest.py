"""What a small sweep gives in quiet, for those that it is run in a storm."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import exported, made_once, paraphrase
from stormy import stormy_sweep

Rows = list[dict[str, str]]


@pytest.fixture(scope="session")
def in_quiet(tmp_path_factory: pytest.TempPathFactory, warm_home: Path) -> Rows:
    """What `sweep export` gives of the sweep `stormy` on this machine, without servers."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("PARAPHRASE_HOME", str(folder / "home"))
            shutil.copytree(warm_home, folder / "home")
            ran = paraphrase("sweep", "run", str(stormy_sweep(folder)))
            assert ran.returncode == 0, ran.stderr
            (folder / "rows.json").write_text(json.dumps(exported("stormy")))

    rows: Rows = json.loads((made_once(tmp_path_factory, "quiet", make) / "rows.json").read_text())
    return rows


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a disk of its own of 200 MB."""
    folder = Path(tempfile.mkdtemp(prefix="pp-", dir="/tmp"))
    folder.chmod(0o711)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,mode=711", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()
