"""Sweeps that are given to a cluster's job server, and a cluster made by `ray up`, with the files and commands of the pages.

The numbers are those of `docs/clusters/faults.md`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PATIENCE, check_runs, exported, until
from house import ROOT
from network import Network
from parts import BIN, missing
from processes import Process, answers, private_file
from stormy import EPOCHS, TRIALS, stormy_sweep
from up import PARTS, Local

from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.store.objects import Store

PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "ip": "iproute2", "unshare": "util-linux"}
BIG = 600 << 20
"""Bytes of a folder that a job may not take with it."""


def lacking() -> str:
    """What this machine lacks for machines that are reached by ssh; empty if nothing."""
    if absent := [package for program, package in PROGRAMS.items() if not shutil.which(program)]:
        return f"ssh: apt-get install {' '.join(absent)}"
    return "" if os.geteuid() == 0 else "ssh: namespaces need root"


pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.long]
needs_parts = pytest.mark.skipif(bool(missing(PARTS)), reason=missing(PARTS) or "")
needs_ssh = pytest.mark.skipif(bool(missing(("ray", "jobs")) or lacking()), reason=missing(("ray", "jobs")) or lacking())


def ray(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of Ray's own."""
    return subprocess.run([str(BIN / "ray"), *arguments], capture_output=True, text=True, timeout=PATIENCE)


class Jobs:
    """What a user of a job server types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(self, number: str, command: str) -> None:
        """Give it a command, which a shell reads, with a folder that travels with it."""
        rest = ("--working-dir", str(self.folder), "--", "bash", "-c", command)
        done = ray("job", "submit", "--no-wait", "--submission-id", number, *rest)
        assert done.returncode == 0, done.stdout + done.stderr

    def state(self, number: str) -> str:
        """How a job has ended; empty if it has not."""
        found = re.search(rf"Job '{number}' (?:was )?(succeeded|stopped|failed)", ray("job", "status", number).stdout)
        return found.group(1) if found else ""

    def log(self, number: str) -> str:
        """What a job has written."""
        return ray("job", "logs", number).stdout

    def ended(self, number: str) -> str:
        """Wait until a job ends; as what."""
        return until(lambda: self.state(number))


@pytest.fixture(scope="module")
def cluster(warm_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """All parts, with a node; jobs find the warm home's cache."""
    folder = tmp_path_factory.mktemp("cluster")
    shutil.copytree(warm_home, folder / "home")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PARAPHRASE_HOME", str(folder / "home"))
        it = stack.enter_context(Local(folder / "local", nodes=1, parts=PARTS))
        for name, value in it.environment.items():
            patch.setenv(name, value)
        yield it


@needs_parts
def test_9_a_job_that_is_stopped_goes_on_where_it_is_submitted_again(
    in_quiet: list[dict[str, str]], cluster: Local, tmp_path: Path
) -> None:
    """With the 3 s that Ray's job server gives a job to end."""
    file = stormy_sweep(tmp_path)
    places = f"storage={cluster.storage} tracking_uri={cluster.tracking_uri} store={cluster.store}"
    run = f"exec paraphrase sweep run {file.name} --resume {places} resources.address=auto resources.concurrency=1"
    jobs, store = Jobs(tmp_path), Store(cluster.store)
    jobs.submit("birds-1", run)
    until(lambda: jobs.state("birds-1") or [key for key in store.keys("sweeps/stormy/trials") if "/checkpoint/" in key])
    assert ray("job", "stop", "birds-1").returncode == 0
    assert jobs.ended("birds-1") == "stopped", jobs.log("birds-1")
    jobs.submit("birds-2", run)
    assert jobs.ended("birds-2") == "succeeded", jobs.log("birds-2")
    assert exported("stormy") == in_quiet
    check_runs(open_client(cluster.tracking_uri), "stormy", TRIALS, EPOCHS)


@needs_parts
def test_38_a_working_folder_that_is_too_large_is_named_with_its_size(cluster: Local, tmp_path: Path) -> None:
    with (tmp_path / "images").open("wb") as file:
        file.truncate(BIG)  # takes no room
    done = ray("job", "submit", "--working-dir", str(tmp_path), "--", "true")
    assert done.returncode != 0 and "600.00MiB" in done.stderr and "512.00MiB" in done.stderr, done.stderr


MACHINE = """
set -e
mount --bind "$1/home" /mnt
mount --bind "$1/passwd" /etc/passwd
mount -t tmpfs run /run
mkdir /run/sshd
ip route add default via "$2" 2> /dev/null || true
mount --bind "$1/tmp" /tmp
shift 2
cd /mnt
HOME=/mnt exec "$@"
"""
"""Makes a namespace a machine of its own: home, where /mnt is; /tmp; and a way out, by which Ray finds its own address."""


