"""Faults of clusters, each injected into real parts: what must hold is that nothing is lost, doubled or changed.

The numbers are those of `docs/clusters/faults.md`, where each fault has its outcome.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sql
from mlflow.tracking import MlflowClient
from parts import Postgres, missing
from proxy import Proxy
from stormy import fill
from up import Local

from paraphrase.core.errors import InputError
from paraphrase.sweep import patience
from paraphrase.sweep.patience import OutOfPatience
from paraphrase.sweep.process import Process
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.record.recorder import Recorder
from paraphrase.sweep.record.tracking import Tracker, make_tracker
from paraphrase.sweep.store.objects import Damaged, Store
from paraphrase.sweep.study import lease as lease_module
from paraphrase.sweep.study import storage as storage_module
from paraphrase.sweep.study.lease import Lease, LeaseLost, leased
from paraphrase.sweep.study.storage import PatientStorage, open_storage

SERVERS = ("postgres", "store", "mlflow")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing(SERVERS)), reason=missing(SERVERS) or ""),
]
ERRORS = [
    b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % e for e in (b"500 Error", b"429 Too Many", b"503 No")
]
"""What MLflow's server answers where it is overloaded."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Postgres, an S3 server and MLflow."""
    with Local(tmp_path_factory.mktemp("servers"), parts=SERVERS) as it:
        before = {name: os.environ.get(name) for name in it.environment}
        os.environ.update(it.environment)
        yield it
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST", 0.1)


def study_of(it: Local, name: str) -> tuple[PatientStorage, optuna.Study]:
    storage = open_storage(it.storage)
    return storage, optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


def one_trial(study: optuna.Study) -> None:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("metrics", {"p": 0.5})
    study.tell(trial, 0.5)


# --- the study's database


def test_10_a_second_driver_is_refused_and_one_that_was_away_for_too_long_writes_nothing_more(
    servers: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "SECONDS", 6.0)
    monkeypatch.setattr(lease_module, "RENEWED", 0.2)
    first, study = study_of(servers, "two drivers")
    second, same = study_of(servers, "two drivers")
    with leased(first.server, "two drivers") as mine:
        assert mine
        one_trial(study)
        time.sleep(7.0)  # longer than it holds: it is renewed
        with pytest.raises(InputError, match=r"sweep two drivers: is being run by process \d+"):
            Lease(second.server, "two drivers").acquire()  # type: ignore[arg-type]
        mine._ended.set()  # as a process that is stopped: it renews no more, and does not know
        waiting = Lease(second.server, "two drivers")  # type: ignore[arg-type]
        waiting.acquire(wait=30.0)
        assert waiting.fence == mine.fence + 1
        for write in (study.ask, lambda: study.set_user_attr("seconds", 1)):
            with pytest.raises(LeaseLost, match="another driver has taken it over"):
                write()
        one_trial(same)
        waiting.release()
    assert len(same.trials) == 2 and all(t.state.is_finished() for t in same.trials)


def test_11_postgres_restarts_in_the_middle_of_everything(servers: Local) -> None:
    storage, study = study_of(servers, "restarts")
    over = threading.Event()

    def restart() -> None:
        for _ in range(20):
            time.sleep(0.5)
            servers.restart_postgres()
        over.set()

    thread = threading.Thread(target=restart)
    made = 0
    with leased(storage.server, "restarts"):
        thread.start()
        while not over.is_set():
            one_trial(study)
            made += 1
    thread.join()
    assert made and len(study.trials) == made and all(t.state.is_finished() for t in study.trials)


