"""The scripts of `infra/slurm` as they are, on a real Slurm: whatever ends a job, the sweep ends as a quiet one.

Slurm's own programs run on this machine alone: a node is a `slurmd` in a PID namespace, whose processes all end with it, and
in which the `ray stop` of `symmetric.sbatch` finds nobody else's Ray.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import SMALL, check_runs, command, exported, small_sweep, until
from house import ROOT
from parts import missing
from processes import Process, free_port, private_file
from up import Local

from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.store.objects import Store

SERVERS = ("postgres", "store", "mlflow")
SCRIPTS = ROOT / "infra" / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")


def lacking() -> str:
    """What this machine lacks; empty if nothing."""
    if lack := missing(SERVERS):
        return lack
    if absent := [program for program in PROGRAMS if not shutil.which(program)]:
        return f"slurm: no {', '.join(absent)} (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurm: jobs and namespaces need root"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.skipif(bool(lacking()), reason=lacking()),
]
EPOCHS, TRIALS = 150, 3
WARNED = 150
"""Seconds before a time limit after which the signal of `--signal=B:USR1@120` may come: Slurm looks twice a minute."""
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}

CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a job that goes back into the queue waits there: 120 s if it is not said
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
KillWait=30
MinJobAge=7200
ReturnToService=2
FirstJobId={first_job}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports}] CPUs=8 RealMemory=64000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A controller and two nodes, from `with` to its end.

    Args:
        logs: folder of what they write.

    Attributes:
        home: of the jobs' user.
    """

    def __init__(self, logs: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pp-slurm-", dir="/tmp"))  # sockets need a short path
        self.folder.chmod(0o711)  # munged demands that all can go through to its socket
        self.home, self.jobs = self.folder / "home", []  # type: tuple[Path, list[int]]
        over = threading.Event()
        logs.mkdir()
        self.processes = {name: Process(name, logs, over) for name in ("munged", "slurmctld", "node1", "node2")}

    def __enter__(self) -> Slurm:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        for name in ("state", "home"):
            (self.folder / name).mkdir(mode=0o700)
        ports = first_of_two_ports()
        conf = private_file(
            self.folder / "slurm.conf",
            CONF.format(
                host=socket.gethostname(),
                port=free_port(),
                ports=f"{ports}-{ports + 1}",
                folder=self.folder,
                first_job=job_with_free_ports(),
            ),
        )
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "SLURM_CONF": str(conf),
            "VENV": sys.prefix,
            "PARAPHRASE_SCRATCH": str(self.folder / "scratch"),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
        }
        munged, controller, *nodes = self.processes.values()
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge.key").chmod(0o400)
        munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        files = [f"--{flag}={self.folder}/munge.{end}" for flag, end in munge.items()]
        munged.start(["munged", "--foreground", "--num-threads=10", *files], {})
        munged.wait_until((self.folder / "munge.socket").exists)
        controller.start(["slurmctld", "-D", "-c", "-f", conf], {})
        for node in nodes:
            # a shell as the first process of the namespace, which buries those whose parents are gone
            slurmd = 'slurmd -D -N "$0" -f "$1" & wait'
            apart = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
            node.start([*apart, "sh", "-c", slurmd, node.name, conf], {})
        controller.wait_until(lambda: self._ask("sinfo", "--noheader", "--format=%T %D") == "idle 2")

    def _end(self) -> None:
        for process in reversed(self.processes.values()):
            process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        for job in self.jobs:  # what is left of those that were killed
            shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)

    def _ask(self, *arguments: str) -> str:
        """What a command of Slurm says; empty if it fails."""
        done = subprocess.run(arguments, env=self.environment, capture_output=True, text=True)
        return "" if done.returncode else done.stdout.strip()

    def submit(self, script: str, *options: str, **settings: object) -> int:
        """`sbatch` of a script, with these variables beside those of all; the number of the job."""
        environment = self.environment | {name: str(value) for name, value in settings.items()}
        line = ["sbatch", "--parsable", f"--chdir={self.home}", *options, str(SCRIPTS / script)]
        done = subprocess.run(line, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.jobs.append(int(done.stdout))
        return self.jobs[-1]

    def job(self, number: int) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = until(lambda: self._ask("scontrol", "--oneliner", "show", "job", str(number))).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self, number: int) -> str:
        """What a job has written, of all its starts."""
        return "".join(file.read_text() for file in self.home.glob(f"*-{number}.log"))

    def until(self, number: int, condition: Callable[[], Any]) -> Any:
        """Wait until something holds, which it must before the job ends."""

        def look() -> Any:
            over = self.job(number)["JobState"] in ENDED
            found = condition()
            assert found or not over, self.log(number)
            return found

        return until(look)

    def ended(self, number: int) -> str:
        """Wait until a job ends; as what."""
        return until(lambda: (state := self.job(number)["JobState"]) in ENDED and state)

    def run_out_of_time(self, number: int) -> None:
        """Move a running job's time limit such that it is told now, and give it time again when it is back in the queue.

        By EndTime, since TimeLimit knows minutes alone.
        """
        end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + WARNED))
        self._update(number, f"EndTime={end}")
        self.until(number, lambda: self.job(number)["Restarts"] != "0")
        self._update(number, "TimeLimit=60")

    def _update(self, number: int, change: str) -> None:
        subprocess.run(["scontrol", "update", f"jobid={number}", change], env=self.environment, check=True)

    def cancel(self, number: int, *options: str) -> None:
        """`scancel`; returns before the job has ended."""
        subprocess.run(["scancel", *options, str(number)], env=self.environment, check=True)


