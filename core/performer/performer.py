"""The performer: a frozen classifier, read at its feature layer, its two target layers and its answer."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from core.config import PerformerConfig
from core.errors import InputError
from core.performer import networks
from core.performer.receptive_field import ReceptiveField, receptive_field
from core.performer.spec import KNOWN, Spec, resolve_spec

OWN = {"small": networks.small, "vgg_m": networks.vgg_m, "vgg_s": networks.vgg_s}
"""Networks defined here; every other name is torchvision's."""


class PerformerFeatures(NamedTuple):
    """Everything that the explainer ever needs of a batch."""

    feature: Tensor
    """x: (B, C, n, n), after the ReLU of the top conv-layer."""
    targets: list[Tensor]
    """x*_1, x*_2: (B, D1) and (B, D2)."""
    logits: Tensor
    """(B, K) the performer's answer."""


class Performer(nn.Module):
    """A frozen classifier: eval mode, no gradients, never changed.

    Args:
        network: the classifier.
        spec: its module paths.
        categories: names of its classes.
    """

    def __init__(self, network: nn.Module, spec: Spec, categories: list[str] | None = None):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.spec, self.categories = spec, categories
        self._seen: dict[str, Tensor] = {}
        for path in {spec.feature, *spec.targets}:
            network.get_submodule(path).register_forward_hook(self._keep(path))

    def _keep(self, path: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            self._seen[path] = output

        return hook

    def train(self, mode: bool = True) -> Performer:
        """A performer is always in evaluation mode."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] on the scale that the network was trained on."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.spec.mean, self.spec.std))
        return (images - mean) / std

    @torch.no_grad()
    def features(self, images: Tensor) -> PerformerFeatures:
        """One forward pass. images: (B, 3, S, S) float in [0, 1]."""
        logits = self.network(self.normalise(images))
        feature = self._seen[self.spec.feature]
        if feature.dim() != 4:
            raise InputError(f"performer.feature: {self.spec.feature} gives {feature.dim() - 2}-D maps, not C x n x n")
        targets = [self._seen[path].flatten(1) for path in self.spec.targets]
        self._seen.clear()
        return PerformerFeatures(feature, targets, logits)

    def pool(self) -> nn.Module:
        """A copy of the performer's own last pooling: feature (B, C, n, n) -> (B, C, m, m)."""
        return copy.deepcopy(nn.Sequential(*(self.network.get_submodule(path) for path in self.spec.pool)))

    def head(self) -> nn.Module:
        """A copy of what follows the second target: (B, D2) -> logits (B, K); the identity if that is the logits."""
        last = [m for m in self.network.modules() if isinstance(m, nn.Linear)][-1]
        if self.network.get_submodule(self.spec.targets[1]) is last:
            return nn.Identity()
        return copy.deepcopy(last)

    def decoder_layers(self) -> list[tuple[Tensor, Tensor] | str | None]:
        """For each target the (weight, bias) of the performer's own layer, or `identity`."""
        layers: list[tuple[Tensor, Tensor] | str | None] = []
        for path in self.spec.decoder_init:
            module = None if path == "identity" else self.network.get_submodule(path)
            if isinstance(module, nn.Linear):
                bias = torch.zeros(module.out_features) if module.bias is None else module.bias
                layers.append((module.weight.detach().clone(), bias.detach().clone()))
            else:
                layers.append("identity" if module is None else None)
        return layers

    def receptive_field(self) -> ReceptiveField:
        """Of the feature layer's cells, in pixels of the crop."""
        return receptive_field(self.network, self.spec.feature)


def build_network(arch: str, classes: int, weights: object | None = None) -> nn.Module:
    """A classifier of this name, with random weights, or torchvision's.

    Raises:
        InputError: if there is no such architecture.
    """
    if arch in OWN:
        return OWN[arch](classes)
    if arch not in torchvision.models.list_models(torchvision.models):
        raise InputError(f"performer.arch: unknown {arch}; use {', '.join(KNOWN)} or another torchvision classifier")
    network = torchvision.models.get_model(arch, weights=weights) if weights else torchvision.models.get_model(arch)
    replace_last_layer(network, classes)
    for module in network.modules():  # in place, a ReLU would overwrite what the hooks keep
        if getattr(module, "inplace", False):
            module.inplace = False
    return network


def replace_last_layer(network: nn.Module, classes: int) -> None:
    """Give the network a new last linear layer for this many classes, in place."""
    name, last = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
    if last.out_features != classes:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, nn.Linear(last.in_features, classes))


def build_performer(config: PerformerConfig, classes: int) -> Performer:
    """A performer with random weights."""
    network = build_network(config.arch, classes)
    return Performer(network, resolve_spec(config, network))
