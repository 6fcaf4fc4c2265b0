"""Layers between feature and targets: cut out of the network, kept as plain data, and run behind an explainer's decoder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paraphrase.core.config import Config, PerformerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.checkpoint import load_explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.measure.attribution import PerformerPath, grad_cam, open_subject
from paraphrase.core.performer.performer import Performer, build_network
from paraphrase.core.performer.rest import rest_of
from paraphrase.core.performer.spec import resolve_spec
from paraphrase.core.rest import Rest, function_of
from paraphrase.core.train.training import Training


def performer_of(arch: str, **given) -> Performer:
    torch.manual_seed(0)
    network = build_network(arch, 5)
    return Performer(network, resolve_spec(PerformerConfig(arch=arch, **given), network))


@pytest.mark.parametrize(
    ("arch", "size", "feature"),
    [
        ("resnet18", 64, "layer3"),
        ("resnet18", 64, "layer3.1:input"),
        ("efficientnet_b0", 64, "features.5"),
        ("shufflenet_v2_x0_5", 64, "stage3"),
        ("regnet_y_400mf", 64, "trunk_output.block3"),
        ("small", 112, "features.8"),
    ],
)
def test_the_rest_makes_of_an_earlier_feature_the_networks_own_targets(arch: str, size: int, feature: str) -> None:
    performer = performer_of(arch, input_size=size, feature=feature)
    assert performer.spec.pool == ["rest"]
    performer.check_layers()
    rest = performer.rest()
    assert rest is not None
    kept = Rest(json.loads(json.dumps(rest.description)), rest.weights())
    for images in (1, 3):  # it was cut with two
        seen = performer.features(torch.rand(images, 3, size, size))
        given = seen.feature.to(memory_format=torch.channels_last).clone().requires_grad_()
        made = kept(given)
        torch.testing.assert_close(made, seen.targets, rtol=1e-4, atol=1e-5)
        (gradient,) = torch.autograd.grad(made[1].sum(), given)
        assert bool((gradient != 0).any())
    assert not kept.state_dict() and not list(kept.parameters())


@pytest.mark.parametrize("rectified", [True, False])
def test_a_feature_after_its_relu_is_rebuilt_without_negative_values(rectified: bool) -> None:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU() if rectified else nn.Identity()]
    last = [nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)]
    network = nn.Sequential(nn.Sequential(*first), *last)
    rest = Performer(network, resolve_spec(PerformerConfig(arch="mine:net", input_size=16, feature="0"), network)).rest()
    given = torch.randn(2, 4, 16, 16)
    assert rest is not None
    assert torch.allclose(rest(given)[0], rest(given.relu())[0]) is rectified


class TwoHeads(nn.Module):
    """No chain of linear layers: what a pooling and a decoder cannot stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        both = torch.cat([maps.mean([2, 3]), maps.amax([2, 3])], 1)
        return self.last(self.norm(both.view(maps.shape[0], -1)))


def test_a_head_that_branches_is_the_rest_too() -> None:
    torch.manual_seed(0)
    network = TwoHeads()
    given = {"feature": "conv", "targets": ["norm", "last"], "decoder_init": ["last", "last"]}
    performer = Performer(network, resolve_spec(PerformerConfig(arch="mine:net", input_size=16, **given), network))  # type: ignore[arg-type]
    assert performer.spec.pool == ["rest"]
    performer.check_layers()


