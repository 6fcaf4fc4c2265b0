from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import numpy as np
import torch

from paraphrase.sweep.record.facts import PACKAGES, cores, facts, processor, versions, without_places


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert list(found) == ["paraphrase", "code", "python", *PACKAGES]
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__ and "not installed" not in found.values()


def test_facts_name_neither_host_nor_user_nor_folder() -> None:
    text = json.dumps(facts())
    assert str(Path.home()) not in text and str(Path.cwd()) not in text
    for name in (socket.gethostname(), getpass.getuser()):
        assert len(name) < 5 or name not in text  # a shorter one can be part of any word
    assert all(facts()["hardware"].values()) and cores() >= 1


def test_processor_is_the_model_that_linux_tells(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: X\nmodel name\t: Fast CPU @ 3 GHz\n\nprocessor\t: 1\nmodel name\t: other\n")
    assert processor(cpuinfo) == "Fast CPU @ 3 GHz"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # as on ARM
    assert processor(cpuinfo) and processor(tmp_path / "none") != "Fast CPU @ 3 GHz"


def test_texts_lose_home_folders_and_passwords(home: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    text = f"weights: {home}/performers/a.pth, data: /home/ada/birds, /home/adam/x, uri: https://ada:secret@host/x, /home/ada"
    expected = "weights: $PARAPHRASE_HOME/performers/a.pth, data: ~/birds, /home/adam/x, uri: https://…@host/x, ~"
    assert without_places(text) == expected
