"""Files of a home that were cut short, emptied or overwritten: what can be made anew is, what cannot is named in a line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import SMALL, paraphrase_here, small_sweep
from PIL import Image

from paraphrase.sweep.record.client import quiet_mlflow

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

FILES = {
    "caches/index/*.json": "plan build",
    "caches/*/meta.json": "caches plan explain build",
    "caches/*/ceiling.json": "build explain",
    "caches/*/train.features.bin": "caches plan explain build",
    "caches/*/small.safetensors": "explain build",
    "data/checked/*.json": "explain",
    "data/menagerie-*/index.json": "explain plan",
    "performers/*/performer.json": "anew",
    "performers/*/*.safetensors": "anew",
    "sweeps/damaged/sweep.yaml": "show list export pick report plan delete",
    "sweeps/damaged/report/facts.json": "report",
    "sweeps/damaged/trials/0/config.yaml": "pick report",
    "sweeps/damaged/trials/*/explainer/explainer.json": "explain report",
    "sweeps/damaged/trials/*/explainer/explainer.safetensors": "explain",
    "sweeps/damaged/trials/*/explainer/filters.csv": "report",
    "studies.db": "show list export pick report plan delete",
    "mlflow.db": "show report plan delete",
}
"""Files of a home, and what reads them."""
REWRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\xff\x00garbage" * 40,
    "flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 8]) + content[len(content) // 2 + 1 :]
    ),
    "other JSON": lambda content: b'{"a": [1, null]}',
}
DAMAGE: dict[str, Callable[[Path, bytes], object]] = {
    **{name: lambda file, content, change=change: file.write_bytes(change(content)) for name, change in REWRITTEN.items()},
    "gone": lambda file, content: None,
    "a folder": lambda file, content: file.mkdir(),
    "a pipe": lambda file, content: os.mkfifo(file),
}
"""What is put in a file's place."""
COMMANDS = {
    "show": ["sweep", "show", "damaged"],
    "export": ["sweep", "export", "damaged"],
    "pick": ["sweep", "pick", "damaged"],
    "list": ["sweep", "list"],
    "report": ["report", "damaged", "--out", "report.html"],
    "caches": ["cache", "list"],
    "explain": ["explain", "picture.png", "--explainer", "home/sweeps/damaged/trials/0/explainer", "--out", "explained"],
    "plan": ["sweep", "run", "again.yaml", "--dry-run"],
    "build": ["cache", "build", "again.yaml"],
    "anew": ["cache", "build", "again.yaml", "cache.dtype=float32"],
    "delete": ["sweep", "delete", "damaged"],
}
SLOW, FOR_SLOW = ("report", "explain"), ("emptied", "garbage", "a pipe")
"""Commands that take seconds, and the damage that they are tried on."""


@pytest.fixture
def place(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that home, in a working folder with a picture and a sweep's file."""
    shutil.copytree(swept, tmp_path / "home", dirs_exist_ok=True)
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (120, 120), (200, 60, 60)).save("picture.png")
    small_sweep(tmp_path, "again", epochs=1, base=SMALL)
    quiet_mlflow()
    yield tmp_path / "home"


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("what", FILES)
def test_a_damaged_file_is_made_anew_or_named(place: Path, what: str, damage: str) -> None:
    files = sorted(place.glob(what))
    assert files, f"there is no {what}"
    for file in files:
        content = file.read_bytes()
        file.unlink()
        DAMAGE[damage](file, content)
    for name in FILES[what].split():
        if name in SLOW and damage not in FOR_SLOW:
            continue
        ran = paraphrase_here(*COMMANDS[name])
        said = [line for line in ran.stderr.splitlines() if line.startswith("paraphrase: ")]
        assert ran.returncode in (0, 2), (name, ran.stderr)
        assert (len(said) > 0) == (ran.returncode == 2), (name, ran.stderr)
        assert all(len(line) < 600 for line in said), (name, said)


@pytest.mark.parametrize(
    ("what", "command", "line"),
    [
        ("caches/*/train.features.bin", "build", "train.features.bin: changed since it was built; "),
        ("caches/*/small.safetensors", "build", "small.safetensors: changed since it was built; "),
        ("performers/*/*.safetensors", "anew", "is damaged (its weights are not those that were saved)"),
        ("sweeps/damaged/trials/0/explainer/explainer.safetensors", "explain", "is damaged (its checksum is another one)"),
    ],
)
def test_a_single_bit_that_was_flipped_is_noticed(place: Path, what: str, command: str, line: str) -> None:
    """Where it would change results without a word: in numbers that still are numbers."""
    (file,) = place.glob(what)
    content = bytearray(file.read_bytes())
    content[-1000] ^= 16
    file.write_bytes(content)
    assert line in paraphrase_here(*COMMANDS[command]).stderr


@pytest.mark.parametrize("what", ["studies.db", "mlflow.db"])
def test_a_database_with_a_page_that_is_damaged_is_named(place: Path, what: str) -> None:
    """Which would otherwise end in a traceback somewhere, or leave rows out."""
    content = bytearray((place / what).read_bytes())
    pages = [i for i in range(4096, len(content), 4096) if content[i] in (2, 5, 10, 13)]  # of tables and indices
    for i in pages[:: max(1, len(pages) // 8)]:
        content[i] ^= 96
    (place / what).write_bytes(content)
    ran = paraphrase_here("sweep", "show", "damaged") if what == "studies.db" else paraphrase_here("report", "damaged")
    assert f"{place / what}: is damaged (" in ran.stderr and "sqlite's `.recover`" in ran.stderr
    assert len([line for line in ran.stderr.splitlines() if "is damaged" in line]) == 1
