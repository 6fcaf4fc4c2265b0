"""What a performer gives: features, targets, logits, and the layers that an explainer starts from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from paraphrase.core.config import PerformerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.performer.networks import vgg_m, vgg_s
from paraphrase.core.performer.performer import Performer, build_network, build_performer
from paraphrase.core.performer.spec import Spec, resolve_spec

SIZES = {"small": 64, "alexnet": 96, "vgg_m": 112, "vgg_s": 112, "resnet18": 64, "convnext_tiny": 64}


@pytest.fixture(scope="module", params=SIZES)
def performer(request: pytest.FixtureRequest) -> Performer:
    torch.manual_seed(0)
    return build_performer(PerformerConfig(arch=request.param, input_size=SIZES[request.param]), 5)


def images_for(performer: Performer, count: int = 2) -> Tensor:
    size = performer.spec.input_size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def by_hand(performer: Performer, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Feature, targets and logits by calling the network's own parts one after another."""
    network, spec = performer.network, performer.spec
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    x = (images - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    if spec.arch == "resnet18":
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        feature = network.layer4(network.layer3(network.layer2(network.layer1(x))))
        pooled = feature.mean((2, 3))
        logits = network.fc(pooled)
        return feature, [pooled, logits], logits
    if spec.arch == "convnext_tiny":
        feature = network.features(x)
        pooled = network.classifier[:2](feature.mean((2, 3), keepdim=True))
        return feature, [pooled, network.classifier[2](pooled)], network.classifier[2](pooled)
    depth = int(spec.feature.split(".")[1]) + 1
    feature = network.features[:depth](x)
    flat = network.avgpool(network.features[depth:](feature)).flatten(1)
    first, second = (int(path.split(".")[1]) + 1 for path in spec.targets)
    return feature, [network.classifier[:first](flat), network.classifier[:second](flat)], network.classifier(flat)


def test_features_are_those_of_the_networks_own_parts(performer: Performer) -> None:
    images = images_for(performer)
    seen, (feature, targets, logits) = performer.features(images), by_hand(performer, images)
    assert seen.feature.shape[1:] == performer.feature_shape
    torch.testing.assert_close(seen.feature, feature)
    torch.testing.assert_close(seen.targets, targets)
    torch.testing.assert_close(seen.logits, logits)
    torch.testing.assert_close(seen.logits, performer.network(performer.normalise(images)))


def test_head_turns_the_second_target_into_the_logits(performer: Performer) -> None:
    seen = performer.features(images_for(performer))
    torch.testing.assert_close(performer.head()(seen.targets[1]), seen.logits)
    performer.check_layers()


def test_decoder_layers_on_the_pooled_feature_give_the_targets(performer: Performer) -> None:
    seen = performer.features(images_for(performer))
    x = performer.pool()(seen.feature).flatten(1)
    for layer, relu, target in zip(performer.decoder_layers(), performer.spec.target_relu, seen.targets, strict=True):
        x = x if layer == "identity" else nn.functional.linear(x, *layer)
        x = x.relu() if relu else x
        torch.testing.assert_close(x, target, rtol=1e-4, atol=1e-5)


def test_targets_that_end_in_a_relu_are_known(performer: Performer) -> None:
    expected = {"resnet18": [True, False], "convnext_tiny": [False, False]}.get(performer.spec.arch, [True, True])
    assert performer.spec.target_relu == expected
    seen = performer.features(images_for(performer))
    assert all(bool((target >= 0).all()) for target, relu in zip(seen.targets, expected, strict=True) if relu)


def test_a_performer_stays_frozen(performer: Performer) -> None:
    before = performer.features(images_for(performer)).logits
    performer.train()
    assert not any(module.training for module in performer.modules())
    assert not any(p.requires_grad for p in performer.parameters())
    assert torch.equal(performer.features(images_for(performer)).logits, before)


def test_reading_leaves_nothing_behind(performer: Performer) -> None:
    performer.features(images_for(performer))
    performer.receptive_field()
    parts = [performer, performer.pool(), performer.head()]
    assert not any(module._forward_hooks for part in parts for module in part.modules())
    twin = copy.deepcopy(performer)
    assert torch.equal(twin.features(images_for(performer)).feature, performer.features(images_for(performer)).feature)


def test_what_is_handed_out_is_a_copy(performer: Performer) -> None:
    before = performer.features(images_for(performer)).logits
    for part in (performer.pool(), performer.head()):
        for value in part.parameters():
            value.add_(1)
    for layer in performer.decoder_layers():
        if isinstance(layer, tuple):
            layer[0].add_(1)
    assert torch.equal(performer.features(images_for(performer)).logits, before)


def test_pooling_to_the_size_that_is_there_is_left_out() -> None:
    assert [type(m) for m in build_performer(PerformerConfig(), 3).pool()] == [nn.MaxPool2d]
    other = build_performer(PerformerConfig(input_size=64), 3)
    assert [type(m) for m in other.pool()] == [nn.MaxPool2d, nn.AdaptiveAvgPool2d]


@pytest.mark.parametrize(("network", "feature", "pooled"), [(vgg_m, (512, 13), (512, 6)), (vgg_s, (512, 17), (512, 6))])
def test_published_networks_have_the_published_maps(network: object, feature: tuple, pooled: tuple) -> None:
    with torch.device("meta"):
        net = network(1000)  # type: ignore[operator]
        images = torch.empty(1, 3, 224, 224)
    assert net.features[:-1](images).shape[1:] == (feature[0], feature[1], feature[1])
    assert net.features(images).shape[1:] == (pooled[0], pooled[1], pooled[1])
    assert net(images).shape == (1, 1000)
    assert [layer.out_features for layer in net.classifier if isinstance(layer, nn.Linear)] == [4096, 4096, 1000]


def test_response_normalisation_is_that_of_caffe() -> None:
    """b = a / (k + alpha / size * sum of squares of the 5 channels around it) ** 0.75, in plain loops."""
    with torch.device("meta"):
        norm = vgg_m(2).features[2]
    maps = torch.rand(1, 9, 2, 2, dtype=torch.float64) * 100
    expected = torch.empty_like(maps)
    for c in range(9):
        squares = sum(maps[0, i] ** 2 for i in range(max(0, c - 2), min(9, c + 3)))
        expected[0, c] = maps[0, c] / (2 + 5e-4 / 5 * squares) ** 0.75
    torch.testing.assert_close(norm(maps), expected)


def test_an_operation_in_place_does_not_spoil_the_feature() -> None:
    network = build_network("densenet121", 4)  # its forward runs relu(features, inplace=True)
    paths = {"feature": "features.norm5", "pool": [], "targets": ["features.norm5", "classifier"]}
    performer = Performer(network, Spec(arch="densenet121", input_size=32, decoder_init=["identity", "classifier"], **paths))
    images = images_for(performer)
    feature = performer.features(images).feature
    assert bool((feature < 0).any())
    torch.testing.assert_close(feature, network.features(performer.normalise(images)))


def test_no_relu_works_in_place() -> None:
    with torch.device("meta"):
        assert not any(
            getattr(m, "inplace", False) for arch in ("alexnet", "vgg16", "resnet18") for m in build_network(arch, 2).modules()
        )


def test_any_classifier_is_read_by_its_module_paths() -> None:
    paths = {"feature": "features.12", "pool": ["avgpool"], "targets": ["avgpool", "classifier.3"]}
    config = PerformerConfig(arch="mobilenet_v3_small", input_size=64, decoder_init=["identity", "classifier.3"], **paths)
    performer = build_performer(config, 3)
    performer.check_layers()
    assert performer.feature_shape == (576, 2, 2)
    assert performer.receptive_field().stride == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "alexnet", "feature": "features.99"}, "performer.feature: alexnet has no module features.99; nearest: fe"),
        ({"arch": "alexnet", "targets": ["classifier.2"]}, "performer.targets: expected two module paths, got 1"),
        ({"arch": "alexnet", "pool": ["avgpol"]}, "performer.pool.0: alexnet has no module avgpol; nearest: avgpool"),
        ({"arch": "alexnet", "input_size": 32}, "performer.input_size: AlexNet cannot take 32 px"),
        ({"arch": "alexnet", "feature": "classifier.2"}, "performer.feature: classifier.2 gives .4096,., not maps C x n x n"),
        ({"arch": "vit_b_16"}, "performer.targets: the layers of vit_b_16 branch at add in encoder.layers.encoder_layer_0"),
        ({"arch": "alexnett"}, "performer.arch: unknown alexnett"),
        ({"arch": "fcn_resnet50"}, "performer.arch: unknown fcn_resnet50"),
        ({"arch": "squeezenet1_0"}, "performer.arch: squeezenet1_0 has no linear layer after its last pooling"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_wrong_configurations_are_named(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_performer(PerformerConfig(**changes), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["classifier.1", "classifier.0"]}, "does not turn classifier.0 into the logits"),
        ({"targets": ["classifier.1", "features.17"]}, "features.17 gives .* name the layer before the last"),
        ({"decoder_init": ["identity", "classifier.3"]}, "classifier.1 is not the feature pooled by performer.pool"),
    ],
)
def test_layers_that_do_not_follow_one_another_are_found(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_performer(PerformerConfig(**changes), 3).check_layers()


def test_the_default_spec_reads_the_published_layers() -> None:
    with torch.device("meta"):
        spec = resolve_spec(PerformerConfig(arch="vgg16"), build_network("vgg16", 3))
    assert (spec.feature, spec.targets, spec.decoder_init) == (
        "features.29",
        ["classifier.1", "classifier.4"],
        ["classifier.0", "classifier.3"],
    )
    assert spec.input_size == 224
