"""Figure 4 of the paper: Grad-CAM of a prediction's filters, grouped by the part they sit on, and each part's share of it.

Explainer and performer are asked about the same category: the one that the performer gives.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paraphrase.core.data.records import Record, crop
from paraphrase.core.errors import InputError
from paraphrase.core.features.build import cache_key
from paraphrase.core.measure.attribution import (
    NO_PART,
    OTHERS,
    SIDES,
    Average,
    Groups,
    Subject,
    average,
    contributions,
    grad_cam,
    shares,
)
from paraphrase.core.performer import obtain_performer
from paraphrase.core.pictures.drawing import pyplot, save
from paraphrase.core.pictures.filters_page import overlay

IMAGES, PARTS = 3, 6
"""Test images of a category on its page, the first ones of the split; groups with a heat map, those of the largest shares."""
ROW = 2.75
"""Height of an image's row, in heat maps."""


class Explained(NamedTuple):
    """Predictions for B images, and what each group of filters had to do with them."""

    images: list[Any]
    """PIL images of the crops."""
    labels: Tensor
    """(B,) int64 category that the performer gives."""
    groups: dict[str, Groups]
    """Side -> groups of the filters."""
    maps: dict[str, Tensor]
    """Side -> (B, 1 + G, n, n) attributions above 0: of all filters together, and of each group's."""
    shares: dict[str, Tensor]
    """Side -> (B, G)."""
    probabilities: dict[str, Tensor]
    """Side -> (B, K) of the categories."""


class Averages(NamedTuple):
    """The test split, explained."""

    groups: dict[str, Groups]
    """Side -> groups of the filters."""
    by_category: dict[int, dict[str, Average]]
    """Category -> side -> shares over its test images; in the single-category protocol that category alone."""


def explain_image(subject: Subject, record: Record) -> Explained:
    """Explain what the performer says of one picture.

    Args:
        subject: the explainer.
        record: whose box lies inside its image, as `paraphrase.core.data.checks.check_record` sees to.

    Raises:
        InputError: if the performer is no longer the one that the explainer was trained on.
    """
    meta = subject.cache.meta
    performer, _ = obtain_performer(subject.config, subject.dataset)
    if cache_key(subject.dataset, performer, subject.config.cache.dtype, subject.config.cache.mirror) != meta["key"]:
        raise InputError(f"performer: is not that of the cache {meta['key']}, which the explainer was trained on")
    image = crop(record, meta["input_size"])[0]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    seen = performer.features(pixels)
    return _explain(subject, [image], seen.feature, seen.logits.argmax(1))


def _explain(
    subject: Subject, images: list[Any], feature: Tensor, said: Tensor, groups: dict[str, Groups] | None = None
) -> Explained:
    """Explain the categories `said` (B,), given the performer's feature (B, C, n, n)."""
    explained = Explained(images, said, dict(groups or {}), {}, {}, {})
    for side, path in subject.paths.items():
        attributions = grad_cam(path, feature, said)
        given, positive = attributions.sum((2, 3)), attributions.clamp(min=0)
        own = explained.groups.setdefault(side, subject.group(side, given))
        explained.maps[side] = torch.cat([positive.sum(1, keepdim=True), own.sums(positive)], 1)
        explained.shares[side] = shares(given, own)
        with torch.no_grad():
            explained.probabilities[side] = path(feature).softmax(1)
    return explained


def explain_test(subject: Subject) -> Averages:
    """Shares of the performer's predictions, averaged over each category's test images."""
    split, meta = subject.cache.test, subject.cache.meta
    categories = [1] if meta["single_category"] else range(len(meta["categories"]))
    groups, values = {}, {}
    for side, path in subject.paths.items():
        given = contributions(path, split.features, split.performer_labels)
        groups[side] = subject.group(side, given)
        values[side] = shares(given, groups[side])
    means = {c: {side: average(v[split.labels == c]) for side, v in values.items()} for c in categories}
    return Averages(groups, means)


