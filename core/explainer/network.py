"""The explainer: an interpretable and an ordinary track over the performer's feature, mixed by p, and a decoder.

R replicates are one batched model: their channels lie side by side, their convolutions are groups of one convolution and
their linear layers one batched product. With R = 1 these are the plain operations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paraphrase.core.config import ExplainerConfig
from paraphrase.core.objective.losses import mask_maps
from paraphrase.core.rest import Rest

IDENTITY_NOISE = 0.1
"""Share of a random initialisation that is added to an identity start, so that equal channels can part ways."""


class PerformerShape(NamedTuple):
    """What an explainer must know of its performer."""

    channels: int
    """C of the feature."""
    pooled: int
    """m: side of the pooled map."""
    target_sizes: tuple[int, int]
    """D1, D2: sizes of the target layers."""
    target_relu: tuple[bool, bool]
    """Whether a target layer ends in a ReLU, and so fc-dec does."""
    channel_peaks: Tensor
    """(C,) float32: mean over training images of each channel's largest value behind the pooling, which `Norm` divides by."""
    decoder_layers: list
    """Per target (weight, bias) of the performer's own layer, `identity`, or None."""
    rest: Rest | None = None
    """The performer's layers from the feature to the targets: the decoder then rebuilds the feature, and they do the rest."""


class Explanation(NamedTuple):
    """What an explainer makes of a batch."""

    outputs: tuple[Tensor, Tensor]
    """x_1, x_2: reconstructed targets, each (R, B, D_l)."""
    unmasked_maps: list[Tensor]
    """Maps of the interpretable conv-layers after ReLU, before the mask, each (B, R * W, n, n)."""
    interp_maps: list[Tensor]
    """The same after the mask."""
    ordin_maps: Tensor | None
    """Maps of conv-ordin after ReLU, (B, R * Wo, n, n)."""