def first_of_two_ports() -> int:
    """Slurm takes the ports of its nodes as a range."""
    while True:
        port = free_port()
        if is_free(port + 1):
            return port


def is_free(port: int) -> bool:
    """Whether nothing listens there."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def job_with_free_ports() -> int:
    """A number for the first job, from which and those after it the scripts make ports on which nothing listens now."""
    while True:
        first = 600 * (1 + secrets.randbelow(1000)) + secrets.randbelow(570)
        if all(is_free(20000 + first % 600 * 20 + offset) for offset in range(30 * 20)):
            return first


class Sweep:
    """A sweep of the tests, for the scripts.

    Args:
        changes: of what `small_sweep` makes.
    """

    def __init__(self, slurm: Slurm, it: Local, name: str, **changes: Any) -> None:
        self.slurm, self.it, self.name = slurm, it, name
        places = {"storage": it.storage, "tracking_uri": it.tracking_uri, "store": it.store}
        self.file = sweep_file(slurm.home, name, {"gpus_per_trial": 0, "cpus_per_trial": 1, "wait_for": 10}, **places, **changes)
        self.folder = slurm.home / ".paraphrase" / "slurm" / name

    def head(self, *options: str) -> int:
        """The number of a job that drives it."""
        return self.slurm.submit("elastic-head.sbatch", *options, SWEEP=self.file, RUN_DIR=self.folder)

    def worker(self, *options: str, **settings: object) -> int:
        """The number of a job that gives it a CPU."""
        few = ("--gpus-per-node=0", "--cpus-per-task=1", *options)
        return self.slurm.submit("elastic-worker.sbatch", *few, RUN_DIR=self.folder, **settings)

    def saved(self) -> list[str]:
        """Checkpoints in the store."""
        return [key for key in Store(self.it.store).keys(f"sweeps/{self.name}/trials") if "/checkpoint/" in key]

    def rows(self) -> list[dict[str, str]]:
        """Of `sweep export`, where its driver's home is."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PARAPHRASE_HOME", str(self.folder / "home"))
            return exported(self.name)

    def check(self, quiet: list[dict[str, str]]) -> None:
        """It must be what a quiet one is."""
        assert self.rows() == quiet
        check_runs(open_client(self.it.tracking_uri), self.name, TRIALS, EPOCHS)


def sweep_file(folder: Path, name: str, resources: dict[str, Any], **changes: Any) -> Path:
    """The file of a sweep, of which no trial may fail even once."""
    changes = {"sampler": "random", "trials": TRIALS, "max_retries": 0} | changes
    return small_sweep(folder, name, EPOCHS, {"concurrency": 1} | resources, **changes)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Postgres, an S3 server and MLflow."""
    with Local(tmp_path_factory.mktemp("servers"), parts=SERVERS) as it, pytest.MonkeyPatch.context() as patch:
        for name, value in it.environment.items():
            patch.setenv(name, value)
        yield it


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What comes of the sweep where nothing happens, in a home that is as empty as those of the jobs."""
    folder = tmp_path_factory.mktemp("quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PARAPHRASE_HOME", str(folder / "home"))
        run = command("sweep", "run", str(sweep_file(folder, "quiet", {})))
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return exported("quiet")


