"""Nodes that fail one trial after another are left out: a broken GPU or disk would else eat the whole budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import PlacementGroupFactory

STRIKES = 3
"""Different trials that must fail on a node in a row, with none that went well between them."""
NODE = "ray.io/node-id"
"""Ray's own label of each node."""


class Strikes:
    """Counts the failures of each node, and keeps further trials from those that fail.

    Args:
        bundle: what a trial takes: `CPU`, `GPU`.
        nodes: how many there are now; the last one is never left out.
    """

    def __init__(self, bundle: dict[str, float], nodes: Callable[[], int]) -> None:
        self.bundle, self.nodes = bundle, nodes
        self.out: list[str] = []
        self._of: dict[str, str] = {}
        self._failed: dict[str, list[int]] = {}

    def began(self, trial_id: str, node: str) -> None:
        """A trial runs on a node now."""
        self._of[trial_id] = node

    def failed(self, trial_id: str, number: int) -> str | None:
        """A trial failed by itself; the node that is left out because of it."""
        node = self._of.pop(trial_id, None)
        if node is None or node in self.out:
            return None
        numbers = self._failed.setdefault(node, [])
        if number not in numbers:
            numbers.append(number)
        if len(numbers) < STRIKES or self.nodes() - len(self.out) < 2:
            return None
        self.out.append(node)
        return node

    def went_well(self, trial_id: str) -> None:
        """A trial ended as it should."""
        self._failed.pop(self._of.pop(trial_id, ""), None)

    def apply(self, trial: Any) -> None:
        """Keep a trial of Ray Tune that is not running from the nodes that are left out."""
        if self.out and trial.status != trial.RUNNING:
            elsewhere = {NODE: f"!in({','.join(self.out)})"}
            trial.update_resources(PlacementGroupFactory([self.bundle], bundle_label_selector=[elsewhere]))