class Norm(nn.Module):
    """Divides each channel by alpha_c, a running mean over images of its largest activation [P].

    Largest in magnitude, since behind the 1x1 convolution of the ordinary track a channel can be negative everywhere.
    alpha_c is a buffer: updated by each training batch, fixed in evaluation; no gradient passes through it. A channel that falls
    silent in training would divide one stray activation of a test image by almost nothing: so alpha_c counts as at least
    `FLOOR` of its layer's mean.
    """

    alpha: Tensor

    FLOOR = 0.01

    def __init__(self, channels: int, momentum: float, replicates: int = 1):
        super().__init__()
        self.momentum, self.replicates = momentum, replicates
        self.register_buffer("alpha", torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                peak = maps.abs().amax((2, 3)).float().mean(0)
                # a channel that has no estimate yet takes the batch's
                weight = torch.where(self.alpha > 0, self.momentum, 1.0)
                self.alpha.lerp_(peak, weight)
        by_replicate = self.alpha.unflatten(0, (self.replicates, -1))
        return maps / self.divisor(by_replicate).flatten()[:, None, None].to(maps.dtype)

    @classmethod
    def divisor(cls, alpha: Tensor) -> Tensor:
        """What channels with these mean peaks (..., C) are divided by."""
        return torch.maximum(alpha, (cls.FLOOR * alpha.mean(-1, keepdim=True)).clamp(min=1e-6))


class Explainer(nn.Module):
    """R replicates of an explainer network [P, fig. 2].

    Args:
        config: tracks, masks, norm and initialisation.
        shape: of the performer.
        pool: the performer's own last pooling.
        seeds: one for each replicate's initialisation; R is their number.
    """

    rest: Rest | None

    def __init__(self, config: ExplainerConfig, shape: PerformerShape, pool: nn.Module, seeds: list[int]):
        super().__init__()
        self.config, self.shape, self.pool, self.rest = config, shape, pool, shape.rest
        self.replicates = len(seeds)
        self.interp_widths = [w or shape.channels for w in config.interp_widths]
        self.ordin_width = None if config.ordin_width is None else config.ordin_width or shape.channels
        self.width = self.interp_widths[-1] if self.interp_widths else int(self.ordin_width or 0)
        if not self.width:
            raise ValueError("an explainer needs an interpretable or an ordinary track")
        drawn = [_draw(config, shape, self.interp_widths, self.ordin_width, seed) for seed in seeds]
        for name in drawn[0]:
            # grouped convolutions take their groups' filters along the first dimension, batched products a new one
            join = torch.cat if name.startswith(("interp", "ordin", "mix")) else torch.stack
            value = join([d[name] for d in drawn])
            if value.dim() == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            self.register_parameter(name, nn.Parameter(value))
        if self.interp_widths and self.ordin_width:
            self.w_p = nn.Parameter(torch.zeros(self.replicates))
        norms = self.replicates * self.width, config.norm_momentum, self.replicates
        self.norm_interp = Norm(*norms) if config.norm and self.interp_widths else nn.Identity()
        self.norm_ordin = Norm(*norms) if config.norm and self.ordin_width else nn.Identity()
        self.top_maps = nn.Identity()  # a named place for attributions: its output is the last interpretable maps

    def replicate(self, r: int) -> Explainer:
        """Replicate r as an explainer of its own."""
        alone = Explainer(self.config, self.shape, self.pool, [0]).to(next(self.parameters()))
        parts = {}
        for name, value in self.state_dict().items():
            stacked = name.startswith("dec") or name == "w_p"  # the others lie side by side along their first dimension
            parts[name] = value[r : r + 1] if stacked else value.chunk(self.replicates)[r]
        alone.load_state_dict(parts)
        return alone.train(self.training)

    def p(self) -> Tensor | None:
        """(R,) the learned share of the interpretable track; None where a track is absent."""
        return torch.sigmoid(self.w_p) if self.interp_widths and self.ordin_width else None

    def _conv(self, maps: Tensor, name: str) -> Tensor:
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2, groups=self.replicates)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        if self.replicates == 1:
            # not weight[0]: its gradient would be written into zeros of the whole size, 2 ms of a step of 20
            return F.linear(x.squeeze(0), weight.squeeze(0), bias.squeeze(0))[None]
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    def interpret(self, feature: Tensor) -> list[Tensor]:
        """Maps of the interpretable conv-layers, each (B, R * W, n, n), for feature (B, R * C, n, n)."""
        return self._interpret(feature)[1]

    def _interpret(self, feature: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of the interpretable conv-layers before and after the masks."""
        maps, before, after = feature, [], []
        for i in range(len(self.interp_widths)):
            before.append(F.relu(self._conv(maps, f"interp{i + 1}")))
            maps = mask_maps(before[-1], self.config.mask, self.config.mask_beta)
            if i == len(self.interp_widths) - 1:
                maps = self.top_maps(maps)
            after.append(maps)
        return before, after

    def encode(self, feature: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """x_enc (B, R * W2, m, m) of feature (B, R * C, n, n), with both tracks' maps."""
        interp_maps = self.interpret(feature)
        x_enc, ordin_maps = self._mix(feature, interp_maps)
        return x_enc, interp_maps, ordin_maps

    def _mix(self, feature: Tensor, interp_maps: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """x_enc of both tracks, and conv-ordin's maps."""
        ordin_maps, ordinary = self.ordinary(feature)
        return self.mixed(self.pool(interp_maps[-1]) if interp_maps else None, ordinary), ordin_maps

    def ordinary(self, feature: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """conv-ordin's maps (B, R * Wo, n, n) and what the ordinary track has to give (B, R * W2, m, m); None without it."""
        if not self.ordin_width:
            return None, None
        maps = F.relu(self._conv(feature, "ordin"))
        mixed = self._conv(maps, "mix") if self.ordin_width != self.width else maps
        return maps, self.norm_ordin(self.pool(mixed))

    def mixed(self, interp: Tensor | None, ordinary: Tensor | None) -> Tensor:
        """x_enc of the interpretable track's last maps, pooled, and what the ordinary track has to give."""
        if interp is None:
            assert ordinary is not None
            return ordinary
        interp = self.norm_interp(interp)
        if ordinary is None:
            return interp
        p = torch.sigmoid(self.w_p).repeat_interleave(self.width)[:, None, None].to(interp.dtype)
        return p * interp + (1 - p) * ordinary

    def forward(self, feature: Tensor) -> Explanation:
        """Explain a batch. feature: (B, R * C, n, n), replicate r's channels at r * C and on; after ReLU."""
        unmasked_maps, interp_maps = self._interpret(feature)
        x_enc, ordin_maps = self._mix(feature, interp_maps)
        return Explanation(self.decode(x_enc), unmasked_maps, interp_maps, ordin_maps)

    def decode(self, x_enc: Tensor) -> tuple[Tensor, Tensor]:
        """x_1 and x_2, each (R, B, D_l), of x_enc (B, R * W2, m, m)."""
        if self.rest is not None:
            return self._decode_through(x_enc, self.rest)
        if x_enc.requires_grad:  # as the maps lie in memory; the decoder's own order takes the pooling twice the time
            x_enc.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        x = x_enc.unflatten(1, (self.replicates, -1)).transpose(0, 1).flatten(2)
        x_1 = self._linear(x, "dec1")
        x_1 = F.relu(x_1) if self.shape.target_relu[0] else x_1
        x_2 = self._linear(x_1, "dec2")
        return x_1, F.relu(x_2) if self.shape.target_relu[1] else x_2

    def _decode_through(self, x_enc: Tensor, rest: Rest) -> tuple[Tensor, Tensor]:
        """The feature rebuilt at each place by a linear layer, and the performer's own layers on it."""
        weight, bias = self.get_parameter("dec1_weight"), self.get_parameter("dec1_bias")
        rebuilt = F.conv2d(x_enc, weight.flatten(0, 1)[..., None, None], bias.flatten(), groups=self.replicates)
        by_replicate = rebuilt.unflatten(1, (self.replicates, -1)).transpose(0, 1).flatten(0, 1)
        x_1, x_2 = (x.unflatten(0, (self.replicates, -1)) for x in rest(by_replicate))
        return x_1, x_2


def _draw(
    config: ExplainerConfig, shape: PerformerShape, interp_widths: list[int], ordin_width: int | None, seed: int
) -> dict[str, Tensor]:
    """One replicate's parameters, from its own generator."""
    generator = torch.Generator().manual_seed(seed)
    width = interp_widths[-1] if interp_widths else int(ordin_width or 0)
    identity = config.encoder_init == "identity"
    chosen = _spread_channels(shape.channels, width, generator)  # the performer's channel behind each channel of x_enc
    drawn: dict[str, Tensor] = {}
    before, source = shape.channels, torch.arange(shape.channels)
    for i, after in enumerate(interp_widths):
        last = i == len(interp_widths) - 1
        wanted = chosen if last else _spread_channels(shape.channels, after, generator)
        drawn |= _conv(f"interp{i + 1}", before, after, 3, _selection(source, wanted) if identity else None, generator)
        before, source = after, wanted
    if ordin_width:
        wanted = chosen if ordin_width == width else _spread_channels(shape.channels, ordin_width, generator)
        own = torch.arange(shape.channels)
        drawn |= _conv("ordin", shape.channels, ordin_width, 3, _selection(own, wanted) if identity else None, generator)
        if ordin_width != width:
            drawn |= _conv("mix", ordin_width, width, 1, _selection(wanted, chosen) if identity else None, generator)
    return drawn | _draw_decoder(config, shape, width, chosen, generator)


def _spread_channels(channels: int, width: int, generator: torch.Generator) -> Tensor:
    """(width,) performer channel behind each filter: all of them in order, a random part, or all and random repeats."""
    if width == channels:
        return torch.arange(channels)
    rounds = [torch.randperm(channels, generator=generator) for _ in range(math.ceil(width / channels))]
    return torch.cat(rounds)[:width]


def _selection(source: Tensor, wanted: Tensor) -> Tensor:
    """(wanted, source) rows that pick, for each wanted performer channel, the mean of the sources that carry it."""
    hit = (wanted[:, None] == source[None, :]).float()
    return hit / hit.sum(1, keepdim=True).clamp(min=1)


def _conv(name: str, before: int, after: int, kernel: int, selection: Tensor | None, generator: torch.Generator) -> dict:
    """A conv-layer's weight (after, before, k, k) and bias, random (Kaiming) or the given selection plus noise."""
    weight = torch.empty(after, before, kernel, kernel)
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    if selection is not None:
        lost = (selection.sum(1) == 0).float()[:, None, None, None]  # nothing to pick: stays random
        weight *= IDENTITY_NOISE + (1 - IDENTITY_NOISE) * lost
        weight[:, :, kernel // 2, kernel // 2] += selection
    return {f"{name}_weight": weight, f"{name}_bias": torch.zeros(after)}


def _draw_decoder(
    config: ExplainerConfig, shape: PerformerShape, width: int, chosen: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """fc-dec-1 and fc-dec-2: random, or the performer's own layers, whose channels follow x_enc's order and scale."""
    cells = shape.pooled**2
    if shape.rest is not None:
        return _draw_rebuilding(config, shape, width, chosen, generator)
    sizes = [(width * cells, shape.target_sizes[0]), shape.target_sizes]
    drawn: dict[str, Tensor] = {}
    for i, (before, after) in enumerate(sizes):
        weight, bias = torch.empty(after, before), torch.zeros(after)
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        own = _performer_layer(shape, i) if config.decoder_init == "performer" else None
        if own is not None and i == 0:
            own = _follow_channels(own, shape, chosen, cells, config)
        if own is not None and own[0].shape == weight.shape:
            weight, bias = own[0].float().clone(), own[1].float().clone()
        drawn |= {f"dec{i + 1}_weight": weight, f"dec{i + 1}_bias": bias}
    return drawn


def _draw_rebuilding(
    config: ExplainerConfig, shape: PerformerShape, width: int, chosen: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """fc-dec at each place of the feature: random, or such that the feature's own channels come back."""
    weight = torch.empty(shape.channels, width)
    nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)
    if config.decoder_init == "performer" and config.encoder_init == "identity":
        peaks = shape.channel_peaks if config.norm else torch.ones(shape.channels)
        weight = IDENTITY_NOISE * weight + _selection(chosen, torch.arange(shape.channels)) * peaks[:, None]
    return {"dec1_weight": weight, "dec1_bias": torch.zeros(shape.channels)}


def _performer_layer(shape: PerformerShape, i: int) -> tuple[Tensor, Tensor] | None:
    layer = shape.decoder_layers[i]
    if layer == "identity":
        size = shape.target_sizes[i]
        return torch.eye(size), torch.zeros(size)
    return layer


def _follow_channels(
    own: tuple[Tensor, Tensor], shape: PerformerShape, chosen: Tensor, cells: int, config: ExplainerConfig
) -> tuple[Tensor, Tensor] | None:
    """The performer's first layer with its channels in the order of x_enc, scaled up by what the norm divides by."""
    weight, bias = own
    if weight.shape[1] != shape.channels * cells or (config.encoder_init != "identity" and len(chosen) != shape.channels):
        return None
    by_channel = weight.float().unflatten(1, (shape.channels, cells))
    if config.norm:
        by_channel = by_channel * shape.channel_peaks[None, :, None]
    copies = torch.bincount(chosen, minlength=shape.channels).clamp(min=1)
    return (by_channel / copies[None, :, None])[:, chosen].flatten(1), bias
