"""A production set-up on one machine, of real parts: Postgres, an S3 server, MLflow with passwords, Ray with a token.

    python infra/local/up.py [--nodes 2] [--netns] [--folder F]

starts all, says what to type, and ends all at Ctrl-C. Tests take it as `Local`, and break its parts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType

from network import Network
from nodes import Cluster, Node
from parts import BIN, USER, ObjectStore, Postgres, Tracking, missing
from processes import NotReady, private_file
from proxy import Proxy

PARTS = ("postgres", "store", "mlflow", "ray", "jobs")
SECRET = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY")
"""Variables whose values are passwords."""


class Local:
    """Parts of a production set-up, from `with` to its end, also if that is an exception or SIGTERM.

    Args:
        folder: where logs and what drivers need are written; passwords and data are removed at the end, logs stay.
        nodes: Ray workers of one CPU each, beside the head, which has none.
        parts: those of `PARTS` that are wanted. `mlflow` needs `postgres`; `jobs` is the job server of `ray`, ten processes.
        netns: whether each worker runs in a network namespace of its own (as root), which can be cut off.
        proxied: whether drivers and workers reach the servers through proxies, which can lose what is sent.

    Attributes:
        environment: what a driver's environment needs beside this process's: addresses, users, passwords or files of them.
        seconds: part -> when it was ready, from the beginning.
        proxies: part -> what stands before it, if `proxied`.
        short: folder of data and of Ray's files.

    Raises:
        NotReady: if a part cannot be started.
    """

    def __init__(
        self, folder: str | Path, nodes: int = 2, parts: Collection[str] = PARTS, netns: bool = False, proxied: bool = False
    ) -> None:
        if unknown := set(parts) - set(PARTS):
            raise ValueError(f"parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        for part, needed in (("mlflow", "postgres"), ("jobs", "ray")):
            if part in parts and needed not in parts:
                raise ValueError(f"parts: {part} needs {needed}")
        if netns and proxied:
            raise ValueError("proxied: proxies listen at loopback, where nodes with a network of their own do not see them")
        self.folder, self.workers, self.netns, self.proxied = Path(folder).resolve(), nodes, netns, proxied
        self.parts = [part for part in PARTS if part in parts]
        self.environment: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.proxies: dict[str, Proxy] = {}
        self._over = threading.Event()
        self._ends, self._signals = contextlib.ExitStack(), contextlib.ExitStack()

    def __enter__(self) -> Local:
        if lack := missing(self.parts):
            raise NotReady(lack)
        try:
            self._signals.enter_context(_sigterm_raises())
            self._prepare()
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        with _undisturbed():
            self._ends.close()
        self._signals.close()

    def _prepare(self) -> None:
        """Make what all parts need before the first one starts; what is made last is removed first."""
        logs, private = self.folder / "logs", self.folder / "secrets"
        logs.mkdir(parents=True, exist_ok=True)
        for path in (private, self.folder / "store", self.folder / "artifacts"):
            if path.exists():
                raise NotReady(f"{path} is there already, of another run or of one that was killed; name another folder")
            path.mkdir(mode=0o700)
            self._ends.callback(shutil.rmtree, path, ignore_errors=True)
        # Ray's sockets need a short path, and Postgres, where it is not run by root, one that others may go through
        self.short = short = Path(tempfile.mkdtemp(prefix="pp-", dir="/tmp"))
        short.chmod(0o711)
        self._ends.callback(shutil.rmtree, short, ignore_errors=True)
        network = None
        if self.netns:
            network = Network()
            self._ends.callback(network.remove)
        address = network.address if network else "127.0.0.1"
        if "postgres" in self.parts:
            self.postgres = Postgres(short / "postgres", private, logs, address, self._over)
            self._ends.callback(self.postgres.stop)
            self.environment |= {"PGPASSFILE": str(self.postgres.passfile)}
            self._port("postgres", self.postgres.port)
        if "store" in self.parts:
            self.objects = ObjectStore(self.folder / "store", logs, address, self._over)
            self._ends.callback(self.objects.stop)
            port = self._port("store", self.objects.port)
            self.environment |= self.objects.environment | {"AWS_ENDPOINT_URL": f"http://{address}:{port}"}
        if "mlflow" in self.parts:
            self.mlflow = Tracking(self.folder / "artifacts", self.postgres, private, logs, self._over)
            self._ends.callback(self.mlflow.stop)
            uri = f"http://{address}:{self._port('mlflow', self.mlflow.port)}"
            self.environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_USERNAME": USER}
            self.environment |= {"MLFLOW_TRACKING_PASSWORD": self.mlflow.password}
        if "ray" in self.parts:
            token = private_file(private / "ray_token", secrets.token_hex(32))
            self.cluster = Cluster(short, token, logs, "jobs" in self.parts, network, self._over)
            self._ends.callback(self._end_nodes)
            self.environment |= self.cluster.environment
        self.environment |= {"PARAPHRASE_SCRATCH": str(short / "scratch")}  # drivers', which goes at the end

    def _port(self, part: str, port: int) -> int:
        """Where clients reach a server."""
        if not self.proxied:
            return port
        self.proxies[part] = proxy = Proxy(("127.0.0.1", port))
        self._ends.callback(proxy.close)
        return proxy.port

    def _end_nodes(self) -> None:
        for node in reversed(self.cluster.nodes):
            node.kill()
        self.cluster.keep_logs()

    def _start(self) -> None:
        """Start all parts side by side, each after those it needs."""
        begin = time.monotonic()

        def timed(part: str, start: Callable[[], None]) -> None:
            start()
            self.seconds[part] = time.monotonic() - begin

        def databases() -> None:
            timed("postgres", self.postgres.start)
            if "mlflow" in self.parts:
                timed("mlflow", self.mlflow.start)

        chains = {
            "postgres": databases,
            "store": lambda: timed("store", self.objects.start),
            "ray": lambda: timed("ray", self._start_ray),
        }
        with ThreadPoolExecutor() as pool:
            try:
                for chain in as_completed([pool.submit(chain) for part, chain in chains.items() if part in self.parts]):
                    chain.result()
            except BaseException:
                self._over.set()  # the others fail at their next look
                raise

    def _start_ray(self) -> None:
        head = self.cluster.nodes[0]
        self.cluster.start(head, self._settings(head.number))
        head.wait_until(self.cluster.accepts_nodes)
        workers = [self._start_worker() for _ in range(self.workers)]
        for node in (head, *workers):
            node.wait_until(lambda node=node: node.started)  # type: ignore[misc]
        if "jobs" in self.parts:
            head.wait_until(self.cluster.takes_jobs)

    def _settings(self, number: int) -> dict[str, str]:
        """Jobs on the head are drivers, so it has their passwords; workers have those of the store alone."""
        kept = {name: value for name, value in self.environment.items() if number == 0 or name.startswith("AWS_")}
        return kept | {"PATH": f"{BIN}:{os.environ['PATH']}"}

    def _start_worker(self, **settings: str) -> Node:
        node = self.cluster.add()
        self.cluster.start(node, self._settings(node.number) | settings)
        return node

    @property
    def storage(self) -> str:
        """Of the study; the password comes from PGPASSFILE."""
        return self.postgres.url("optuna", self.proxies["postgres"].port if self.proxied else None)

    @property
    def tracking_uri(self) -> str:
        """Of MLflow; user and password come from the environment."""
        return self.environment["MLFLOW_TRACKING_URI"]

    @property
    def store(self) -> str:
        """Of caches, checkpoints and explainers; key and address come from the environment."""
        return f"s3://{USER}/store"

    def start_node(self, **settings: str) -> int:
        """Add a worker, with more variables in its environment; its number, which no other had."""
        node = self._start_worker(**settings)
        node.wait_until(lambda: node.started)
        return node.number

    def kill_node(self, number: int) -> None:
        """A machine is gone from one moment to the next: SIGKILL to all processes of a node, 0 being the head."""
        self.cluster.kill(self.cluster.nodes[number])

    def restart_ray(self) -> None:
        """All machines of the cluster were gone at once, the head first; others take their place."""
        self.kill_node(0)
        for node in self.cluster.nodes[1:]:
            self.kill_node(node.number)
        self._start_ray()

    def drain_node(self, number: int, seconds: int) -> None:
        """A machine will be taken away in so many seconds, and Ray is told; the caller kills the node then."""
        self.cluster.drain(self.cluster.nodes[number], seconds)

    def tell_node(self, number: int) -> None:
        """SIGTERM to `ray start --block`, as a machine that is shut down sends it."""
        self.cluster.nodes[number].tell()

    def cut_node(self, number: int) -> None:
        """Nothing comes from a worker or goes to it any more, and nobody is told; needs `netns`."""
        assert self.cluster.network
        self.cluster.network.connect(number, False)

    def mend_node(self, number: int) -> None:
        """Connect a worker that was cut off."""
        assert self.cluster.network
        self.cluster.network.connect(number, True)

    def stop_postgres(self) -> None:
        """End all connections, and accept none."""
        self.postgres.stop()

    def start_postgres(self) -> None:
        """Start it with all that it had committed."""
        self.postgres.start()

    def restart_postgres(self) -> None:
        """End all connections, and accept new ones a moment later."""
        self.postgres.stop()
        self.postgres.start()

    def stop_mlflow(self) -> None:
        """Accept no connections."""
        self.mlflow.stop()

    def start_mlflow(self) -> None:
        """Start it with all that it had."""
        self.mlflow.start()

    def stop_store(self) -> None:
        """Accept no connections."""
        self.objects.stop()

    def start_store(self) -> None:
        """Start it with all that it had."""
        self.objects.start()


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends this process like an exception, where nobody said otherwise."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C or SIGTERM does not leave half of the parts running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def exports(it: Local) -> str:
    """Lines for a shell; passwords are read from files, so that they stand on no screen."""
    lines = []
    for name, value in it.environment.items():
        if name in SECRET:
            file = private_file(it.folder / "secrets" / name, value)
            lines.append(f'export {name}="$(cat {shlex.quote(str(file))})"')
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="A production set-up on one machine.")
    parser.add_argument("--nodes", type=int, default=2, help="Ray workers of one CPU each (2)")
    parser.add_argument("--netns", action="store_true", help="each worker in a network namespace of its own; as root")
    parser.add_argument("--folder", help="for logs and passwords; a temporary one if not given")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="paraphrase-"))
        try:
            it = stack.enter_context(Local(folder, arguments.nodes, netns=arguments.netns))
        except NotReady as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        print("started: " + ", ".join(f"{part} after {seconds:.1f} s" for part, seconds in it.seconds.items()))
        print(f"logs are in {it.folder}/logs; in another shell:\n\n{exports(it)}\n")
        print(f"paraphrase sweep run menagerie storage={it.storage} tracking_uri={it.tracking_uri} store={it.store}\n")
        print("Ctrl-C ends all of it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
