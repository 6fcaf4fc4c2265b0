from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
import ray

from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import Resources
from paraphrase.sweep.workers import cluster as cluster_module
from paraphrase.sweep.workers.cluster import address_of, cluster, concurrency, session_folder


@pytest.mark.parametrize(("address", "what"), [("http://127.0.0.1:8265", "is a job server"), ("ray://a:10001", "is of Ray")])
def test_a_server_that_hands_commands_on_is_no_cluster(address: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"^resources.address: {address} {what}"), cluster(Resources(address=address)):
        pass
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"^RAY_ADDRESS: {address} {what}"), cluster(Resources()):
        pass


@pytest.mark.parametrize(
    ("address", "what"),
    [("127.0.0.1:1", "did not answer for 0 s: .*refused"), ("nowhere.invalid:6379", "did not answer"), ("10.0.0.1", "expected")]
    + [(bad, "expected host:port, or auto") for bad in (":6379", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:66000", "a:b")],
)
def test_an_address_at_which_nothing_listens_is_said_soon(address: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "OPENING", 0.1)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # as another test may have left it in this process
    told = f"^resources.address: no Ray cluster at {address}: .*{what}"
    with pytest.raises(InputError, match=told), cluster(Resources(address=address)):
        pass


def test_local_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert address_of(Resources()) is None


def test_as_many_trials_as_fit_run_at_once() -> None:
    assert concurrency(Resources(cpus_per_trial=2), {"CPU": 8}, 12) == 4
    assert concurrency(Resources(gpus_per_trial=0.25), {"CPU": 8, "GPU": 1}, 12) == 4
    assert concurrency(Resources(), {"CPU": 8, "GPU": 2}, 12) == 2
    assert concurrency(Resources(concurrency=3), {"CPU": 8}, 12) == 3
    with pytest.raises(InputError, match=r"resources\.cpus_per_trial: 4 do not fit; there are 2"):
        concurrency(Resources(cpus_per_trial=4), {"CPU": 2}, 12)


def test_a_session_is_closed_to_others_and_its_path_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    folder = Path(session_folder()).parent
    assert folder == base / f"ray-{os.getuid()}" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)  # as if somebody else had made it
    other = Path(session_folder()).parent
    assert other != folder and stat.S_IMODE(other.stat().st_mode) == 0o700
    shutil.rmtree(base)
    (tmp_path / ("long" * 20)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    assert session_folder() == f"/tmp/ray-{os.getuid()}/s"
