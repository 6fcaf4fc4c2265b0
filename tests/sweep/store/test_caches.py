from __future__ import annotations

import json
import multiprocessing
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from paraphrase.core.errors import InputError
from paraphrase.core.features.cache import META, caches
from paraphrase.sweep.store import caches as module
from paraphrase.sweep.store.caches import fetch_cache, open_scratch, publish_cache
from paraphrase.sweep.store.objects import Store

Disk = namedtuple("Disk", "total used free")


class Counting(Store):
    """Counts what it brings."""

    def get(self, key: str, folder: Path) -> None:
        with (Path(self.root).parent / "fetched").open("a") as log:
            log.write(f"{key}\n")
        super().get(key, folder)


def cache(folder: Path, size: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.features.bin").write_bytes(b"x" * size)
    (folder / META).write_text(json.dumps({"key": folder.name}))
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    store = Counting((tmp_path / "store").as_uri())
    for key in ("one", "two"):
        publish_cache(store, cache(tmp_path / "built" / key))
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "node"))
    monkeypatch.setattr(module, "_held", {})
    return store


def fetch(uri: str) -> None:
    fetch_cache(Counting(uri), "one")


def test_processes_of_one_node_bring_a_cache_once(store: Counting, tmp_path: Path) -> None:
    spawned = multiprocessing.get_context("fork")
    processes = [spawned.Process(target=fetch, args=(store.uri,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 4
    assert (tmp_path / "fetched").read_text() == "caches/one\n"
    assert (caches() / "one" / "train.features.bin").stat().st_size == 1000


def test_what_a_killed_process_left_is_removed(store: Counting) -> None:
    cache(caches() / ".one.4711")
    fetch_cache(store, "one")
    assert not (caches() / ".one.4711").exists()


def test_room_is_made_of_caches_that_nobody_holds(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    old = cache(caches() / "old")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10_000, 8_000, 9_000 if not old.exists() else 1_500))
    fetch_cache(store, "one")
    assert not old.exists()
    old.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10_000, 8_000, 500))
    with pytest.raises(InputError, match=r"cache two needs .* PARAPHRASE_SCRATCH names a larger disk"):
        fetch_cache(store, "two")
    assert (caches() / "one").exists()  # this process holds it


def test_a_cache_that_is_not_whole_is_named(store: Counting, tmp_path: Path) -> None:
    (tmp_path / "store" / "caches" / "one" / "train.features.bin").write_bytes(b"y" * 1000)
    with pytest.raises(InputError, match=r"caches/one/train\.features\.bin: is not what was written"):
        fetch_cache(store, "one")
    with pytest.raises(InputError, match="caches/three: was not written to its end"):
        fetch_cache(store, "three")


def test_scratch_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAPHRASE_SCRATCH", str(tmp_path / "scratch"))
    assert open_scratch().stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARAPHRASE_SCRATCH", str(tmp_path / "file" / "below"))
    with pytest.raises(InputError, match="PARAPHRASE_SCRATCH"):
        open_scratch()
