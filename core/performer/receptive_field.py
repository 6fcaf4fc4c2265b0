"""Exact receptive fields: strides, kernels and paddings followed through the network's graph up to a layer.

Coordinates are continuous: pixel k covers [k, k + 1), as boxes and landmarks have it.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import torch
from torch import fx, nn

from core.errors import InputError


class ReceptiveField(NamedTuple):
    """Of the cells of a map, the same along both axes: cell i sees pixels around `start + i * stride`."""

    start: float
    """Centre of cell 0, in pixels."""
    stride: float
    """Distance of neighbouring centres, in pixels."""
    size: float
    """Side of the field, in pixels."""


def receptive_field(network: nn.Module, layer: str) -> ReceptiveField:
    """The receptive field of a layer's cells.

    Raises:
        InputError: if the network mixes fields with different centres, or has a layer whose field is not known.
    """
    try:
        graph = fx.symbolic_trace(network).graph
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise InputError(f"performer.arch: the network cannot be traced ({error})") from None
    fields: dict[fx.Node, ReceptiveField | None] = {}
    found: ReceptiveField | None = None
    for node in graph.nodes:
        if node.op == "placeholder":
            fields[node] = ReceptiveField(0.5, 1.0, 1.0)
            continue
        inputs = [fields[n] for n in node.all_input_nodes if fields.get(n) is not None]
        merged = _merge([f for f in inputs if f is not None], str(node))
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        fields[node] = None if merged is None else _through(merged, module, node)
        if (node.op == "call_module" and (node.target == layer or str(node.target).startswith(layer + "."))) or (
            found is not None and _belongs_to(node, layer)
        ):
            found = fields[node] or found
    if found is None:
        raise InputError(f"performer.feature: {layer} is not on the network's path")
    return found


def _belongs_to(node: fx.Node, layer: str) -> bool:
    """Whether a plain operation (a residual sum, say) runs inside the layer."""
    stack = node.meta.get("nn_module_stack", {})
    return any(path == layer or path.startswith(layer + ".") for path in stack)


def _merge(fields: list[ReceptiveField], where: str) -> ReceptiveField | None:
    """The field of a sum: the branches must agree in their centres."""
    if not fields:
        return None
    first = fields[0]
    for other in fields[1:]:
        if abs(other.start - first.start) > 1e-6 or other.stride != first.stride:
            raise InputError(f"performer.arch: branches with different receptive-field centres meet at {where}")
    return max(fields, key=lambda f: f.size)


def _through(field: ReceptiveField, module: nn.Module | None, node: fx.Node) -> ReceptiveField | None:
    """The field after a node; None once the map has no places any more (a global pooling)."""
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d | nn.Flatten):
        return None
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        kernel, stride, padding, dilation = (
            _square(getattr(module, name, 1), node) for name in ("kernel_size", "stride", "padding", "dilation")
        )
        reach = dilation * (kernel - 1)
        start = field.start + (reach / 2 - padding) * field.stride
        return ReceptiveField(start, field.stride * stride, field.size + reach * field.stride)
    if node.op == "call_function" and node.target in (torch.flatten, torch.mean):
        return None
    if node.op == "call_method" and node.target in ("mean", "flatten"):
        return None
    elementwise = node.op in ("call_module", "output", "get_attr") or node.target in (operator.add, operator.mul, torch.relu)
    return field if elementwise or node.op in ("call_function", "call_method") else None


def _square(value: int | tuple[int, ...] | str, node: fx.Node) -> int:
    if isinstance(value, tuple) and len(set(value)) == 1:
        return int(value[0])
    if isinstance(value, int):
        return value
    raise InputError(f"performer.arch: {node.target} is not the same along both axes ({value})")
