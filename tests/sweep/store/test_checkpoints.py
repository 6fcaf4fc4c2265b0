from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import until

from paraphrase.sweep.store import checkpoints as module
from paraphrase.sweep.store.checkpoints import Checkpoints
from paraphrase.sweep.store.objects import Store


def state(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "checkpoint.safetensors").write_text(text)

    return write


def content(folder: Path | None) -> str | None:
    return folder and (folder / "checkpoint.safetensors").read_text()


def test_the_newest_is_found_again_and_two_are_kept(tmp_path: Path) -> None:
    mine = Checkpoints(tmp_path / "c")
    assert mine.open() is None and not mine.any() and mine.attempt == 1
    for epoch in (1, 2, 3):
        mine.save(epoch, state(f"after {epoch}"))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["000002-0001", "000003-0001"]
    other = Checkpoints(tmp_path / "c")
    assert content(other.open()) == "after 3" and other.attempt == 2
    other.delete()
    assert not other.any()


def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = Checkpoints(tmp_path / "c")
    mine.open()
    for epoch in (1, 2):
        mine.save(epoch, state(f"after {epoch}"))
    (tmp_path / "c" / "000002-0001" / "checkpoint.safetensors").write_text("after 9")  # as long as it was
    assert content(Checkpoints(tmp_path / "c").open()) == "after 1"
    assert "a checkpoint is damaged" in capsys.readouterr().err


def test_what_a_killed_process_left_in_the_middle_of_a_save_is_none(tmp_path: Path) -> None:
    state("half")(tmp_path / "c" / ".000004-0001.77")
    state("without a manifest")(tmp_path / "c" / "000005-0001")
    assert Checkpoints(tmp_path / "c").open() is None


def test_another_node_goes_on_from_the_store_and_one_that_was_cut_off_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.0)
    store = Store((tmp_path / "store").as_uri())
    first = Checkpoints(tmp_path / "node 1", store, "trials/3/checkpoint")
    first.open()
    for epoch in (1, 2, 3):
        first.save(epoch, state(f"after {epoch}, first"))
    until(lambda: store.whole("trials/3/checkpoint/000003-0001") and len(first._there()) == 2)
    second = Checkpoints(tmp_path / "node 2", store, "trials/3/checkpoint")
    assert content(second.open()) == "after 3, first" and second.attempt == 2
    second.save(4, state("after 4, second"))
    until(lambda: store.whole("trials/3/checkpoint/000004-0002"))
    first.save(4, state("after 4, first"))  # it does not know that it was given up
    until(lambda: store.whole("trials/3/checkpoint/000004-0001"))
    assert content(Checkpoints(tmp_path / "node 3", store, "trials/3/checkpoint").open()) == "after 4, second"
    first.close()
    second.delete()
    assert store.keys("trials/3") == []


def test_uploads_do_not_follow_each_other_closely(tmp_path: Path) -> None:
    store = Store((tmp_path / "store").as_uri())
    mine = Checkpoints(tmp_path / "c", store, "t")
    mine.open()
    for epoch in (1, 2, 3):
        mine.save(epoch, state(f"after {epoch}"))
    until(lambda: store.whole("t/000001-0001"))
    mine.save(4, state("after 4"), urgent=True)
    mine.close()
    assert sorted(mine._there()) == ["000001-0001", "000004-0001"]


def test_a_store_that_refuses_an_upload_is_told_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.0)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "t").write_text("a file where a folder should be")
    mine = Checkpoints(tmp_path / "c", Store((tmp_path / "store").as_uri()), "t")
    mine.attempt = 1
    mine.save(1, state("after 1"))
    until(lambda: mine._failure is not None)
    with pytest.raises(OSError):
        mine.save(2, state("after 2"))
