from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paraphrase.core.config import ExplainerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.network import Explainer, PerformerShape
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.attribution import (
    NO_PART,
    OTHERS,
    ExplainerPath,
    PerformerPath,
    average,
    contributions,
    grad_cam,
    group,
    shares,
    strongest_groups,
)


def explainer(replicates: int = 1, **config) -> Explainer:
    """In float64, its norm's running peaks set by one batch."""
    torch.manual_seed(0)
    shape = PerformerShape(6, 2, (10, 8), (True, True), torch.rand(6) + 0.5, [None, None])
    model = Explainer(ExplainerConfig(**config), shape, nn.MaxPool2d(2), list(range(replicates)))
    with torch.no_grad():
        model(torch.rand(16, replicates * 6, 4, 4))
    return model.double().eval().requires_grad_(False)


def weighted_by_hand(maps: Tensor, logits_of_maps, categories: Tensor) -> np.ndarray:
    """Grad-CAM weight times activation, one image at a time, from plain autograd."""
    rows = []
    for b, category in enumerate(categories.tolist()):
        leaf = maps[b : b + 1].detach().clone().requires_grad_(True)
        logits_of_maps(leaf, b)[0, category].backward()
        assert leaf.grad is not None
        gradient, activation = leaf.grad[0].numpy(), leaf.detach()[0].numpy()
        rows.append([activation[f] * gradient[f].sum() / gradient[f].size for f in range(len(activation))])
    return np.array(rows)


