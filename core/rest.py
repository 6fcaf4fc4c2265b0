"""The layers between a feature and the targets as plain data, so that a cache and an explainer need no network to run them.

Where the feature is not the performer's last one, all that follows it stays as the performer has it, frozen: a list of torch's
own operations and the weights that they take.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paraphrase.core.errors import InputError

FEATURE = "feature"
"""What the operations begin with."""
CONSTANTS: dict[str, type] = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}
"""Kinds of torch's own constants among the arguments of operations, by the names of their keys."""
ARITHMETIC = {"add", "sub", "mul", "floordiv", "getitem"}
"""Of Python's operators: with them networks reckon their shapes."""


class Rest(nn.Module):
    """Operations from a feature to the targets, each as it is described.

    Args:
        description: JSON of `{"nodes": [[name, function, arguments, named arguments], ...], "outputs": [name, name]}`, where an
            argument is a number, a text, a list, `{"node": name}`, `{"weight": name}` or `{"dtype": "float32"}` and the like.
        weights: by the names that the description has for them; kept outside of the module's state, and never trained.

    Raises:
        InputError: for a function that is not torch's.
    """

    def __init__(self, description: Mapping[str, Any], weights: Mapping[str, Tensor]):
        super().__init__()
        self.description, self.names = description, {name: f"w{i}" for i, name in enumerate(weights)}
        for name, value in weights.items():
            self.register_buffer(self.names[name], value.detach(), persistent=False)
        self.nodes = [(name, function_of(called), args, kwargs) for name, called, args, kwargs in description["nodes"]]

    def weights(self) -> dict[str, Tensor]:
        """Those that it was given, where they are now."""
        return {name: self.get_buffer(own) for name, own in self.names.items()}

    def forward(self, feature: Tensor) -> list[Tensor]:
        """The targets, each (B, D), of a feature (B, C, n, n)."""
        values: dict[str, Any] = {FEATURE: feature}

        def value_of(argument: Any) -> Any:
            if isinstance(argument, list):
                return [value_of(each) for each in argument]
            if not isinstance(argument, dict):
                return argument
            ((kind, name),) = argument.items()
            if kind == "node":
                return values[name]
            return self.get_buffer(self.names[name]) if kind == "weight" else getattr(torch, name)

        for name, function, args, kwargs in self.nodes:
            values[name] = function(*map(value_of, args), **{k: value_of(v) for k, v in kwargs.items()})
        return [values[name].flatten(1) for name in self.description["outputs"]]


def function_of(name: str) -> Callable:
    """The function that a description calls `aten.conv2d.default` or `operator.mul`.

    Raises:
        InputError: if torch has none of that name.
    """
    kind, _, rest = name.partition(".")
    if kind == "operator" and rest in ARITHMETIC:
        return getattr(operator, rest)
    packet, _, overload = rest.partition(".")
    function = getattr(getattr(torch.ops.aten, packet, None), overload, None) if kind == "aten" else None
    if isinstance(function, torch._ops.OpOverload) and function is not torch.ops.aten.from_file.default:  # which opens files
        return function
    raise InputError(f"performer.feature: between it and the targets lies {name}, which is not one of torch's own")
