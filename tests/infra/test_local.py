"""The parts that run on one machine as they do in production: that they ask for passwords, and that what breaks them does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from house import ROOT
from network import Network
from parts import BIN, DATABASES, USER, basic, missing, status
from processes import NotReady, Process, answers, free_port
from up import Local, exports

LOCAL = ROOT / "infra" / "local"
PATIENCE = 180.0
"""Seconds for a program on a busy machine."""


def needs(*parts: str) -> Callable[[Any], Any]:
    """Marks a test that starts these parts: it is left out where they are not installed."""
    lack = missing(parts)
    return lambda test: pytest.mark.cluster(pytest.mark.skipif(bool(lack), reason=lack)(test))


def arguments_of_all() -> list[str]:
    """The command line of each process of this machine."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_text(errors="replace"))
        except OSError:  # ended meanwhile
            continue
    return found


def lives(pid: int) -> bool:
    """Whether there is a process that is more than an entry nobody has asked for yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() != ""
    except OSError:
        return False


def nothing_is_left(*folders: Path) -> bool:
    return not any(str(folder) in line for folder in folders for line in arguments_of_all())


def nodes_seen(it: Local, nodes: int) -> list[str]:
    """Nodes, CPUs and whose driver this is, once the cluster has so many nodes."""
    return python(it, LOOK.format(nodes=nodes)).stdout.splitlines()[-1].split()  # Ray may say something before


def python(it: Local, program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a driver is, in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = os.environ | it.environment | settings
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)


@needs("postgres")
def test_postgres_wants_the_password_and_keeps_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    with Local(tmp_path, parts=["postgres"]) as it:
        monkeypatch.setenv("PGPASSFILE", it.environment["PGPASSFILE"])
        assert Path(it.environment["PGPASSFILE"]).stat().st_mode & 0o777 == 0o600
        address: dict[str, Any] = {"host": "127.0.0.1", "port": it.postgres.port, "user": USER, "connect_timeout": 10}
        assert it.storage == f"postgresql+psycopg://{USER}@127.0.0.1:{it.postgres.port}/optuna"
        for database in DATABASES:
            with psycopg.connect(dbname=database, **address) as connection:
                connection.execute("CREATE TABLE kept (number int)")
                rights = connection.execute("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
                assert rights.fetchone() == (False,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dbname="optuna", password="wrong", **address)

        open_before = psycopg.connect(dbname="optuna", **address)
        it.restart_postgres()
        with pytest.raises(psycopg.OperationalError):
            open_before.execute("SELECT 1")
        with psycopg.connect(dbname="optuna", **address) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        it.stop_postgres()
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(dbname="optuna", **address)
        it.start_postgres()
        psycopg.connect(dbname="optuna", **address).close()
    assert nothing_is_left(it.short) and not it.short.exists() and not (tmp_path / "secrets").exists()
    assert "ready to accept connections" in (tmp_path / "logs" / "postgres.log").read_text()


@needs("store")
def test_the_store_wants_the_key_and_keeps_what_is_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    def open_store(**credentials: str) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, **credentials)

    with Local(tmp_path, parts=["store"]) as it:
        for name, value in it.environment.items():
            monkeypatch.setenv(name, value)
        files, place = open_store(), it.store.removeprefix("s3://")
        files.pipe_file(f"{place}/a/small", b"one")
        files.pipe_file(f"{place}/a/small", b"two")
        assert files.cat_file(f"{place}/a/small") == b"two"
        large = os.urandom(12 << 20)
        with files.open(f"{place}/a/large", "wb", block_size=5 << 20) as file:  # in three parts
            file.write(large)
        assert files.cat_file(f"{place}/a/large") == large
        assert files.cat_file(f"{place}/a/large", start=7, end=9) == large[7:9]
        assert files.find(place) == [f"{place}/a/large", f"{place}/a/small"]
        files.rm_file(f"{place}/a/large")
        with pytest.raises(FileNotFoundError):
            files.cat_file(f"{place}/a/large")

        with pytest.raises(PermissionError, match="signature"):
            open_store(key=USER, secret="wrong").ls(place)
        with pytest.raises(PermissionError, match="Access Key"):
            open_store(key="nobody", secret=it.environment["AWS_SECRET_ACCESS_KEY"]).ls(place)

        it.stop_store()
        assert not answers("127.0.0.1", it.objects.port)
        it.start_store()
        assert open_store().cat_file(f"{place}/a/small") == b"two"


@pytest.mark.slow
@needs("postgres", "mlflow")
def test_mlflow_wants_the_password_and_keeps_its_runs(tmp_path: Path) -> None:
    log = """
        import mlflow
        client = mlflow.MlflowClient()
        run = client.create_run(client.create_experiment("mine")).info.run_id
        client.log_metric(run, "p", .5)
        client.log_text(run, "text", "file.txt")
        print(run)
    """
    read = """
        import mlflow
        client = mlflow.MlflowClient()
        run = client.search_runs([client.get_experiment_by_name("mine").experiment_id])[0]
        print(run.info.run_id, run.data.metrics["p"], mlflow.artifacts.load_text(f"{run.info.artifact_uri}/file.txt"))
    """
    with Local(tmp_path, parts=["postgres", "mlflow"]) as it:
        search = f"{it.tracking_uri}/api/2.0/mlflow/experiments/search?max_results=1"
        right = basic(USER, it.environment["MLFLOW_TRACKING_PASSWORD"])
        assert status(search) == 401
        assert status(search, basic(USER, "wrong")) == 401
        assert status(search, right) == 200
        assert status(search, right | {"Host": "elsewhere.example.org"}) == 403
        assert status(f"{it.tracking_uri}/api/2.0/mlflow/users/get?username=admin", right) == 403  # the driver's user is no admin

        run = python(it, log).stdout.strip()
        it.stop_mlflow()
        assert status(search, right) == 0
        it.start_mlflow()
        assert python(it, read).stdout.split() == [run, "0.5", "text"]

        secrets = [value for name, value in it.environment.items() if name.endswith("PASSWORD")]
        secrets += [it.postgres.passfile.read_text().strip().split(":")[-1]]
        assert not [line for line in arguments_of_all() for secret in secrets if secret in line]
        assert {file.stat().st_mode & 0o777 for file in (tmp_path / "secrets").iterdir()} == {0o600}


LOOK = """
    import sys, time
    import ray
    ray.init(logging_level="ERROR", log_to_driver=False)
    end = time.monotonic() + 60
    while (alive := [node for node in ray.nodes() if node["Alive"]]) and len(alive) != {nodes} and time.monotonic() < end:
        time.sleep(0.2)
    print(len(alive), ray.cluster_resources().get("CPU"), ray.get_runtime_context().get_node_id())