@pytest.mark.parametrize(
    ("replicates", "config"),
    [
        (1, {}),
        (2, {"interp_widths": [7, 5], "mask": "peak"}),
        (3, {"interp_widths": [5], "mask": "mean", "norm": False}),
        (2, {"ordin_width": None}),
    ],
)
def test_grad_cam_of_the_first_replicate_is_that_of_plain_autograd(replicates: int, config: dict) -> None:
    model, head = explainer(replicates, **config), nn.Linear(8, 4).double().requires_grad_(False)
    feature, categories = torch.rand(5, 6, 4, 4, dtype=torch.float64), torch.tensor([3, 0, 1, 1, 2])
    width = model.width
    found = grad_cam(ExplainerPath(model, head), feature, categories)

    def conv(maps: Tensor, name: str) -> Tensor:
        weight, bias = getattr(model, f"{name}_weight"), getattr(model, f"{name}_bias")
        out = len(weight) // replicates
        return F.conv2d(maps, weight[:out], bias[:out], padding=weight.shape[-1] // 2)

    def scaled(maps: Tensor, norm: nn.Module) -> Tensor:
        return maps / norm.alpha[: maps.shape[1], None, None] if model.config.norm else maps  # type: ignore[index]

    def logits(maps: Tensor, b: int) -> Tensor:
        x = scaled(F.max_pool2d(maps, 2), model.norm_interp)
        if model.ordin_width:
            ordinary = F.relu(conv(feature[b : b + 1], "ordin"))
            ordinary = conv(ordinary, "mix") if model.ordin_width != width else ordinary
            p = torch.sigmoid(model.w_p[0])
            x = p * x + (1 - p) * scaled(F.max_pool2d(ordinary, 2), model.norm_ordin)
        x = F.relu(x.flatten(1) @ model.dec1_weight[0].T + model.dec1_bias[0])  # type: ignore[index]
        x = F.relu(x @ model.dec2_weight[0].T + model.dec2_bias[0])  # type: ignore[index]
        return x @ head.weight.T + head.bias

    maps = model.interpret(feature.repeat(1, replicates, 1, 1))[-1][:, :width]
    expected = weighted_by_hand(maps, logits, categories)
    assert found.shape == (5, width, 4, 4)
    assert np.abs(expected).max() > 1e-3
    rtol, atol = (1e-4, 1e-7) if config.get("mask") == "mean" else (1e-9, 1e-12)  # whose place is reckoned in float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=atol)


def test_named_maps_are_the_last_interpretable_ones_and_add_no_state() -> None:
    model = explainer(2, interp_widths=[7, 5], mask="peak")
    seen: list[Tensor] = []
    model.top_maps.register_forward_hook(lambda module, inputs, output: seen.append(output))
    explained = model(torch.rand(3, 12, 4, 4, dtype=torch.float64))
    assert len(seen) == 1 and torch.equal(seen[0], explained.interp_maps[-1])
    assert not any("top_maps" in key for key in model.state_dict())


def test_explainer_without_interpretable_track_is_told() -> None:
    with pytest.raises(InputError, match="no interpretable track"):
        ExplainerPath(explainer(interp_widths=[]), nn.Linear(8, 4))


def test_performers_tail_gives_its_own_answers(tiny_cache: FeatureCache) -> None:
    path, split = PerformerPath(tiny_cache), tiny_cache.test
    feature = split.features.permute(0, 3, 1, 2)
    assert torch.allclose(path.targets(feature), split.targets[1], atol=1e-4)
    assert torch.equal(path(feature).argmax(1), split.performer_labels)


def test_grad_cam_of_the_performer_is_that_of_plain_autograd(tiny_cache: FeatureCache) -> None:
    path = PerformerPath(tiny_cache).double()
    feature = tiny_cache.test.features[:4].permute(0, 3, 1, 2).double()
    categories = tiny_cache.test.performer_labels[:4]
    (w1, b1), (w2, b2) = [(w.double(), b.double()) for w, b in tiny_cache.decoder_layers]

    def logits(maps: Tensor, b: int) -> Tensor:
        x = F.relu(tiny_cache.pool(maps).flatten(1) @ w1.T + b1)
        return F.relu(x @ w2.T + b2) @ path.head.weight.T + path.head.bias  # type: ignore[operator, union-attr]

    expected = weighted_by_hand(feature, logits, categories)
    np.testing.assert_allclose(grad_cam(path, feature, categories).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_contributions_are_sums_over_positions_whatever_the_batch(tiny_cache: FeatureCache) -> None:
    path, split = PerformerPath(tiny_cache), tiny_cache.test
    whole = grad_cam(path, split.features.permute(0, 3, 1, 2), split.performer_labels).sum((2, 3))
    found = contributions(path, split.features, split.performer_labels, batch=7)
    assert found.shape == (len(split.labels), tiny_cache.meta["channels"])
    assert torch.allclose(found, whole, atol=1e-5 * float(whole.abs().max()))


def test_identity_stands_for_a_target_that_is_the_pooled_feature(tiny_cache: FeatureCache) -> None:
    split = tiny_cache.test
    pooled = tiny_cache.pool(split.features.permute(0, 3, 1, 2)).flatten(1)
    weight, bias = tiny_cache.decoder_layers[0]
    second = F.relu(pooled @ weight.T + bias)
    changed = dataclasses.replace(
        tiny_cache, decoder_layers=["identity", (weight, bias)], test=split._replace(targets=[pooled, second])
    )
    assert torch.allclose(PerformerPath(changed).targets(split.features.permute(0, 3, 1, 2)), second, atol=1e-4)


def test_layers_that_are_not_known_or_not_the_performers_are_told(tiny_cache: FeatureCache) -> None:
    first, second = tiny_cache.decoder_layers
    with pytest.raises(InputError, match=r"^performer\.decoder_init\.1: is no linear layer"):
        PerformerPath(dataclasses.replace(tiny_cache, decoder_layers=[first, None]))
    for wrong in ([first, (second[0] * 1.2, second[1])], [second, first]):
        with pytest.raises(InputError, match=r"do not turn the pooled feature into performer\.targets\.1"):
            PerformerPath(dataclasses.replace(tiny_cache, decoder_layers=wrong))


def test_shares_count_what_is_above_zero_and_sum_to_one() -> None:
    groups = group(["head", "tail"], torch.tensor([0, 1, 0, -1]))
    assert groups.names == ["head", "tail", NO_PART]
    given = torch.tensor([[1.0, 2.0, -5.0, 1.0], [-1.0, -1.0, 0.0, -2.0], [0.0, 0.0, 3.0, 0.0]])
    found = shares(given, groups)
    assert torch.allclose(found[0], torch.tensor([0.25, 0.5, 0.25])) and found[2].tolist() == [1, 0, 0]
    assert bool(found[1].isnan().all())
    assert group(["head"], torch.zeros(2, dtype=torch.int64)).names == ["head"]
    many = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) + 0.5
    assert torch.allclose(shares(many, groups).nansum(1), (many > 0).any(1).float())


def test_sums_over_groups_keep_the_maps() -> None:
    groups, maps = group(["a", "b"], torch.tensor([1, 1, -1])), torch.rand(2, 3, 4, 4)
    assert torch.allclose(groups.sums(maps), torch.stack([torch.zeros(2, 4, 4), maps[:, 0] + maps[:, 1], maps[:, 2]], 1))


def test_without_landmarks_groups_of_filters_stand_for_themselves() -> None:
    given = torch.tensor([[3.0, -9.0, 0.0, 1.0, 2.0], [3.0, 0.5, 0.0, 1.0, 2.0]])
    single = [[0], [1], [2], [3], [4]]
    groups = strongest_groups(given, single, "performer", count=2)
    assert groups.names == ["performer 0", "performer 4", OTHERS]
    assert groups.member.tolist() == [0, 2, 2, 2, 1]
    assert strongest_groups(given, single, "f").names == ["f 0", "f 4", "f 3", "f 1", OTHERS]  # the third never contributes
    together = strongest_groups(given, [[3, 4, 1], [0], [2]], "f")
    assert together.names == ["f 3 + 2", "f 0", OTHERS] and together.member.tolist() == [1, 0, 2, 0, 0]


def test_average_leaves_out_images_without_shares() -> None:
    values = torch.tensor([[0.2, 0.8], [0.4, 0.6], [math.nan, math.nan], [0.9, 0.1]])
    found = average(values)
    known = values[[0, 1, 3]].double().numpy()
    assert found.images == 3
    np.testing.assert_allclose(found.mean, known.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.error, known.std(0, ddof=1) / math.sqrt(3), rtol=1e-6)
    alone = average(values[1:2])
    assert torch.equal(alone.mean, values[1]) and bool(alone.error.isnan().all())
