"""Layers are found in networks as they are: torchvision's, and others that pool and activate by functions."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paraphrase.core.config import PerformerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.performer.graph import trace
from paraphrase.core.performer.layers import find_layers
from paraphrase.core.performer.performer import Performer, build_network
from paraphrase.core.performer.spec import candidates, resolve_spec
from paraphrase.core.pooling import build_module, describe_module, pooling_of

PUBLISHED = {
    "alexnet": ("features.11", ["features.12", "avgpool"], ["classifier.2", "classifier.5"], ["classifier.1", "classifier.4"]),
    "vgg16_bn": ("features.42", ["features.43", "avgpool"], ["classifier.1", "classifier.4"], ["classifier.0", "classifier.3"]),
    "resnet50": ("layer4", ["avgpool"], ["avgpool", "fc"], ["identity", "fc"]),
    "convnext_tiny": ("features", ["avgpool", "classifier.0"], ["classifier.0", "classifier.2"], ["identity", "classifier.2"]),
    "densenet121": ("features", ["relu", "mean"], ["classifier:input", "classifier"], ["identity", "classifier"]),
    "googlenet": ("inception5b", ["avgpool"], ["avgpool", "fc"], ["identity", "fc"]),
    "inception_v3": ("Mixed_7c", ["avgpool"], ["avgpool", "fc"], ["identity", "fc"]),
    "mnasnet0_5": ("layers", ["mean"], ["classifier.0", "classifier.1"], ["identity", "classifier.1"]),
    "mobilenet_v3_small": ("features", ["avgpool"], ["avgpool", "classifier.0"], ["identity", "classifier.0"]),
    "regnet_x_400mf": ("trunk_output", ["avgpool"], ["avgpool", "fc"], ["identity", "fc"]),
    "shufflenet_v2_x0_5": ("conv5", ["mean"], ["fc:input", "fc"], ["identity", "fc"]),
    "efficientnet_b0": ("features", ["avgpool"], ["avgpool", "classifier.1"], ["identity", "classifier.1"]),
}


LARGE = ("alexnet", "vgg16_bn", "resnet50", "convnext_tiny", "inception_v3", "googlenet")
"""Whose weights take seconds to draw: read on the meta device."""


@pytest.mark.parametrize("arch", PUBLISHED)
def test_layers_of_published_networks_are_found_and_follow_one_another(arch: str) -> None:
    with torch.device("meta") if arch in LARGE else nullcontext():
        network = build_network(arch, 5)
    spec = resolve_spec(PerformerConfig(arch=arch), network)
    assert (spec.feature, spec.pool, spec.targets, spec.decoder_init) == PUBLISHED[arch]
    assert spec.input_size == (299 if arch == "inception_v3" else 224)
    performer = Performer(network, spec)
    assert performer.receptive_field().stride in (16, 32)
    if arch not in LARGE:
        performer.check_layers()  # pooled feature, first target, head and logits are the network's own


class Functional(nn.Module):
    """Pools and activates by functions, as many a network of one's own."""

    def __init__(self, hidden: int | None = None, pool: str = "mean"):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.pool, size = pool, 8 if pool != "flat" else 8 * 4 * 4
        self.hidden = nn.Linear(size, hidden) if hidden else None
        self.last = nn.Linear(hidden or size, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.two(F.max_pool2d(F.relu(self.one(images)), 2)))
        if self.pool == "mean":
            x = maps.mean([2, 3])
        elif self.pool == "max":
            x = torch.amax(maps, (2, 3))
        elif self.pool == "whole":
            x = F.avg_pool2d(maps, maps.shape[-1]).view(len(maps), -1)
        else:
            x = F.max_pool2d(maps, 2).view(len(maps), -1)
        if self.hidden is not None:
            x = F.gelu(self.hidden(x))
        return self.last(x)


