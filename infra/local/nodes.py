"""A Ray cluster whose nodes are sessions of processes on one machine, by default each with a loopback address of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from network import Network
from parts import BIN, status
from processes import NotReady, Process, answers, flags, free_port

OBJECT_STORE = 100_000_000  # bytes of each node
STARTED = "Ray runtime started."
"""What `ray start` writes when a node has registered."""


class Node(Process):
    """A node: number 0 is the head, which runs drivers but no trials; the others have a CPU each.

    Args:
        folder: of Ray's own files and the node's scratch; sockets lie there, whose paths have 107 characters at most.
    """

    def __init__(self, number: int, folder: Path, logs: Path, address: str, over: threading.Event) -> None:
        super().__init__(f"node-{number}", logs, over)
        self.number, self.folder, self.address = number, folder, address

    @property
    def started(self) -> bool:
        """Whether it has registered with the cluster."""
        return STARTED in self.log.read_text(errors="replace")

    def ray_id(self) -> str:
        """Its id in Ray, which its raylet was started with."""
        for pid in self.members():
            for word in Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0"):
                if word.startswith("--node_id="):
                    return word.partition("=")[2]
        raise NotReady(f"{self.name}: has no raylet")


class Cluster:
    """The nodes, which know each other by a token.

    Args:
        folder: of the nodes' folders; its path must be short.
        token: file of the token.
        jobs: whether the head has a dashboard, with the server that takes jobs.
        network: in whose namespaces workers run; None: all on loopback.
    """

    def __init__(self, folder: Path, token: Path, logs: Path, jobs: bool, network: Network | None, over: threading.Event) -> None:
        self.folder, self.token, self.logs, self.jobs, self.network, self.over = folder, token, logs, jobs, network, over
        self.port, self.dashboard = free_port(), free_port()
        self.nodes: list[Node] = []
        self.add()

    @property
    def address(self) -> str:
        """Host and port of the head."""
        return f"{self.nodes[0].address}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What drivers need."""
        access = {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        return access | ({"RAY_API_SERVER_ADDRESS": f"http://{self.nodes[0].address}:{self.dashboard}"} if self.jobs else {})

    def add(self) -> Node:
        """A further node, not started yet."""
        number = len(self.nodes)
        if self.network is None:
            # From 127.0.0.2 on: 127.0.0.1 means this machine to Ray, which puts the machine's outer address in its place.
            address = f"127.0.0.{number + 2}"
        else:
            address = self.network.add(number) if number else self.network.address
        node = Node(number, self.folder / str(number), self.logs, address, self.over)
        self.nodes.append(node)
        return node

    def start(self, node: Node, settings: Mapping[str, str]) -> None:
        """Start a node, with more variables in its environment; returns before it is ready.

        Ray listens at all addresses of the machine, or of the node's namespace: the token is what keeps others out.
        """
        node.folder.mkdir(mode=0o700, exist_ok=True)
        arguments = {
            "node-ip-address": node.address,
            "num-cpus": 1 if node.number else 0,
            "num-gpus": 0,
            "object-store-memory": OBJECT_STORE,
            "temp-dir": node.folder,
            "dashboard-agent-listen-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        if node.number:
            arguments |= {"address": self.address}
        else:
            arguments |= {
                "port": self.port,
                "ray-client-server-port": free_port(),
                "include-dashboard": str(self.jobs).lower(),
                "dashboard-host": node.address,
                "dashboard-port": self.dashboard,
            }
        role = [] if node.number else ["--head"]
        within = self.network.within(node.number) if self.network and node.number else []
        own = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PARAPHRASE_SCRATCH": str(node.folder / "scratch"),  # a node's disk, which goes with it
        }
        node.start([*within, BIN / "ray", "start", *role, "--block", *flags(arguments)], {**settings, **own})

    def accepts_nodes(self) -> bool:
        """Whether others can join the head, and drivers can."""
        return answers(self.nodes[0].address, self.port)

    def takes_jobs(self) -> bool:
        """Whether jobs can be submitted."""
        token = {"Authorization": f"Bearer {self.token.read_text()}"}
        return status(f"{self.environment['RAY_API_SERVER_ADDRESS']}/api/jobs/", token) == 200

    def kill(self, node: Node) -> None:
        """SIGKILL to all of a node at once; its disk is gone too."""
        node.kill()
        shutil.rmtree(node.folder / "scratch", ignore_errors=True)

    def drain(self, node: Node, seconds: int) -> None:
        """Tell a node that its machine will be taken away; who does that, at the deadline, is the caller."""
        notice = {
            "address": self.address,
            "node-id": node.ray_id(),
            "reason": "DRAIN_NODE_REASON_PREEMPTION",
            "reason-message": "preempted",
            "deadline-remaining-seconds": seconds,
        }
        command = [str(BIN / "ray"), "drain-node", *flags(notice)]
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{node.name} was not told: {done.stderr.strip().splitlines()[-1]}")

    def keep_logs(self) -> None:
        """Copy what Ray's own processes wrote beside the other logs."""
        for node in self.nodes:
            for folder in node.folder.glob("session_2*/logs"):
                shutil.copytree(folder, self.logs / node.name, dirs_exist_ok=True, symlinks=True)