@pytest.fixture
def slurm(servers: Local, tmp_path: Path) -> Iterator[Slurm]:
    """Slurm, in whose home the files of secrets are where the scripts look for them."""
    with Slurm(tmp_path / "logs") as it:
        driver = {"PGPASSWORD": servers.postgres.password} | of(servers, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        for name, values in (("driver", driver), ("store", of(servers, *(key for key in servers.environment if "AWS_" in key)))):
            lines = [f"{key}={value}\n" for key, value in values.items()]
            private_file(it.home / ".paraphrase" / f"{name}.env", "".join(lines))
        yield it


def of(it: Local, *names: str) -> dict[str, str]:
    return {name: it.environment[name] for name in names}


def test_a_workers_time_limit_moves_its_trials_and_uses_up_no_retry(
    slurm: Slurm, servers: Local, quiet: list[dict[str, str]]
) -> None:
    sweep = Sweep(slurm, servers, "worker-limit")
    head, worker = sweep.head(), sweep.worker(DRAIN=5)
    slurm.until(head, sweep.saved)
    slurm.run_out_of_time(worker)
    assert slurm.job(head)["JobState"] == "RUNNING"  # and has no other worker
    assert slurm.ended(head) == "COMPLETED", slurm.log(head)
    assert "the time is nearly over" in slurm.log(worker)
    assert slurm.job(worker)["Restarts"] == "1" and slurm.job(head)["Restarts"] == "0"
    sweep.check(quiet)
    assert slurm.ended(worker) == "COMPLETED", slurm.log(worker)


def test_the_heads_time_limit_saves_and_it_goes_on_from_the_queue(
    slurm: Slurm, servers: Local, quiet: list[dict[str, str]]
) -> None:
    sweep = Sweep(slurm, servers, "head-limit")
    head, worker = sweep.head(), sweep.worker()
    slurm.until(head, sweep.saved)
    slurm.run_out_of_time(head)
    assert slurm.ended(head) == "COMPLETED", slurm.log(head)
    words = ["the time is nearly over", "the sweep ended with 130", "the sweep ended with 0"]
    assert [line.split(maxsplit=1)[1] for line in slurm.log(head).splitlines() if line.endswith(tuple(words))] == words
    assert slurm.job(head)["Restarts"] == "1" and slurm.job(worker)["Restarts"] == "0"
    sweep.check(quiet)


def test_a_head_that_is_cancelled_goes_on_where_it_is_submitted_again(
    slurm: Slurm, servers: Local, quiet: list[dict[str, str]]
) -> None:
    sweep = Sweep(slurm, servers, "cancelled")
    first, _ = sweep.head(), sweep.worker()
    slurm.until(first, sweep.saved)
    slurm.cancel(first)
    assert slurm.ended(first) == "CANCELLED" and "told to end" in slurm.log(first)
    head = sweep.head()
    assert slurm.ended(head) == "COMPLETED", slurm.log(head)
    sweep.check(quiet)


def test_symmetric_saves_at_its_time_limit_and_goes_on_from_the_queue(
    slurm: Slurm, servers: Local, quiet: list[dict[str, str]]
) -> None:
    sweep = Sweep(slurm, servers, "symmetric")
    one = ("--nodes=1", "--gpus-per-node=0", "--cpus-per-task=2")
    job = slurm.submit("symmetric.sbatch", *one, SWEEP=sweep.file, RUN_DIR=sweep.folder)
    slurm.until(job, sweep.saved)
    slurm.run_out_of_time(job)
    assert slurm.ended(job) == "COMPLETED", slurm.log(job)
    assert "the sweep ended with 130" in slurm.log(job) and slurm.job(job)["Restarts"] == "1"
    sweep.check(quiet)


def test_jobs_beside_each_other_on_one_node_leave_each_other_alone(slurm: Slurm, servers: Local) -> None:
    small: dict[str, Any] = {"base": SMALL | {"train": {"epochs": 3}, "explainer": {"interp_widths": [8]}}, "trials": 1}
    sweeps = [Sweep(slurm, servers, name, **small) for name in ("left", "right")]
    heads = [sweep.head("--nodelist=node1") for sweep in sweeps]
    workers = [sweep.worker("--nodelist=node1") for sweep in sweeps]
    places = [sweep.folder / "address" for sweep in sweeps]
    addresses = until(lambda: all(place.exists() for place in places) and {place.read_text() for place in places})
    assert len(addresses) == 2 and {slurm.job(job)["JobState"] for job in heads + workers} == {"RUNNING"}
    assert [slurm.ended(job) for job in heads] == ["COMPLETED"] * 2, [slurm.log(job) for job in heads]
    assert not [job for job in heads if Path(f"/tmp/ray-{job}").exists()]
    left, right = (sweep.rows() for sweep in sweeps)
    assert left == right and [(row["state"], row["epochs"]) for row in left] == [("complete", "3")]