def test_12_postgres_away_for_longer_than_one_waits(servers: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    _, study = study_of(servers, "away")
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    servers.stop_postgres()
    try:
        with pytest.raises(patience.OutOfPatience, match=r"the study's database .* did not answer"):
            study.ask()
    finally:
        servers.start_postgres()
    one_trial(study)
    assert len(study.trials) == 1


def test_12_a_study_is_opened_once_its_database_is_back_and_a_wrong_address_or_password_is_named(
    servers: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "OPENING", 1.0)
    servers.stop_postgres()
    with pytest.raises(InputError, match=r"^storage: the study's database .* did not answer for 1 s: .*refused"):
        open_storage(servers.storage)
    with pytest.raises(patience.OutOfPatience, match="did not answer for 2 s"):
        open_storage(servers.storage, 2.0)
    threading.Timer(1.0, servers.start_postgres).start()
    open_storage(servers.storage, 60.0)
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    monkeypatch.setenv("PGPASSWORD", "not the one")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^storage: .* cannot be opened: .*password authentication failed") as caught:
        open_storage(servers.storage, 60.0)
    assert time.monotonic() - began < 10 and "not the one" not in str(caught.value)


def test_13_connections_used_up(servers: Local, capsys: pytest.CaptureFixture[str]) -> None:
    _, study = study_of(servers, "full")
    one_trial(study)
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    engine = sql.create_engine(servers.storage, poolclass=sql.NullPool)
    held = []
    try:
        while True:
            held.append(engine.connect())
    except sql.exc.OperationalError:
        pass
    threading.Timer(1.0, lambda: [c.close() for c in held]).start()
    one_trial(study)
    assert "does not answer" in capsys.readouterr().err and len(study.trials) == 2


def test_14_postgress_disk_is_full_and_has_room_again(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Postgres(small_disk / "data", tmp_path / "secrets", tmp_path, "127.0.0.1", threading.Event())
    monkeypatch.setenv("PGPASSFILE", str(server.passfile))
    try:
        server.start()
        storage = open_storage(server.url("optuna"))
        study = optuna.create_study(storage=storage, study_name="full")
        one_trial(study)
        filler = fill(small_disk)
        monkeypatch.setattr(patience, "PATIENCE", 3.0)
        made = 0
        with pytest.raises(patience.OutOfPatience, match="No space left on device"):
            while made < 5_000:  # until what Postgres has set aside is full, too
                study.set_user_attr(f"filler {made}", "x" * 2_000)
                made += 1
        filler.unlink()
        monkeypatch.setattr(patience, "PATIENCE", 60.0)
        one_trial(study)
        assert [t.state.name for t in study.trials] == ["COMPLETE"] * 2
        assert len(study.user_attrs) in (made, made + 1)
        assert "does not answer" in capsys.readouterr().err
    finally:
        server.stop()


@pytest.mark.parametrize("statement", [b"INSERT INTO trials", b"COMMIT"])
def test_15_a_trial_is_made_once_although_the_reply_is_lost(servers: Local, statement: bytes) -> None:
    real = sql.make_url(servers.storage)
    proxy = Proxy((str(real.host), int(real.port or 0)))
    url = real.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    try:
        storage = open_storage(url)
        study = optuna.create_study(storage=storage, study_name=f"lost {statement.decode()}")
        one_trial(study)
        proxy.swallow_reply(statement)
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        proxy.swallow_reply(b"COMMIT")
        study.tell(trial, 0.5)
        assert [t.state.name for t in study.trials] == ["COMPLETE"] * 2
    finally:
        proxy.close()


def test_a_study_is_not_put_into_mlflows_database(servers: Local) -> None:
    with pytest.raises(InputError, match="is MLflow's database; a study needs one of its own"):
        open_storage(servers.postgres.url("mlflow"))


# --- the record


def test_20_a_host_header_that_the_server_refuses_is_named_with_the_flag(servers: Local) -> None:
    with pytest.raises(InputError, match=r"--allowed-hosts"):
        open_client(servers.tracking_uri.replace("127.0.0.1", "localhost"))


@contextmanager
def recorder_of(it: Local, name: str, uri: str | None = None) -> Iterator[Recorder]:
    """One that has written all in the end."""
    uri = uri or it.tracking_uri
    with closing(Process("writes to MLflow")) as process:
        process.keep(make_tracker, uri, "faults", None, name, name, {})
        recorder = Recorder(process, uri)
        yield recorder
        recorder.close()


def record(recorder: Recorder, number: int) -> None:
    recorder.start_trial(number, f"{number:03d}", {"loss.eta": 0.5}, {}, earlier=False)
    for epoch in (1, 2):
        recorder.log(number, [{"epoch": epoch, "timestamp": 1_000 * epoch, "p": 0.1 * epoch, "seconds": 1.0}])
    recorder.end_trial(number, "complete", None, [], 2_000, {})


def check_record(it: Local, name: str, trials: int) -> None:
    """Each trial has one run, each series no gap and no double."""
    client: MlflowClient = open_client(it.tracking_uri)
    experiment = client.get_experiment_by_name("faults")
    runs = client.search_runs([experiment.experiment_id], f"tags.study = '{name}' and tags.kind = 'trial'")
    assert sorted(int(r.data.tags["trial_number"]) for r in runs) == list(range(trials))
    for run in runs:
        assert run.info.status == "FINISHED" and run.data.params == {"loss.eta": "0.5"}
        assert [m.step for m in client.get_metric_history(run.info.run_id, "p")] == [1, 2]


def test_16_mlflow_away_keeps_nobody_waiting_and_all_is_written_afterwards(servers: Local) -> None:
    with recorder_of(servers, "away") as recorder:
        servers.stop_mlflow()
        try:
            began = time.monotonic()
            for number in range(3):
                record(recorder, number)
            assert time.monotonic() - began < 10.0
            while not recorder.behind:
                time.sleep(0.05)
            assert recorder.written.empty()
        finally:
            servers.start_mlflow()
    assert not recorder.behind and sorted(recorder.written.get() for _ in range(3)) == [0, 1, 2]
    check_record(servers, "away", 3)


def test_16_mlflow_away_when_a_sweep_begins_is_waited_for_and_a_wrong_address_is_named(
    servers: Local, capsys: pytest.CaptureFixture[str]
) -> None:
    servers.stop_mlflow()
    with pytest.raises(InputError, match=r"^tracking_uri: .* cannot be opened: MLflow at .* did not answer for 1 s: .*"):
        open_client(servers.tracking_uri, 1.0)
    threading.Timer(1.0, servers.start_mlflow).start()
    open_client(servers.tracking_uri, 120.0)
    assert "answers again" in capsys.readouterr().err


@pytest.mark.parametrize("request_", [b"runs/create", b"runs/log-batch", b"runs/update"])
def test_17_a_run_is_made_once_although_the_reply_is_lost(servers: Local, request_: bytes) -> None:
    host, _, port = servers.tracking_uri.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)))
    name = f"lost {request_.decode()}"
    try:
        with recorder_of(servers, name, f"http://127.0.0.1:{proxy.port}") as recorder:
            proxy.swallow_reply(request_)
            record(recorder, 0)
            record(recorder, 1)
    finally:
        proxy.close()
    check_record(servers, name, 2)


