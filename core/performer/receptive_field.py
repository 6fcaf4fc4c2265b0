"""Exact receptive fields: strides, kernels and paddings followed through the network's graph up to a layer.

Coordinates are continuous: pixel k covers [k, k + 1), as boxes and landmarks have it. Ceil mode adds cells at the end of a
map and moves none; norms, activations and the channels are without places. A branch that has lost its places (the global
pooling of a squeeze-and-excitation) only scales, so it is left out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import stochastic_depth

from paraphrase.core.errors import InputError
from paraphrase.core.performer.graph import is_slice_of_channels, output_of, trace


class ReceptiveField(NamedTuple):
    """Of the cells of a map, the same along both axes: cell i sees pixels around `start + i * stride`."""

    start: float
    """Centre of cell 0, in pixels."""
    stride: float
    """Distance of neighbouring centres, in pixels."""
    size: float
    """Side of the field, in pixels."""


POINTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Tanh),
    *(nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm),
    *(nn.InstanceNorm2d, nn.LocalResponseNorm, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Linear),
)
"""Modules that move nothing; a linear layer inside a network acts on channels."""
POINTWISE_FUNCTIONS: set[Callable] = {
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.relu, torch.sigmoid, torch.tanh, torch.cat, torch.permute),
    *(torch.unsqueeze, F.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.leaky_relu, F.dropout),
    *(F.batch_norm, F.layer_norm, F.local_response_norm, F.linear, stochastic_depth),
}
POINTWISE_METHODS = {
    *("add", "add_", "sub", "mul", "mul_", "div", "relu", "relu_", "sigmoid", "tanh", "clone", "contiguous", "float", "to"),
    *("permute", "unsqueeze"),
}
GLOBAL_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)
GLOBAL_FUNCTIONS: set[Callable] = {torch.flatten, torch.mean, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, getattr}
GLOBAL_METHODS = {"mean", "flatten", "size", "dim"}
POOL_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "dilation")


def receptive_field(network: nn.Module, layer: str) -> ReceptiveField:
    """The receptive field of a layer's cells.

    Raises:
        InputError: if the network mixes fields with different centres, or has an operation whose field is not known.
    """
    graph = trace(network)
    last = output_of(graph, layer)
    fields = [_follow(graph, network, last, axis) for axis in (0, 1)]
    if fields[0] is None or fields[1] is None:
        raise InputError(f"performer.feature: {layer} comes after a global pooling; its cells have no places")
    if fields[0][:2] != fields[1][:2]:
        raise InputError(f"performer.feature: the cells of {layer} lie differently along rows and columns")
    return fields[0]._replace(size=max(f.size for f in fields if f))


def _follow(graph: fx.Graph, network: nn.Module, last: fx.Node, axis: int) -> ReceptiveField | None:
    """The field at a node, along one axis (0: rows)."""
    fields: dict[fx.Node, ReceptiveField | None] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            fields[node] = ReceptiveField(0.5, 1.0, 1.0)
        elif node.op == "get_attr":  # a weight has no places
            fields[node] = None
        else:
            merged = _merge([f for n in node.all_input_nodes if (f := fields[n]) is not None], str(node))
            module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
            fields[node] = None if merged is None else _through(merged, module, node, axis, network)
        if node is last:
            break
    return fields[last]


def _merge(fields: list[ReceptiveField], where: str) -> ReceptiveField | None:
    """The field of a sum: the branches must agree in their centres."""
    if any(abs(f.start - fields[0].start) > 1e-6 or f.stride != fields[0].stride for f in fields):
        raise InputError(f"performer.arch: branches with different receptive-field centres meet at {where}")
    return max(fields, key=lambda f: f.size) if fields else None


def _through(
    field: ReceptiveField, module: nn.Module | None, node: fx.Node, axis: int, network: nn.Module
) -> ReceptiveField | None:
    """The field after a node; None once the map has no places any more (a global pooling)."""
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return _windowed(field, vars(module), axis)
    if node.target in (F.max_pool2d, F.avg_pool2d, torch.max_pool2d):
        return _windowed(field, dict(zip(POOL_ARGUMENTS, node.args, strict=False)) | node.kwargs, axis)
    if node.target is F.conv2d:
        return _windowed(field, _of_convolution(node, network), axis)
    if isinstance(module, nn.ZeroPad2d | nn.ReflectionPad2d | nn.ReplicationPad2d | nn.ConstantPad2d):
        return field._replace(start=field.start - module.padding[2 if axis == 0 else 0] * field.stride)
    if node.target is F.pad:
        before: Any = [*node.args, *node.kwargs.values()][1]
        return field._replace(start=field.start - (before[2] if axis == 0 else before[0]) * field.stride)
    if isinstance(module, GLOBAL_MODULES) or node.target in GLOBAL_FUNCTIONS:
        return None
    if node.op == "call_method" and node.target in GLOBAL_METHODS:
        return None
    methods = node.op == "call_method" and node.target in POINTWISE_METHODS
    if isinstance(module, POINTWISE_MODULES) or node.target in POINTWISE_FUNCTIONS or methods or is_slice_of_channels(node):
        return field
    what = type(module).__name__ if module is not None else str(node.target)
    raise InputError(f"performer.arch: the receptive field after {what} ({node.name}) is not known; take an earlier layer")


CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _of_convolution(node: fx.Node, network: nn.Module) -> dict[str, Any]:
    """The settings of a call of `F.conv2d`, whose kernel is that of its weight."""
    settings = dict(zip(CONVOLUTION_ARGUMENTS, node.args, strict=False)) | node.kwargs
    weight = settings["weight"]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        raise InputError(f"performer.arch: the kernel of {node.name} is computed, so its receptive field is not known")
    return {"stride": 1} | settings | {"kernel_size": tuple(network.get_parameter(str(weight.target)).shape[2:])}


def _windowed(field: ReceptiveField, window: dict[str, Any], axis: int) -> ReceptiveField:
    """The field after a convolution or a pooling with these settings."""

    def along(name: str, otherwise: int) -> int:
        value = window.get(name)
        value = otherwise if value is None or value == [] else value
        return int(value[axis] if isinstance(value, tuple | list) else value)

    kernel, dilation = along("kernel_size", 1), along("dilation", 1)
    reach = dilation * (kernel - 1)
    if isinstance(window.get("padding"), str):  # torch puts the odd pixel of `same` at the end
        padding = reach // 2 if window["padding"] == "same" else 0
    else:
        padding = along("padding", 0)
    start = field.start + (reach / 2 - padding) * field.stride
    # a function's pooling steps by its kernel where no stride is given; modules always have one
    return ReceptiveField(start, field.stride * along("stride", kernel), field.size + reach * field.stride)
