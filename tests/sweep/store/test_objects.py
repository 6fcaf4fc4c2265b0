"""A store in a folder: the same code as on S3, which `tests/infra` has."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from paraphrase.core.errors import InputError
from paraphrase.sweep import patience
from paraphrase.sweep.patience import OutOfPatience, patiently
from paraphrase.sweep.store.objects import MANIFEST, Damaged, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "store").as_uri())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine" / "below").mkdir(parents=True)
    (tmp_path / "mine" / "a.bin").write_bytes(b"a" * 1000)
    (tmp_path / "mine" / "below" / "b.txt").write_text("b")
    return tmp_path / "mine"


def test_a_folder_comes_back_as_it_was(store: Store, folder: Path, tmp_path: Path) -> None:
    assert not store.whole("things/1") and store.keys("things") == []
    store.put(folder, "things/1")
    assert store.whole("things/1")
    assert sorted(store.keys("things")) == [f"things/1/{MANIFEST}", "things/1/a.bin", "things/1/below/b.txt"]
    store.get("things/1", tmp_path / "back")
    assert (tmp_path / "back" / "a.bin").read_bytes() == b"a" * 1000
    assert (tmp_path / "back" / "below" / "b.txt").read_text() == "b"
    store.delete("things")
    assert store.keys("things") == [] and not store.whole("things/1")
    store.delete("things")  # once more is no error


def test_what_was_cut_off_or_changed_is_not_taken(store: Store, folder: Path, tmp_path: Path) -> None:
    store.put(folder, "things/1")
    place = tmp_path / "store" / "things" / "1"
    (place / "a.bin").write_bytes(b"a" * 999 + b"b")
    with pytest.raises(Damaged, match=r"things/1/a\.bin: is not what was written"):
        store.get("things/1", tmp_path / "back")
    (place / "a.bin").unlink()
    with pytest.raises(Damaged, match=r"things/1/a\.bin"):
        store.get("things/1", tmp_path / "back")
    (place / MANIFEST).unlink()
    with pytest.raises(Damaged, match="things/1: was not written to its end"):
        store.get("things/1", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".back*"))  # nor a half of it


@pytest.mark.parametrize("uri", ["nowhere://x", "what"])
def test_a_uri_that_nothing_is_known_of_is_named(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"store: {uri}"):
        Store(uri)


def test_a_store_is_checked_before_it_is_relied_on(store: Store, tmp_path: Path) -> None:
    store.check()
    assert store.keys("probe") == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="store: file://"):
        Store((tmp_path / "file" / "below").as_uri()).check()


def test_a_server_is_waited_for_and_then_given_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(patience, "FIRST", 0.01)
    answers = iter([ConnectionError("away"), ConnectionError("away"), 7])
    tried: list[str] = []

    def operation() -> int:
        tried.append("first")
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def again() -> int:
        tried.append("again")
        return operation()

    assert patiently(operation, "the server", lambda error: isinstance(error, ConnectionError), again) == 7
    assert tried == ["first", "again", "first", "again", "first"]  # what may have been done is looked for from the second time on
    assert capsys.readouterr().err.splitlines() == [
        "the server does not answer (away); trying for 15:00 min",
        "the server answers again",
    ]

    def never() -> None:
        raise ConnectionError("away")

    with pytest.raises(OutOfPatience, match="the server did not answer for 0 s: away"):
        patiently(never, "the server", lambda error: True, patience=0.05)
    with pytest.raises(ConnectionError):
        patiently(never, "the server", lambda error: False)


@pytest.mark.parametrize(
    "cause", [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")], ids=str
)
def test_what_this_process_lacks_is_not_waited_for(cause: BaseException) -> None:
    def operation() -> None:
        try:
            raise cause
        except BaseException as error:
            raise ConnectionError("the client raised an unhandled exception") from error

    with pytest.raises(ConnectionError, match="unhandled"):
        patiently(operation, "the server", lambda error: True)