"""
"""Waits until the cluster has so many nodes."""


@pytest.mark.slow
@needs("ray", "jobs")
def test_the_cluster_wants_the_token_and_loses_a_node_that_is_killed(tmp_path: Path) -> None:
    with Local(tmp_path, parts=["ray", "jobs"]) as it:
        head = it.cluster.nodes[0].ray_id()
        assert nodes_seen(it, 3) == ["3", "2.0", head]  # drivers belong to the head
        for settings in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64}):
            refused = python(it, LOOK.format(nodes=3), RAY_NUM_REDIS_GET_RETRIES="2", **settings)
            assert refused.returncode and "Authentication token is missing or incorrect" in refused.stderr
        assert status(f"{it.environment['RAY_API_SERVER_ADDRESS']}/api/jobs/") == 401

        members = it.cluster.nodes[1].members()
        assert len(members) > 3
        it.kill_node(1)
        assert not [pid for pid in members if lives(pid)]
        assert nodes_seen(it, 2) == ["2", "1.0", head]
        assert it.start_node() == 3
        assert nodes_seen(it, 3) == ["3", "2.0", head]

        it.drain_node(2, 1)
        it.kill_node(2)
        assert nodes_seen(it, 2) == ["2", "1.0", head]

        program = "import os, paraphrase; print('job', os.environ['PARAPHRASE_SCRATCH'])"
        job = [str(BIN / "ray"), "job", "submit", "--", "python", "-c", program]
        done = subprocess.run(job, env=os.environ | it.environment, capture_output=True, text=True, timeout=PATIENCE)
        assert f"job {it.short}/0/scratch" in done.stdout, done.stdout + done.stderr
    assert nothing_is_left(it.short)
    assert (tmp_path / "logs" / "node-2" / "raylet.out").exists()


@needs("ray")
def test_a_node_in_a_network_of_its_own_can_be_cut_off(tmp_path: Path) -> None:
    try:
        Network().remove()
    except (NotReady, FileNotFoundError) as error:
        pytest.skip(str(error))
    with Local(tmp_path, nodes=1, parts=["ray"], netns=True) as it:
        assert nodes_seen(it, 2)[:2] == ["2", "1.0"]
        network, node, port = it.cluster.network, it.cluster.nodes[1], free_port()
        assert network
        server = Process("server", tmp_path, threading.Event())
        server.start([*network.within(1), sys.executable, "-m", "http.server", "--bind", node.address, str(port)], {})
        try:
            server.wait_until(lambda: answers(node.address, port))
            it.cut_node(1)
            assert not answers(node.address, port)
            it.mend_node(1)
            server.wait_until(lambda: answers(node.address, port))
        finally:
            server.kill()
    links = subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert network.name not in links + spaces


ENDS = """
    import sys
    from up import Local
    with Local(sys.argv[1], parts=["postgres", "store"]) as it:
        print(it.short, flush=True)
        {end}
