from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from paraphrase.core.config import ExplainerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.checkpoint import load_explainer, save_explainer
from paraphrase.core.explainer.network import Explainer, Norm, PerformerShape
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.train.training import performer_shape


def shape(channels: int = 6) -> PerformerShape:
    return PerformerShape(channels, 2, (10, 8), (True, True), torch.rand(channels) + 0.5, [None, None])


def explainer(seeds: list[int] | None = None, **config) -> Explainer:
    return Explainer(ExplainerConfig(**config), shape(), nn.MaxPool2d(2), seeds or [0])


def test_norm_divides_by_the_running_mean_of_the_batch_means_of_peaks() -> None:
    norm, generator = Norm(2, momentum=0.25), torch.Generator().manual_seed(0)
    alpha = None
    for _ in range(3):
        maps = torch.rand(3, 2, 4, 4, generator=generator)
        peaks = [sum(float(maps[b, c].max()) for b in range(3)) / 3 for c in range(2)]
        alpha = peaks if alpha is None else [0.75 * a + 0.25 * p for a, p in zip(alpha, peaks, strict=True)]
        out = norm(maps)
        for c in range(2):
            assert torch.allclose(out[:, c], maps[:, c] / alpha[c])
    norm.eval()
    before = norm.alpha.clone()
    norm(torch.full((1, 2, 4, 4), 9.0))
    assert torch.equal(norm.alpha, before)


def test_norm_of_a_channel_that_is_negative_everywhere_is_by_its_magnitude() -> None:
    norm = Norm(1, momentum=0.1)
    out = norm(-torch.arange(1.0, 17.0).view(1, 1, 4, 4))
    assert float(norm.alpha) == 16.0 and float(out.min()) == -1.0


def test_norm_of_channels_that_never_fired_is_zero() -> None:
    assert torch.equal(Norm(1, 0.1)(torch.zeros(2, 1, 3, 3)), torch.zeros(2, 1, 3, 3))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"interp_widths": [3, 12]},
        {"interp_widths": [5], "mask": "peak"},
        {"ordin_width": 12, "norm": False},
        {"ordin_width": None, "mask": "mean"},
        {"interp_widths": []},
        {"interp_widths": [12, 3], "encoder_init": "kaiming"},
    ],
)
def test_every_track_can_be_taken_away(config: dict) -> None:
    model = explainer([0, 1], **config)
    explained = model(torch.rand(4, 12, 4, 4))
    assert [tuple(o.shape) for o in explained.outputs] == [(2, 4, 10), (2, 4, 8)]
    assert len(explained.interp_maps) == len(model.interp_widths)
    both = bool(model.interp_widths) and model.ordin_width is not None
    assert (model.p() is not None) == both
    assert (explained.ordin_maps is None) == (config.get("ordin_width", 0) is None)
    sum(o.sum() for o in explained.outputs).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_p_mixes_the_normed_tracks() -> None:
    model = explainer()
    feature = torch.rand(3, 6, 4, 4)
    with torch.no_grad():
        model.w_p.fill_(50.0)
        alone, _, _ = model.encode(feature)
        interp = model.norm_interp(model.pool(model.interpret(feature)[-1]))
    assert torch.allclose(alone, interp, atol=1e-6)


def test_replicates_are_the_explainers_of_their_seeds() -> None:
    both, feature = explainer([3, 7]), torch.rand(4, 12, 4, 4)
    together = both(feature)
    for r, seed in enumerate((3, 7)):
        alone = explainer([seed])(feature[:, 6 * r : 6 * r + 6])
        assert torch.allclose(together.outputs[1][r], alone.outputs[1][0], atol=1e-5)
        assert torch.allclose(together.interp_maps[-1][:, 6 * r : 6 * r + 6], alone.interp_maps[-1], atol=1e-5)


@pytest.mark.parametrize("pooling", ["its own", "mean"])
def test_identity_start_with_the_performers_decoder_reconstructs_without_training(
    tiny, tiny_cache: FeatureCache, monkeypatch, pooling: str
) -> None:
    monkeypatch.setattr("paraphrase.core.explainer.network.IDENTITY_NOISE", 0.0)
    cache, feature = tiny_cache, tiny_cache.train.features.permute(0, 3, 1, 2).contiguous()
    if pooling == "mean":  # as of a residual network: the targets are the pooled feature and the logits
        last = torch.randn(6, feature.shape[1], generator=torch.Generator().manual_seed(0)), torch.ones(6)
        pooled = feature.mean((2, 3))
        split = cache.train._replace(targets=[pooled, pooled @ last[0].T + last[1]])
        meta = cache.meta | {"target_relu": [True, False]}
        pool = torch.nn.AdaptiveAvgPool2d(1)
        cache = dataclasses.replace(cache, train=split, meta=meta, pool=pool, decoder_layers=["identity", last])
    model = Explainer(tiny.explainer, performer_shape(cache), cache.pool, [0])
    model.train()(feature)  # the norms take all images' peaks
    outputs = model.eval()(feature).outputs
    for output, target in zip(outputs, cache.train.targets, strict=True):
        assert torch.allclose(output[0], target, atol=1e-3 * float(target.max()))


def test_saved_explainer_loads_back(tmp_path) -> None:
    model = explainer([1, 2], interp_widths=[4, 6], mask="peak").eval()
    save_explainer(model, tmp_path, {"metrics": {"p": 0.5}})
    loaded, feature = load_explainer(tmp_path), torch.rand(2, 12, 4, 4)
    assert torch.equal(loaded(feature).outputs[1], model(feature).outputs[1])
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    (tmp_path / "explainer.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"explainer\.safetensors: is damaged"):
        load_explainer(tmp_path)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_explainer(tmp_path / "elsewhere")