def draw_image(subject: Subject, explained: Explained, out: Path) -> Path:
    """Draw the page of one picture to a PNG file."""
    name = subject.cache.meta["categories"][int(explained.labels)]
    return _draw_page(
        subject, explained, {s: average(v) for s, v in explained.shares.items()}, f"shares of the answer {name}", out
    )


def draw_category(subject: Subject, averages: Averages, category: int, out: Path) -> Path:
    """Draw a category's page to a PNG file: its first test images, and its mean shares with their standard errors."""
    split, meta = subject.cache.test, subject.cache.meta
    chosen = (split.labels == category).nonzero().squeeze(1)[:IMAGES]
    images = [crop(subject.dataset.test[i], meta["input_size"])[0] for i in chosen.tolist()]
    feature = split.features[chosen].permute(0, 3, 1, 2).float()
    explained = _explain(subject, images, feature, split.performer_labels[chosen], averages.groups)
    means = averages.by_category[category]
    title = f"shares of the answer, mean of the {means['explainer'].images} test images of {meta['categories'][category]}"
    return _draw_page(subject, explained, means, title, out)


def _draw_page(subject: Subject, explained: Explained, means: dict[str, Average], title: str, out: Path) -> Path:
    """Each image with the heat maps of both sides' groups; beneath them bars of the shares."""
    columns = _columns(explained.groups, means)
    across, height = 3.5 + 1.04 * max(len(c) for c in columns.values()), ROW * len(explained.images)
    size = (1.25 * max(across, 7), 1.25 * height + 2.6)
    figure, (tiles, bars) = pyplot().subplots(2, 1, figsize=size, height_ratios=[size[1] - 2.6, 2.6], layout="constrained")
    colours = _colours(explained.groups)
    for i in range(len(explained.images)):
        _draw_row(tiles, i, explained, columns, colours, subject.cache.meta)
    tiles.set_xlim(0, max(across, 7))  # after the images, which set limits of their own
    tiles.set_ylim(height, 0)
    tiles.set_axis_off()
    _draw_bars(bars, title, explained.groups, means, colours)
    return _save(figure, out)


