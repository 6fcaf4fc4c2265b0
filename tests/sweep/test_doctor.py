from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import paraphrase_here


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


def findings(*arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    ran = paraphrase_here("cluster", "doctor", "menagerie", "--json", *arguments)
    return ran.returncode, {f["check"]: (f["state"], f["found"]) for f in json.loads(ran.stdout)}


def test_this_machine_alone_lacks_nothing(home: Path) -> None:
    code, found = findings()
    assert code == 0 and {state for state, _ in found.values()} == {"ok"}
    assert not list(home.iterdir())  # it looks, and makes nothing
    lines = paraphrase_here("cluster", "doctor").stdout.splitlines()
    assert len(lines) == len(found) and all(line.startswith("ok ") for line in lines)


def test_each_fault_has_a_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    code, found = findings(
        f"store={(tmp_path / 'file' / 'below').as_uri()}",
        "storage=postgresql+psycopg://me:secret@127.0.0.1:1/x",
        "tracking_uri=what://x",
    )
    assert code == 2
    assert found["Ray token"][0] == found["store"][0] == found["study"][0] == found["MLflow"][0] == "wrong"
    assert "ray get-auth-token --generate" in found["Ray token"][1]
    assert not any("secret" in text for _, text in found.values())


def test_a_token_that_others_can_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("x")
    (tmp_path / "token").chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    code, found = findings()
    assert code == 0 and found["Ray token"] == ("warning", f"others can read it: chmod 600 {tmp_path / 'token'}")


@pytest.mark.cluster
def test_a_running_cluster_is_asked(on_ray_here: str, home: Path) -> None:
    code, found = findings("resources.gpus_per_trial=1")
    assert found["nodes"][0] == "ok" and "1 nodes" in found["nodes"][1]
    assert code == 2 and found["resources"][0] == "wrong" and "resources.wait_for" in found["resources"][1]
    assert found["Ray token"][0] == "warning"