"""


@needs("postgres", "store")
@pytest.mark.parametrize(("end", "status"), [("raise KeyError", 1), ("sys.stdin.read()", 128 + signal.SIGTERM)])
def test_nothing_is_left_after_an_exception_or_sigterm(tmp_path: Path, end: str, status: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(ENDS).format(end=end), str(tmp_path)]
    program = subprocess.Popen(
        command, cwd=LOCAL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert program.stdout
    short = Path(program.stdout.readline().strip())
    program.terminate()  # the exception may come first, and is as good
    assert program.wait(PATIENCE) in (status, 128 + signal.SIGTERM)
    assert not short.exists() and nothing_is_left(short, tmp_path) and not (tmp_path / "secrets").exists()


def test_a_part_that_does_not_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    part = Process("part", tmp_path, threading.Event())
    part.start(["sh", "-c", "echo begins; echo the disk is full; echo; exit 1"], {})
    with pytest.raises(NotReady, match=rf"part: ended while it started; {tmp_path}/part.log ends with: the disk is full$"):
        part.wait_until(lambda: False)


@needs("postgres", "store")
def test_a_part_that_does_not_start_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Local(tmp_path, parts=["postgres", "store"])
    monkeypatch.setattr("parts.DATABASES", ("optuna", "optuna"))
    with pytest.raises(Exception, match="already exists"), it:
        pass
    assert nothing_is_left(it.short, tmp_path) and not it.short.exists()


def test_all_that_a_process_started_is_killed_with_it(tmp_path: Path) -> None:
    part = Process("part", tmp_path, threading.Event())
    part.start(["sh", "-c", "setsid sleep 1000 & sleep 1000 & echo up; wait"], {})
    part.wait_until(lambda: "up" in part.log.read_text() and len(part.members()) == 3)
    members = part.members()
    part.kill()
    assert not [pid for pid in members if lives(pid)]


@needs("store")
def test_what_is_printed_for_a_shell_holds_no_password(tmp_path: Path) -> None:
    with Local(tmp_path, parts=["store"]) as it:
        text = exports(it)
        assert it.objects.secret not in text
        done = subprocess.run(["sh", "-c", f"{text}\nenv"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
        assert {f"{name}={value}" for name, value in it.environment.items()} <= set(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("parts", "message"), [(["posgres"], "posgres"), (["mlflow"], "mlflow needs postgres"), (["jobs"], "needs ray")]
)
def test_parts_that_cannot_be_are_refused(tmp_path: Path, parts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Local(tmp_path, parts=parts)
