"""A network of this machine alone: a bridge, and a namespace for each node, which can be cut off as if its cable were pulled."""

from __future__ import annotations

import secrets
import subprocess

from processes import NotReady


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise NotReady(f"network namespaces need root and iproute2: ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Addresses 10.x.y.0/24: .1 is the bridge, where servers, the head and drivers are; each node has one in its namespace."""

    def __init__(self) -> None:
        self.name = f"pp{secrets.token_hex(3)}"  # names of interfaces have 15 characters at most
        self.added: list[int] = []
        taken = _ip("-4", "-oneline", "address")
        while (prefix := f"10.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}") in taken:
            pass
        self.prefix, self.address = prefix, f"{prefix}.1"
        _ip("link", "add", self.name, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")

    def add(self, number: int) -> str:
        """A namespace for a node, from 1 on; its address."""
        space, address = f"{self.name}-{number}", f"{self.prefix}.{number + 1}"
        _ip("netns", "add", space)
        self.added.append(number)
        _ip("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", space, "master", self.name, "up")
        _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        return address

    def within(self, number: int) -> list[str]:
        """What runs a command in a node's namespace."""
        return ["ip", "netns", "exec", f"{self.name}-{number}"]

    def connect(self, number: int, connected: bool) -> None:
        """Cut a node off, without a word to those that are connected to it, or bring it back."""
        _ip("link", "set", f"{self.name}-{number}", "up" if connected else "down")

    def remove(self) -> None:
        """Remove all of it."""
        for number in self.added:
            _ip("netns", "delete", f"{self.name}-{number}")
        _ip("link", "delete", self.name)
