"""Ablations as data: each is a named difference from a base configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from paraphrase.core.config import Config, flatten, from_mapping, set_path, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.objective.terms import TERMS, Term

BASE = "base"
"""Name of the arm that takes nothing away."""

Changes = dict[str, Any]
"""Path of a configuration field -> its value in the arm."""


class Ablation(NamedTuple):
    """One ingredient taken away or exchanged."""

    title: str
    """In words, for tables."""
    changes: Callable[[Config, int], Changes]
    """(base, channels of the performer's feature) -> what differs; empty where the base has nothing to take away."""


def _widths(config: Config, channels: int) -> list[int]:
    return [w or channels for w in config.explainer.interp_widths]


def _scaled(config: Config, channels: int, factor: float) -> Changes:
    changes: Changes = {"explainer.interp_widths": [max(1, int(w * factor)) for w in _widths(config, channels)]}
    if config.explainer.ordin_width is not None:
        changes["explainer.ordin_width"] = max(1, int((config.explainer.ordin_width or channels) * factor))
    return changes


def _no_interpretable_track(config: Config, channels: int) -> Changes:
    if not config.explainer.interp_widths:
        return {}
    return {"explainer.interp_widths": [], "explainer.ordin_width": config.explainer.ordin_width or 0}


def _mean_mask(config: Config, channels: int) -> Changes:
    return {"explainer.mask": "mean"} if config.explainer.mask == "peak" else {}


def _masked_filter_loss(config: Config, channels: int) -> Changes:
    return {} if config.explainer.mask == "none" or not config.loss.lambda_f else {"loss.filter_maps": "masked"}


def _category_filter_loss(config: Config, channels: int) -> Changes:
    return {"loss.filter_loss": "category"} if config.loss.lambda_f else {}


def _without(term: Term) -> Callable[[Config, int], Changes]:
    """A term of the objective taken away by its weight."""

    def changes(config: Config, channels: int) -> Changes:
        tracks = bool(config.explainer.interp_widths) + (config.explainer.ordin_width is not None)
        return {f"loss.{term.weight}": 0.0} if tracks >= term.tracks else {}

    return changes


def _neither(config: Config, channels: int) -> Changes:
    return {"loss.lambda_f": 0.0, "explainer.mask": "none"}


ABLATIONS: dict[str, Ablation] = {
    "no_ordinary_track": Ablation("no ordinary track", lambda c, n: {"explainer.ordin_width": None}),
    "no_interpretable_track": Ablation("no interpretable track", _no_interpretable_track),
    **{term.ablation: Ablation(term.ablation.replace("_", " "), _without(term)) for term in TERMS if term.ablation},
    "no_masks": Ablation("no masks", lambda c, n: {"explainer.mask": "none"}),
    "neither": Ablation("neither masks nor filter loss", _neither),
    "no_norm": Ablation("no norm layers", lambda c, n: {"explainer.norm": False}),
    "one_interpretable_layer": Ablation(
        "one interpretable conv-layer", lambda c, n: {"explainer.interp_widths": c.explainer.interp_widths[-1:]}
    ),
    "mean_mask": Ablation("mean instead of peak mask centre", _mean_mask),
    "category_filter_loss": Ablation("category-assigned filter loss", _category_filter_loss),
    "random_decoder": Ablation("decoder not from the performer", lambda c, n: {"explainer.decoder_init": "kaiming"}),
    "half_widths": Ablation("half track widths", lambda c, n: _scaled(c, n, 0.5)),
    "double_widths": Ablation("double track widths", lambda c, n: _scaled(c, n, 2.0)),
    "masked_filter_loss": Ablation("filter loss behind the masks", _masked_filter_loss),
    "with_masks": Ablation("with peak masks", lambda c, n: {"explainer.mask": "peak"}),
}
"""Name -> ablation, in the order of tables."""


def check_names(names: Sequence[str]) -> None:
    """Raises InputError on a name that is no ablation's and not `base`."""
    for name in names:
        if name not in ABLATIONS and name != BASE:
            raise InputError(f"--ablations {name}: unknown ablation; allowed are {', '.join([BASE, *ABLATIONS])}")


def arms(base: Config, channels: Sequence[int], names: Sequence[str]) -> tuple[dict[str, Changes], list[str]]:
    """The arms of a suite, the base first.

    Args:
        base: the configuration that they differ from.
        channels: of each performer's feature.
        names: of `ABLATIONS`; empty: all of them; `base`: the base alone.

    Returns:
        Arm -> its changes, and the ablations that would change nothing in this base and are left out.

    Raises:
        InputError: on an unknown name, where no arm remains, or where performers would need different changes.
    """
    check_names(names)
    chosen: dict[str, Changes] = {BASE: {}}
    idle: list[str] = []
    seen = [flatten(_resolved_widths(base, channels[0]))]
    for name in [n for n in names if n != BASE] or (() if names else ABLATIONS):
        changes = ABLATIONS[name].changes(base, channels[0])
        if any(ABLATIONS[name].changes(base, c) != changes for c in channels):
            raise InputError(
                f"--ablations {name}: the performers' features differ in channels; give the base explainer.interp_widths "
                "and explainer.ordin_width in numbers, or name other ablations"
            )
        mapping = to_mapping(base)
        for path, value in changes.items():
            set_path(mapping, path, value)
        result = flatten(_resolved_widths(from_mapping(Config, mapping), channels[0]))
        if result in seen:
            idle.append(name)
        else:
            chosen[name] = changes
            seen.append(result)
    if len(chosen) == 1 and idle:
        raise InputError(f"--ablations: {', '.join(idle)} would change nothing in this base")
    return chosen, idle


def _resolved_widths(config: Config, channels: int) -> dict[str, Any]:
    """The configuration with track widths in numbers, so that equal arms look equal."""
    mapping = to_mapping(config)
    mapping["explainer"]["interp_widths"] = _widths(config, channels)
    if config.explainer.ordin_width == 0:
        mapping["explainer"]["ordin_width"] = channels
    return mapping