class Wanders(nn.Module):
    """Its way depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.more, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        maps = self.more(maps) if float(maps.mean()) > 0 else self.more(-maps)
        return self.last(maps.mean([2, 3]))


@pytest.mark.parametrize(
    ("feature", "targets", "message"),
    [
        ("layer3.0.conv2", ["avgpool", "fc"], "layer3.0.conv2 is not all that enters layer3.0; name the end of a block"),
        ("layer3", ["layer2", "fc"], "layer3 is not on the way to layer2; name a layer before it"),
        ("layer3", ["avgpool", "nothing"], "performer.targets.1: nothing does nothing of its own"),
    ],
)
def test_where_a_network_cannot_be_cut_a_line_says(feature: str, targets: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rest_of(build_network("resnet18", 3), feature, targets, 64, rectified=True)


def test_a_network_that_torch_cannot_export_is_named() -> None:
    with pytest.raises(InputError, match=r"performer.feature: .* torch.export cannot follow Wanders \(.*\); name the last one"):
        rest_of(Wanders(), "conv", ["last", "last"], 16, rectified=False)


@pytest.mark.parametrize(
    "name", ["os.system", "aten.nothing.default", "operator.call", "aten.from_file.default", "aten.__class__.mro"]
)
def test_a_description_calls_nothing_but_torchs_operations(name: str) -> None:
    with pytest.raises(InputError, match="not one of torch's own"):
        function_of(name)


def test_rest_stands_alone() -> None:
    with pytest.raises(InputError, match=r"performer.pool: rest is all that lies between"):
        resolve_spec(PerformerConfig(arch="small", pool=["rest", "mean"]), build_network("small", 3))


@pytest.fixture
def early(tiny: Config) -> tuple[Config, FeatureCache]:
    """The smallest real thing, explained at an earlier layer."""
    config = dataclasses.replace(tiny, performer=dataclasses.replace(tiny.performer, feature="features.9"))
    return config, open_cache(config, progress=False)


def test_an_explainer_of_an_earlier_layer_trains_resumes_and_loads_back(
    early: tuple[Config, FeatureCache], tmp_path: Path
) -> None:
    config, cache = early
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, replicates=2, epochs=2, precision="float32"))
    assert cache.rest is not None and cache.meta["map_size"] == 28
    feature = cache.test.features[:4].permute(0, 3, 1, 2).float()
    torch.testing.assert_close(
        cache.rest(feature)[1], cache.test.targets[1][:4].float(), rtol=0.05, atol=0.05
    )  # kept as bfloat16

    whole = Training(config, cache)
    weights = {name: value.clone() for name, value in cache.rest.weights().items()}
    first = whole.run_epoch()
    whole.save(tmp_path / "middle")
    last = whole.run_epoch()
    assert last["reconstruction_error"] < first["reconstruction_error"] < 1
    assert all(torch.equal(value, weights[name]) for name, value in cache.rest.weights().items())  # frozen

    resumed = Training.load(tmp_path / "middle", config, cache)
    resumed.run_epoch()
    for name, value in resumed.explainer.state_dict().items():
        assert torch.equal(value, whole.explainer.state_dict()[name]), name

    whole.save_explainer(tmp_path / "saved")
    loaded, own = load_explainer(tmp_path / "saved"), whole.explainer.eval()
    both = feature.repeat(1, 2, 1, 1)
    torch.testing.assert_close(loaded(both).outputs, own(both).outputs)
    alone = own.replicate(1).eval()
    torch.testing.assert_close(alone(feature).outputs[1][0], own(both).outputs[1][1], rtol=1e-4, atol=1e-4)

    subject = open_subject(tmp_path / "saved")
    for path in subject.paths.values():
        given = grad_cam(path, feature, torch.zeros(4, dtype=torch.int64))
        assert given.shape == (4, path.filters, 28, 28) and bool((given != 0).any())
    assert isinstance(subject.paths["performer"], PerformerPath)


def test_a_decoder_that_starts_as_the_performer_gives_its_feature_back(early: tuple[Config, FeatureCache]) -> None:
    """With all channels in both tracks, as copies of the performer's, little is lost from the start; a random start loses all."""
    config, cache = early
    errors = {}
    for start in ("performer", "kaiming"):
        explainer = dataclasses.replace(config.explainer, interp_widths=[64], ordin_width=None, mask="none", decoder_init=start)
        training = Training(dataclasses.replace(config, explainer=explainer), cache)
        feature = cache.train.features[:64].permute(0, 3, 1, 2).float()
        training.explainer(feature)  # in training mode: the norm takes its peaks
        outputs = training.explainer.eval()(feature).outputs[0][0].detach()
        target = cache.train.targets[0][:64].float()
        errors[start] = float((outputs - target).square().sum() / target.square().sum())
    assert errors["performer"] < 0.5 * errors["kaiming"], errors
