"""Where commands write what they are told to write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paraphrase.cli import main


def test_a_file_is_written_behind_its_link_and_nothing_else_is_replaced(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(swept))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "link", "folder"):
        for given in (("sweep", "export", "damaged"), ("report", "damaged"), ("tables", "damaged")):
            assert main([*given, "--out", str(tmp_path / name)]) == 2
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("paraphrase: ")]
            assert line.startswith(f"paraphrase: --out {tmp_path / name}: is ")
    assert (tmp_path / "fifo").is_fifo() and (tmp_path / "link").is_symlink()
    (tmp_path / "file.csv").write_text("older")
    (tmp_path / "other").symlink_to(tmp_path / "file.csv")
    assert main(["sweep", "export", "damaged", "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other").is_symlink() and (tmp_path / "file.csv").read_text().startswith("number,")