def draw_overview(subject: Subject, averages: Averages, out: Path) -> Path:
    """Draw the mean shares of every category, one bar a side, to a PNG file."""
    from matplotlib.colors import to_rgb

    colours, found = _colours(averages.groups), averages.by_category
    figure, axis = pyplot().subplots(figsize=(9, 1.4 + 0.62 * len(found)), layout="constrained")
    for row, means in enumerate(found.values()):
        for side, y in zip(SIDES, (row - 0.19, row + 0.19), strict=True):
            left = 0.0
            for name, value in zip(averages.groups[side].names, means[side].mean.nan_to_num().tolist(), strict=True):
                axis.barh(y, value, 0.34, left, color=colours[name], edgecolor="white", linewidth=0.6)
                if value >= 0.04:
                    ink = "white" if sum(to_rgb(colours[name])) < 1.8 else "black"
                    axis.text(left + value / 2, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
                left += value
            axis.text(1.008, y, side, va="center", fontsize=8)
    axis.set_yticks(range(len(found)), [subject.cache.meta["categories"][c] for c in found], parse_math=False)
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of the performer's answer, mean over the category's test images")
    axis.spines[["top", "right"]].set_visible(False)
    handles = [pyplot().Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend(handles, list(colours), loc="outside upper center", ncols=min(len(colours), 6), frameon=False)
    return _save(figure, out)


def _save(figure: Any, out: Path) -> Path:
    try:
        return save(figure, out)
    except OSError as error:
        raise InputError(f"--out {out.parent}: {out.name} cannot be written there ({error.strerror})") from None


def all_names(groups: dict[str, Groups]) -> list[str]:
    """Names of both sides' groups, each once; that of the rest last."""
    names = dict.fromkeys(name for side in SIDES for name in groups[side].names)
    return sorted(names, key=lambda name: name in (NO_PART, OTHERS))


def _colours(groups: dict[str, Groups]) -> dict[str, Any]:
    """Group -> colour, the same on every page of an explainer; grey for the rest."""
    from matplotlib import colormaps

    names = all_names(groups)
    palette: Any = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: "0.5" if name in (NO_PART, OTHERS) else palette(i % palette.N) for i, name in enumerate(names)}


def _columns(groups: dict[str, Groups], means: dict[str, Average]) -> dict[str, list[int]]:
    """Side -> the groups that get a heat map, by their larger share of both sides, so that a part's maps lie in one column."""
    largest: dict[str, float] = {}
    for side in SIDES:
        for name, value in zip(groups[side].names, means[side].mean.nan_to_num().tolist(), strict=True):
            largest[name] = max(largest.get(name, 0.0), value)
    best = {side: sorted(groups[side].names, key=lambda name: -largest[name])[:PARTS] for side in SIDES}
    return {side: [i for i, name in enumerate(groups[side].names) if name in best[side]] for side in SIDES}


def _draw_row(
    axis: Any, row: int, explained: Explained, columns: dict[str, list[int]], colours: dict[str, Any], meta: dict[str, Any]
) -> None:
    """One image: its crop, and beside it a line of heat maps for each side, each map on a scale of its own."""
    image = explained.images[row]
    grey = image.convert("L").convert("RGB")  # on which the heat's colour stands out

    def tile(picture: Any, x: float, y: float, side: float, text: str, colour: Any = None) -> None:
        axis.imshow(picture, extent=(x, x + side, y + side, y), interpolation="bilinear")
        axis.text(x + side / 2, y + side + 0.06, text, ha="center", va="top", fontsize=8 if side == 1 else 9, parse_math=False)
        if colour:
            axis.plot([x, x + side], [y + side + 0.02] * 2, color=colour, linewidth=3, solid_capstyle="butt")

    said = [f"{side}: {_answer(explained.probabilities[side][row], meta)}" for side in reversed(SIDES)]
    tile(image, 0, ROW * row, 2.2, "\n".join(said))
    for line, side in enumerate(SIDES):
        y = ROW * row + 1.3 * line
        maps, names = explained.maps[side][row], explained.groups[side].names
        heat = (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()
        tile(overlay(grey, heat[0], meta, 128), 2.4, y, 1, f"{side}: all")
        for column, g in enumerate(columns[side]):
            text = f"{names[g]} {float(explained.shares[side][row, g]):.2f}"
            tile(overlay(grey, heat[g + 1], meta, 128), 3.44 + 1.04 * column, y, 1, text, colours[names[g]])


def _answer(probabilities: Tensor, meta: dict[str, Any]) -> str:
    best = int(probabilities.argmax())
    return f"{meta['categories'][best]} {float(probabilities[best]):.2f}"


def _draw_bars(axis: Any, title: str, groups: dict[str, Groups], means: dict[str, Average], colours: dict[str, Any]) -> None:
    """Both sides' shares of each group, with standard errors where there are any."""
    from matplotlib.patches import Patch

    place = {name: i for i, name in enumerate(colours)}
    looks: list[dict[str, Any]] = [{}, {"hatch": "////", "edgecolor": "white"}]
    for side, shift, look in zip(SIDES, (-0.2, 0.2), looks, strict=True):
        mean, error = means[side].mean.nan_to_num().tolist(), means[side].error.tolist()
        for name, value, spread in zip(groups[side].names, mean, error, strict=True):
            x = place[name] + shift
            axis.bar(x, value, 0.36, color=colours[name], linewidth=0, **look)
            if not math.isnan(spread):
                axis.errorbar(x, value, spread, color="black", capsize=2, linewidth=1)
            top = value if math.isnan(spread) else value + spread
            axis.text(x, top + 0.03, f"{value:.2f}", ha="center", fontsize=8)
    slant = {"rotation": 25, "ha": "right"} if len(place) > 8 else {}
    axis.set_xticks(range(len(place)), list(place), parse_math=False, **slant)
    axis.set_ylim(0, 1.12)
    axis.set_ylabel("share")
    axis.set_title(title, fontsize=10, loc="left", parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(facecolor="0.4", label=side, **look) for side, look in zip(SIDES, looks, strict=True)]
    axis.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0)
