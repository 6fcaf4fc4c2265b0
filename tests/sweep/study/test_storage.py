"""The study's storage; what a server does to it is in `tests/infra`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sql
from databases import tables_of, tables_stamped
from optuna.storages import RDBStorage

from paraphrase.core.errors import InputError
from paraphrase.sweep import patience
from paraphrase.sweep.settings.folder import without_password
from paraphrase.sweep.study import storage as module
from paraphrase.sweep.study.storage import PatientStorage, _file_system, open_storage


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    monkeypatch.setattr(patience, "FIRST", 0.01)
    return optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path / 'x.db'}"), study_name="x")


def gone() -> sql.exc.OperationalError:
    return sql.exc.OperationalError("commit", None, Exception("the server closed the connection"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trial_is_made_once_whether_it_failed_before_or_after_the_commit(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    study.ask()
    real, failed = module._create_scoped_session, []

    @contextmanager
    def once(scoped: Any, ignore: bool = False) -> Iterator[Any]:
        if not failed and when == "before":
            failed.append(1)
            raise gone()
        with real(scoped, ignore) as session:
            yield session
        if not failed:
            failed.append(1)
            raise gone()

    monkeypatch.setattr(module, "_create_scoped_session", once)
    assert study.ask().number == 1 and failed
    assert [t.number for t in study.trials] == [0, 1]


def test_an_end_that_was_written_before_its_answer_was_lost_is_an_end(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, real, failed = study.ask(), RDBStorage.set_trial_state_values, []

    def once(*arguments: Any) -> bool:
        done = real(*arguments)
        if not failed:
            failed.append(1)
            raise gone()
        return done

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", once)
    study.tell(trial, 0.5)
    assert failed and study.trials[0].value == 0.5


def test_attributes_are_set_together(study: optuna.Study) -> None:
    trial = study.ask()
    storage = study._storage._backend  # type: ignore[attr-defined]
    assert isinstance(storage, PatientStorage)
    storage.set_trial_user_attrs(trial._trial_id, {"a": 1, "b": {"c": None}})
    assert study.trials[0].user_attrs == {"a": 1, "b": {"c": None}}


@pytest.mark.parametrize(
    ("place", "kind"),
    [("/home/me/x.db", "ext4"), ("/net/shared/deep/x.db", "nfs4"), ("/net/a b/x.db", "cifs"), ("/netx/x.db", "ext4")],
)
def test_the_file_system_of_a_file_is_known(tmp_path: Path, place: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/root / ext4 rw 0 0\nserver:/x /net/shared nfs4 rw 0 0\n//server/y /net/a\\040b cifs rw 0 0\n")
    assert _file_system(Path(place), mounts) == kind


def test_a_sqlite_study_on_a_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_file_system", lambda file: "nfs4")
    with pytest.raises(InputError, match=r"storage: .*x\.db lies on a network file system \(nfs4\)"):
        open_storage(f"sqlite:///{tmp_path / 'x.db'}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db:5432/x", "postgresql://me@db:5432/x"),
        ("cannot open http://me:p%40ss@host/ now", "cannot open http://me@host/ now"),
        ("sqlite:////home/x.db", "sqlite:////home/x.db"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_values_that_a_trial_is_asked_for_together_are_one_transaction(study: optuna.Study) -> None:
    storage: PatientStorage = study._storage._backend  # type: ignore[attr-defined]
    done: list[str] = []
    trial = study.ask()
    sql.event.listen(storage.engine, "commit", lambda _: done.append("commit"))
    sql.event.listen(storage.engine, "before_cursor_execute", lambda *a: done.append(a[2].split("(")[0].strip()))
    with storage.together():
        first, second = trial.suggest_float("a", 0, 1), trial.suggest_int("b", 1, 9)
        assert "INSERT INTO trial_params" not in done
    inserted = [what for what in done if what in ("INSERT INTO trial_params", "commit")]
    assert (
        inserted[-2:] == ["INSERT INTO trial_params", "commit"]
        and inserted.index("INSERT INTO trial_params") >= len(inserted) - 3
    )
    assert study.trials[0].params == {"a": first, "b": second} == trial.params
    assert trial.suggest_categorical("c", ["x"]) == "x" == study.trials[0].params["c"]
    other = study.ask()
    with pytest.raises(ValueError, match="different distribution"), storage.together():
        other.suggest_categorical("a", ["x", "y"])
    assert study.trials[1].params == {}


@pytest.mark.parametrize(("version", "remedy"), [("v2.6.0.a", "optuna storage upgrade"), ("v99.0.0.a", "pip install -U optuna")])
def test_tables_of_another_version_are_named_and_left_as_they_are(tmp_path: Path, version: str, remedy: str) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    optuna.create_study(storage=open_storage(url), study_name="x")
    stamped = tables_stamped(tmp_path / "x.db", version)
    with pytest.raises(InputError, match=f"^storage: {url} cannot be opened: .*{remedy}"):
        open_storage(url)
    assert tables_of(tmp_path / "x.db") == stamped