class Machines:
    """A laptop, a head and a worker on a network of this machine alone; the last two are reached by ssh.

    Each has a home and processes of its own, packages for the Python of this environment, and the system's files in common.
    """

    LAPTOP, HEAD, WORKER = 1, 2, 3

    def __init__(self, logs: Path) -> None:
        self.folder, self.network = Path(tempfile.mkdtemp(prefix="pp-ssh-", dir="/tmp")), Network()
        self.address = {number: self.network.add(number) for number in (self.LAPTOP, self.HEAD, self.WORKER)}
        over = threading.Event()
        self.servers = {number: Process(f"sshd-{number}", logs, over) for number in (self.HEAD, self.WORKER)}

    def __enter__(self) -> Machines:
        try:
            for number in self.address:
                self._furnish(number)
            self._key(self.home(self.LAPTOP) / ".ssh" / "paraphrase")
            for number, server in self.servers.items():
                self._install(number)
                self._serve(number, server)
            self._check_out()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for server in self.servers.values():
            server.kill()
        self.network.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def home(self, number: int) -> Path:
        """A machine's home, from outside."""
        return self.folder / str(number) / "home"

    def within(self, number: int, *command: str) -> list[str]:
        """What runs a command on a machine."""
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        machine = ["sh", "-c", MACHINE, "machine", str(self.folder / str(number)), self.network.address]
        return [*self.network.within(number), *apart, *machine, *command]

    def _furnish(self, number: int) -> None:
        self.home(number).mkdir(parents=True)
        (self.folder / str(number) / "tmp").mkdir()
        me = pwd.getpwuid(0).pw_name
        others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith(f"{me}:")]
        lines = [f"{me}:x:0:0:{me}:/mnt:/bin/bash", *others]
        (self.folder / str(number) / "passwd").write_text("".join(f"{line}\n" for line in lines))

    def _key(self, place: Path) -> None:
        place.parent.mkdir(exist_ok=True, mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place)], check=True)

    def _install(self, number: int) -> None:
        """Packages, so that no gigabytes are fetched: pip finds all that it is told to install but the wheel."""
        place = self.home(number) / "paraphrase" / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
        (packages,) = place.glob("lib/python3*/site-packages")
        (here,) = Path(sys.prefix).glob("lib/python3*/site-packages")
        (packages / "here.pth").write_text(f"{here}\n")
        for name in ("ray", "pip"):
            program = place / "bin" / name
            program.write_text("#!/mnt/paraphrase/venv/bin/python\n" + (BIN / name).read_text().partition("\n")[2])
            program.chmod(0o755)
        private_file(self.home(number) / ".config" / "pip" / "pip.conf", "[global]\nno-index = true\n")

    def _serve(self, number: int, server: Process) -> None:
        self._key(self.home(number) / ".ssh" / "host")
        shutil.copy(self.home(self.LAPTOP) / ".ssh" / "paraphrase.pub", self.home(number) / ".ssh" / "authorized_keys")
        settings = ("UsePAM=no", "PidFile=none", "PermitRootLogin=prohibit-password", f"ListenAddress={self.address[number]}")
        options = [word for setting in settings for word in ("-o", setting)]
        sshd = [str(shutil.which("sshd")), "-D", "-e", "-f", "/dev/null", "-h", "/mnt/.ssh/host", *options]
        server.start(self.within(number, *sshd), {})
        server.wait_until(lambda: answers(self.address[number], 22))

    def _check_out(self) -> None:
        """What docs/clusters/ssh.md says before `ray up`."""
        laptop = self.home(self.LAPTOP)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, files.split("\0")):
            (laptop / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, laptop / "repo" / name, follow_symlinks=False)
        wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
        subprocess.run(wheel, cwd=laptop / "repo", check=True)
        private_file(laptop / ".ray" / "auth_token", secrets.token_hex(32))
        private_file(laptop / ".paraphrase" / "store.env", "")
        file = laptop / "repo" / "infra" / "ray" / "local.yaml"
        text = file.read_text().replace("head.example.org", self.address[self.HEAD])
        text = text.replace("gpu1.example.org, gpu2.example.org", self.address[self.WORKER])
        (laptop / "repo" / "our clusters").mkdir()
        (laptop / "repo" / "our clusters" / "local.yaml").write_text(text.replace("ssh_user: ubuntu", "ssh_user: root"))

    def without_rsync(self) -> str:
        """A path for programs, on the laptop, with what Ray needs otherwise."""
        place = self.home(self.LAPTOP) / "few"
        place.mkdir()
        for name in ("sh", "bash", "ssh", "env", "uname"):
            (place / name).symlink_to(os.path.realpath(str(shutil.which(name))))
        return "/mnt/few"

    def ray(self, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
        """A command of Ray's own on the laptop, at the top of the repository."""
        command = 'cd repo; export PATH="$0" RAY_AUTH_MODE=token; exec "$@"'
        line = self.within(self.LAPTOP, "sh", "-c", command, path or f"{BIN}:{os.environ['PATH']}", f"{BIN}/ray", *arguments)
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with Machines(tmp_path) as it:
        yield it


@needs_ssh
def test_38_ray_up_makes_a_cluster_of_machines_and_ray_submit_runs_a_script_on_it(machines: Machines) -> None:
    """With a space in the file's place; and that a laptop without rsync is told so."""
    file = "our clusters/local.yaml"
    refused = machines.ray("up", "--yes", file, path=machines.without_rsync())
    assert refused.returncode == 1 and "No such file or directory: 'rsync'" in refused.stdout + refused.stderr
    up = machines.ray("up", "--yes", file)
    assert up.returncode == 0, up.stdout + up.stderr
    until(lambda: "2 local.cluster.node" in machines.ray("exec", file, "ray status").stdout)
    script = machines.home(machines.LAPTOP) / "repo" / "where.py"
    script.write_text(WHERE)
    done = machines.ray("submit", file, "where.py", "--seeds", "8", "resources.address=auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"['--seeds', '8', 'resources.address=auto'] {machines.address[machines.WORKER]}" in done.stdout
    down = machines.ray("down", "--yes", file)
    assert down.returncode == 0, down.stdout + down.stderr


WHERE = """
import sys
import ray
ray.init()
print(sys.argv[1:], ray.get(ray.remote(ray.util.get_node_ip_address).remote()))
"""
"""A script that says its arguments, and where a task of it ran."""
