"""A network as a graph of operations (torch.fx), for what its module tree alone does not tell."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from paraphrase.core.errors import InputError

RELUS = (nn.ReLU, nn.ReLU6, torch.relu, F.relu, F.relu6, "relu", "relu_")
"""Modules, functions and methods whose result cannot be negative."""


def trace(network: nn.Module) -> fx.Graph:
    """The operations of a network in the order in which they run.

    Raises:
        InputError: if the network's forward depends on its input's values.
    """
    try:
        return fx.symbolic_trace(network).graph
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise InputError(f"performer.arch: the network cannot be traced ({error})") from None


def output_of(graph: fx.Graph, layer: str) -> fx.Node:
    """The last operation inside a layer, that is its output.

    Raises:
        InputError: if the layer does not run.
    """
    inside = [node for node in graph.nodes if _belongs_to(node, layer)]
    if not inside:
        raise InputError(f"performer.feature: {layer} is not on the network's path")
    return inside[-1]


def ends_in_relu(network: nn.Module, layer: str) -> bool:
    """Whether a layer's output cannot be negative, as that of a residual block that ends in a ReLU."""
    node = output_of(trace(network), layer)
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.ReLU | nn.ReLU6)
    return node.target in RELUS


def is_slice_of_channels(node: fx.Node) -> bool:
    """Whether an indexing takes whole maps, `x[:, 0]`, and so moves nothing."""
    index = node.args[1] if node.target is operator.getitem else None
    return isinstance(index, tuple) and len(index) <= 2


def _belongs_to(node: fx.Node, layer: str) -> bool:
    """Whether a node runs inside the layer: a module, or a plain operation such as a residual sum."""
    return any(path == layer for path, _ in node.meta.get("nn_module_stack", {}).values())