@pytest.mark.parametrize(
    ("pool", "hidden", "words", "targets"),
    [
        ("mean", None, ["relu", "mean"], ["last:input", "last"]),
        ("max", None, ["relu", "max"], ["last:input", "last"]),
        ("whole", 5, ["relu", "mean"], ["hidden:input", "hidden"]),
        ("flat", None, ["relu", "max:2:2:0"], ["last:input", "last"]),
    ],
)
def test_functions_are_written_in_words(pool: str, hidden: int | None, words: list[str], targets: list[str]) -> None:
    torch.manual_seed(0)
    network = Functional(hidden, pool)
    size = 32 if pool != "flat" else 16
    spec = resolve_spec(PerformerConfig(arch="mine:net", input_size=size), network)
    assert (spec.feature, spec.pool, spec.targets) == ("two", words, targets)
    assert spec.activation == ("gelu" if hidden else "")
    assert spec.target_relu == [True, False]
    performer = Performer(network, spec)
    performer.check_layers()
    again = build_module(describe_module(performer.pool()))
    seen = performer.features(torch.rand(2, 3, size, size))
    torch.testing.assert_close(again(seen.feature).flatten(1), seen.targets[0])
    torch.testing.assert_close(performer.head()(seen.targets[1]), seen.logits)


class Branching(nn.Module):
    """Two poolings side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.last(torch.cat([maps.mean([2, 3]), maps.amax([2, 3])], 1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Branching(), "performer.targets: the layers of mine branch at cat in forward after its last maps"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "has no linear layer after its last pooling"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)), "mine has no maps but the image itself"),
        (nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten(), nn.Linear(4, 2)), "mine has no maps but the image itself"),
    ],
)
def test_what_is_in_the_way_is_said_in_a_line(network: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_layers(trace(network, 16), "mine")
    assert "\n" not in str(caught.value)


def test_maps_of_one_cell_are_named() -> None:
    with pytest.raises(
        InputError, match=r"performer.input_size: the maps of resnet18 are 1 x 1 already at layer4.0.downsample.0"
    ):
        resolve_spec(PerformerConfig(arch="resnet18", input_size=32), build_network("resnet18", 3))


def test_a_later_layer_of_ones_own_takes_the_pooling_behind_it() -> None:
    network = build_network("vgg16", 5)
    spec = resolve_spec(PerformerConfig(arch="vgg16", feature="features.28"), network)
    assert spec.pool == ["relu", "features.30", "avgpool"]
    Performer(network, spec).check_layers()
    earlier = resolve_spec(PerformerConfig(arch="vgg16", feature="features.22"), network)
    assert (earlier.pool, earlier.targets) == (["rest"], spec.targets)  # convolutions lie between: they stay the performer's


def test_convolutions_as_large_as_the_maps_are_linear_layers() -> None:
    """Also where the feature is named by hand, whose pooling ends before the first of them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 8), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5, 3))
    for given in ({}, {"feature": "1"}):
        spec = resolve_spec(PerformerConfig(arch="mine:net", input_size=16, **given), network)  # type: ignore[arg-type]
        assert (spec.feature, spec.pool) == ("1", ["2"])
        assert (spec.targets, spec.decoder_init) == (["4", "6"], ["3", "5"])
        performer = Performer(network, spec)
        performer.check_layers()
        weight, bias = performer.decoder_layers()[0]  # type: ignore[misc]
        seen = performer.features(torch.rand(2, 3, 16, 16))
        torch.testing.assert_close(F.relu(F.linear(performer.pool()(seen.feature).flatten(1), weight, bias)), seen.targets[0])


def test_candidates_are_the_last_layers_of_each_size() -> None:
    rows = candidates(PerformerConfig(arch="resnet18"), build_network("resnet18", None))
    assert rows[-2:] == [["layer3", "256 x 14 x 14", "16", "211"], ["layer4", "512 x 7 x 7", "32", "435"]]


@pytest.mark.parametrize("word", ["mean", "max", "max:3:2:1", "avg:2:2:0", "relu", "hardswish"])
def test_words_come_back_from_plain_data(word: str) -> None:
    module = pooling_of(word)
    assert module is not None
    maps = torch.randn(2, 3, 9, 9)
    assert torch.equal(build_module(describe_module(module))(maps), module(maps))
    assert pooling_of("avgpool") is None and pooling_of("max:3") is None
