"""Poolings as plain data, so that a cache and an explainer need no network to rebuild their performer's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from paraphrase.core.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    **{"relu": nn.ReLU, "relu6": nn.ReLU6, "gelu": nn.GELU, "silu": nn.SiLU, "hardswish": nn.Hardswish},
    **{"tanh": nn.Tanh, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "mish": nn.Mish},
}
"""Those between the feature and the logits, by the names of their functions."""

REST = "rest"
"""In the place of a pooling: all layers between the feature and the targets, frozen; see `paraphrase.core.rest`."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, n, n) maps, as ConvNeXt has it before its last layer."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: list[float], bias: list[float], eps: float):
        super().__init__()
        import torch

        self.eps = eps
        self.register_buffer("weight", torch.tensor(weight))
        self.register_buffer("bias", torch.tensor(bias))

    def forward(self, maps: Tensor) -> Tensor:
        groups = maps.shape[1] // len(self.weight)  # replicates side by side, each normalised on its own
        split = maps.unflatten(1, (groups, -1)).movedim(2, -1)
        normed = nn.functional.layer_norm(split, self.weight.shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 2).flatten(1, 2)


def describe_module(module: nn.Module) -> list[dict[str, Any]]:
    """A performer's pooling as a list of plain descriptions, in the order in which they apply.

    Raises:
        InputError: for a module of another kind.
    """
    if isinstance(module, nn.Sequential):
        return [entry for child in module for entry in describe_module(child)]
    if isinstance(module, nn.Identity | nn.Dropout):
        return []
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        kind = "max" if isinstance(module, nn.MaxPool2d) else "avg"
        keys = ("kernel_size", "stride", "padding", "ceil_mode")
        return [{"kind": kind, **{k: getattr(module, k) for k in keys}}]
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return [{"kind": "adaptive_avg", "output_size": module.output_size}]
    for kind, activation in ACTIVATIONS.items():
        if type(module) is activation:
            return [{"kind": kind}]
    if isinstance(module, nn.AdaptiveMaxPool2d):
        return [{"kind": "adaptive_max", "output_size": module.output_size}]
    if isinstance(module, nn.LayerNorm):
        values = {"weight": module.weight.tolist(), "bias": module.bias.tolist(), "eps": module.eps}
        return [{"kind": "channel_norm", **values}]
    raise InputError(f"performer.pool: {type(module).__name__} is not a pooling; allowed are max, average and adaptive ones")


def build_module(description: list[dict[str, Any]]) -> nn.Module:
    """The pooling that `describe_module` described."""
    kinds = ACTIVATIONS | {"max": nn.MaxPool2d, "avg": nn.AvgPool2d, "channel_norm": ChannelNorm}
    kinds |= {"adaptive_avg": nn.AdaptiveAvgPool2d, "adaptive_max": nn.AdaptiveMaxPool2d}
    return nn.Sequential(*(kinds[d["kind"]](**{k: v for k, v in d.items() if k != "kind"}) for d in description))


def pooling_of(word: str) -> nn.Module | None:
    """The module that a word of `performer.pool` means; None for the path of a module.

    Words: `mean` and `max` over all places, `max:K:S:P` and `avg:K:S:P` with kernel, stride and padding, and activations by
    name (`relu`).
    """
    if word in ("mean", "max"):
        return nn.AdaptiveAvgPool2d(1) if word == "mean" else nn.AdaptiveMaxPool2d(1)
    if word in ACTIVATIONS:
        return ACTIVATIONS[word]()
    kind, *numbers = word.split(":")
    if kind in ("max", "avg") and len(numbers) == 3 and all(n.isdigit() for n in numbers):
        kernel, stride, padding = map(int, numbers)
        return nn.MaxPool2d(kernel, stride, padding) if kind == "max" else nn.AvgPool2d(kernel, stride, padding)
    return None