def test_18_one_request_in_ten_that_fails_is_made_again(servers: Local) -> None:
    host, _, port = servers.tracking_uri.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)))
    try:
        with recorder_of(servers, "overloaded", f"http://127.0.0.1:{proxy.port}") as recorder:
            proxy.answer_one_in(10, ERRORS)
            for number in range(20):
                record(recorder, number)
        assert proxy.answered >= 6
    finally:
        proxy.close()
    check_record(servers, "overloaded", 20)


def test_19_a_password_that_changes_in_the_middle_is_waited_for(
    servers: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    monkeypatch.setenv("HOME", str(tmp_path))
    credentials = tmp_path / ".mlflow" / "credentials"
    credentials.parent.mkdir()

    def write(secret: str) -> None:
        credentials.write_text(f"[mlflow]\nmlflow_tracking_username = {user}\nmlflow_tracking_password = {secret}\n")

    write(password)
    with recorder_of(servers, "changed") as recorder:
        record(recorder, 0)
        recorder.now(Tracker.flush)
        write("not the one")
        record(recorder, 1)
        while not recorder.behind:
            time.sleep(0.05)
        write(password)
    check_record(servers, "changed", 2)
    said = capsys.readouterr().err
    assert "does not answer" in said and "not the one" not in said


def test_16_a_process_that_is_killed_while_it_writes_interrupts_the_sweep(servers: Local) -> None:
    with closing(Process("writes to MLflow")) as process:
        process.begin(os.getpid)
        pid = process.answer()
        process.keep(make_tracker, servers.tracking_uri, "faults", None, "killed", "killed", {})
        recorder = Recorder(process, servers.tracking_uri)
        record(recorder, 0)
        recorder.now(Tracker.flush)
        os.kill(pid, signal.SIGKILL)
        record(recorder, 1)
        with pytest.raises(OutOfPatience, match=r"^the process that writes to MLflow ended with -9$"):
            recorder.close()
        assert [recorder.written.get(timeout=1.0)] == [0] and recorder.written.empty()
    with recorder_of(servers, "killed") as again:
        record(again, 1)
    check_record(servers, "killed", 2)


def test_19_a_wrong_password_is_named_before_anything_is_written(servers: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not the one")
    with pytest.raises(InputError, match=r"tracking_uri: .* cannot be opened") as caught:
        open_client(servers.tracking_uri)
    assert "not the one" not in str(caught.value)


# --- the store


def folder_of(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "checkpoint.safetensors").write_text(text)
    return path


def test_22_the_store_away_is_waited_for(servers: Local, tmp_path: Path) -> None:
    store = Store(f"{servers.store}/away")
    store.check()
    servers.stop_store()
    threading.Timer(2.0, servers.start_store).start()
    store.put(folder_of(tmp_path / "a", "a"), "a")
    store.get("a", tmp_path / "back")
    assert (tmp_path / "back" / "checkpoint.safetensors").read_text() == "a"


def test_23_and_24_what_was_cut_short_or_changed_in_the_store_is_not_taken(servers: Local, tmp_path: Path) -> None:
    store = Store(f"{servers.store}/damaged")
    store.put(folder_of(tmp_path / "a", "a" * 100), "a")
    store.write("a/checkpoint.safetensors", b"a" * 99 + b"b")
    with pytest.raises(Damaged, match=r"a/checkpoint\.safetensors: is not what was written"):
        store.get("a", tmp_path / "back")
    store.files.rm_file(store._path("a/MANIFEST.json"))
    with pytest.raises(Damaged, match="was not written to its end"):
        store.get("a", tmp_path / "back")


def test_25_credentials_that_are_refused_stop_at_once_and_are_not_printed(
    servers: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the one")
    try:
        with pytest.raises(InputError, match="refuses access") as caught:
            Store(f"{servers.store}/refused").check()
        assert "not the one" not in str(caught.value)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
