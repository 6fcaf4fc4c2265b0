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

from paraphrase.core.data.records import Record, crop, cut, opened, to_rgb
from paraphrase.core.errors import InputError
from paraphrase.core.features.build import cache_key
from paraphrase.core.features.cache import FeatureCache
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
from paraphrase.core.measure.faithfulness import Faithfulness, faithfulness
from paraphrase.core.measure.filter_table import WEIGHED
from paraphrase.core.performer import obtain_performer
from paraphrase.core.pictures.drawing import pyplot, save
from paraphrase.core.pictures.filters_page import overlay

IMAGES, PARTS = 3, 6
"""Test images of a category on its page, the first ones of the split; groups with a heat map, those of the largest shares."""
ROW = 2.75
"""Height of an image's row, in heat maps."""
PIXELS, LARGE = 160, 480
"""Longer side of a heat map and of the picture beside them."""
NOTHING = 0.005
"""Share below which a group is not shown: it would stand there as 0.00."""
LOOKS, LOOK = 4, 0.35
"""Places shown of a group that has no name, those that fire it most; their side, as a share of the crop's."""


class Explained(NamedTuple):
    """Predictions for B images, and what each group of filters had to do with them."""

    images: list[Any]
    """PIL images of the objects, as the picture has them."""
    pictures: list[Any]
    """PIL images to show beside their heat maps: the same, or the whole picture."""
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
    faithful: dict[str, Faithfulness]
    """Side -> what is left of the answers when groups are taken away, over some test images."""


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
    pixels = (
        torch.from_numpy(np.array(crop(record, meta["input_size"], performer.spec.interpolation)[0]))
        .permute(2, 0, 1)[None]
        .float()
        / 255
    )
    seen = performer.features(pixels)
    return _explain(subject, [cut(record, LARGE)], [_whole(record)], seen.feature, seen.logits.argmax(1))


def _whole(record: Record) -> Any:
    """The picture as it was given, with a frame around the box where that is not all of it."""
    from PIL import ImageDraw

    with opened(record) as file:
        picture = to_rgb(file).copy()  # an RGB file is itself, and closed below
    x, y, w, h = record.box
    scale = min(1.0, 2 * LARGE / max(picture.size))
    inside = (x, y, x + w - 1, y + h - 1)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
    if w * h < 0.98 * picture.width * picture.height / scale**2:
        pen = ImageDraw.Draw(picture)
        frame = [edge * scale for edge in inside]
        pen.rectangle(frame, outline=(13, 13, 13), width=7)
        pen.rectangle([frame[0] + 2, frame[1] + 2, frame[2] - 2, frame[3] - 2], outline=(255, 242, 51), width=3)
    return picture


def _explain(
    subject: Subject,
    images: list[Any],
    pictures: list[Any],
    feature: Tensor,
    said: Tensor,
    groups: dict[str, Groups] | None = None,
) -> Explained:
    """Explain the categories `said` (B,), given the performer's feature (B, C, n, n)."""
    explained = Explained(images, pictures, said, dict(groups or {}), {}, {}, {})
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
    """Shares of the performer's predictions, averaged over each category's test images, and whether they are faithful."""
    split, meta = subject.cache.test, subject.cache.meta
    categories = [1] if meta["single_category"] else range(len(meta["categories"]))
    groups, values, faithful = {}, {}, {}
    some = torch.linspace(0, len(split.labels) - 1, min(WEIGHED, len(split.labels))).long()
    for side, path in subject.paths.items():
        given = contributions(path, split.features, split.performer_labels)
        groups[side] = subject.group(side, given)
        values[side] = shares(given, groups[side])
        about = split.features[some], split.performer_labels[some], groups[side], values[side][some]
        faithful[side] = faithfulness(path, *about)
    means = {c: {side: average(v[split.labels == c]) for side, v in values.items()} for c in categories}
    return Averages(groups, means, faithful)


def draw_image(subject: Subject, explained: Explained, out: Path) -> Path:
    """Draw the page of one picture to a PNG file."""
    name = subject.cache.class_name(int(explained.labels))
    return _draw_page(
        subject, explained, {s: average(v) for s, v in explained.shares.items()}, f"shares of the answer {name}", out
    )


def draw_category(subject: Subject, averages: Averages, category: int, out: Path) -> Path:
    """Draw a category's page to a PNG file: its first test images, and its mean shares with their standard errors."""
    split, meta = subject.cache.test, subject.cache.meta
    chosen = (split.labels == category).nonzero().squeeze(1)[:IMAGES]
    images = [cut(subject.dataset.test[i], LARGE) for i in chosen.tolist()]
    feature = split.features[chosen].permute(0, 3, 1, 2).float()
    explained = _explain(subject, images, images, feature, split.performer_labels[chosen], averages.groups)
    means = averages.by_category[category]
    title = f"shares of the answer, mean of the {means['explainer'].images} test images of {meta['categories'][category]}"
    return _draw_page(subject, explained, means, title, out)


def _draw_page(subject: Subject, explained: Explained, means: dict[str, Average], title: str, out: Path) -> Path:
    """Each image with the heat maps of both sides' groups; beneath them bars of the shares, and what nameless groups see."""
    names = names_by_share(explained.groups, means)
    columns = names[:PARTS]
    across, height = max(3.5 + 1.04 * len(columns), 7), ROW * len(explained.images)
    unnamed = [] if subject.parts else [name for name in names if name != OTHERS]
    below = 0.3 + 1.15 * math.ceil(len(unnamed) / 2) if unnamed else 0.0
    heights = [1.25 * height, 2.6, below]
    figure, axes = pyplot().subplots(
        3 if unnamed else 2,
        1,
        figsize=(1.25 * across, sum(heights)),
        height_ratios=heights if unnamed else heights[:2],
        layout="constrained",
    )
    colours = _colours(explained.groups)
    for i in range(len(explained.images)):
        _draw_row(axes[0], i, explained, columns, colours, subject.cache)
    axes[0].set_xlim(0, across)  # after the images, which set limits of their own
    axes[0].set_ylim(height, 0)
    axes[0].set_axis_off()
    _draw_bars(axes[1], title, explained.groups, means, {name: colours[name] for name in names})
    if unnamed:
        _draw_looks(axes[2], subject, explained.groups, unnamed, colours)
    return _save(figure, out)


def draw_overview(subject: Subject, averages: Averages, out: Path) -> Path:
    """Draw the mean shares of every category, one bar a side, to a PNG file."""
    from matplotlib.colors import to_rgb

    found = averages.by_category
    shown = {name for means in found.values() for name in names_by_share(averages.groups, means)}
    colours = {name: colour for name, colour in _colours(averages.groups).items() if name in shown}
    figure, axis = pyplot().subplots(figsize=(9, 1.4 + 0.62 * len(found)), layout="constrained")
    for row, means in enumerate(found.values()):
        for side, y in zip(SIDES, (row - 0.19, row + 0.19), strict=True):
            left = 0.0
            for name, value in zip(averages.groups[side].names, means[side].mean.nan_to_num().tolist(), strict=True):
                if name not in shown:
                    continue
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


def draw_faithfulness(averages: Averages, out: Path) -> Path:
    """Draw what is left of the answers when parts are taken away, and what each takes alone, beside random filters, to a PNG."""
    colours = {"explainer": "#d1495b", "performer": "#30638e"}
    figure, (curve, bars) = pyplot().subplots(1, 2, figsize=(11, 4), layout="constrained")
    for side, found in averages.faithful.items():
        steps = range(len(found.parts))
        curve.plot(steps, found.parts, "o-", color=colours[side], label=f"{side}: parts, largest share first")
        curve.plot(steps, found.control, "o:", color=colours[side], alpha=0.7, label=f"{side}: as many random filters")
    curve.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    curve.set(xlabel="groups of filters taken away", ylabel="what is left of the answer's logit", ylim=(None, 1.05))
    curve.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*curve.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    found, names = averages.faithful["explainer"], averages.groups["explainer"].names
    places = np.arange(len(names))
    bars.bar(places - 0.2, found.alone, 0.36, color=colours["explainer"], label="the group's filters")
    bars.bar(places + 0.2, found.alone_control, 0.36, color="0.65", label="as many random filters")
    slant = {"rotation": 25, "ha": "right"} if len(names) > 5 else {}
    bars.set_xticks(places, names, parse_math=False, **slant)
    bars.set(ylabel="share of the logit that goes with it", title="explainer, each group alone")
    bars.legend(fontsize=8, frameon=False)
    for axis in (curve, bars):
        axis.spines[["top", "right"]].set_visible(False)
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
    given: Any = colormaps["tab10" if len(names) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    palette = [colour for colour in given if max(colour) - min(colour) > 0.1]  # without its own grey
    return {name: "0.5" if name in (NO_PART, OTHERS) else palette[i % len(palette)] for i, name in enumerate(names)}


def names_by_share(groups: dict[str, Groups], means: dict[str, Average]) -> list[str]:
    """Names of both sides' groups in the order of their larger share; the rest last, and none whose share is nothing."""
    largest: dict[str, float] = {}
    for side in SIDES:
        for name, value in zip(groups[side].names, means[side].mean.nan_to_num().tolist(), strict=True):
            largest[name] = max(largest.get(name, 0.0), value)
    names = [name for name in all_names(groups) if largest[name] >= NOTHING]
    return sorted(names, key=lambda name: (name in (NO_PART, OTHERS), -largest[name]))


def _draw_row(
    axis: Any, row: int, explained: Explained, columns: list[str], colours: dict[str, Any], cache: FeatureCache
) -> None:
    """One image: the picture, and beside it a line of heat maps for each side, each map on a scale of its own."""
    said = [f"{side}: {_answer(explained.probabilities[side][row], cache)}" for side in reversed(SIDES)]
    _tile(axis, np.asarray(explained.pictures[row]), 0, ROW * row, 2.2, "\n".join(said))
    image = explained.images[row]
    pixels = tuple(max(1, round(PIXELS * side / max(image.size))) for side in image.size)
    for line, side in enumerate(SIDES):
        y = ROW * row + 1.3 * line
        maps, names = explained.maps[side][row], explained.groups[side].names
        heat = (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()
        _tile(axis, overlay(image, heat[0], cache.meta, pixels), 2.4, y, 1, f"{side}: all")
        for column, name in enumerate(columns):
            if name not in names or not (share := float(explained.shares[side][row, g := names.index(name)])) >= NOTHING:
                continue
            text = f"{name} {share:.2f}"
            _tile(axis, overlay(image, heat[g + 1], cache.meta, pixels), 3.44 + 1.04 * column, y, 1, text, colours[name])


def _tile(axis: Any, picture: Any, x: float, y: float, side: float, text: str, colour: Any = None) -> None:
    """A picture, its aspect ratio kept, in the middle of a square at x, y; a text below it, and a line of its colour."""
    height, width = (s / max(picture.shape[:2]) * side for s in picture.shape[:2])
    left, top = x + (side - width) / 2, y + (side - height) / 2
    axis.imshow(picture, extent=(left, left + width, top + height, top), interpolation="bilinear")
    axis.text(x + side / 2, y + side + 0.06, text, ha="center", va="top", fontsize=8 if side <= 1 else 9, parse_math=False)
    if colour:
        axis.plot([x, x + side], [y + side + 0.02] * 2, color=colour, linewidth=3, solid_capstyle="butt")


def _draw_looks(axis: Any, subject: Subject, groups: dict[str, Groups], names: list[str], colours: dict[str, Any]) -> None:
    """What groups without a name see: the places in test images that fire the first filter of each most."""
    rows = math.ceil(len(names) / 2)
    for i, name in enumerate(names):
        side = next(s for s in SIDES if name in groups[s].names)
        member, index = groups[side].member, groups[side].names.index(name)
        f = next(alike[0] for alike in subject.seen[side].alike if member[alike[0]] == index)
        x, y = (i % 2) * (LOOKS + 0.6), (i // 2) * 1.35
        peaks = subject.seen[side].peaks
        for k, image in enumerate(peaks.values[:, f].argsort(descending=True, stable=True)[:LOOKS].tolist()):
            place = _place(subject, image, peaks.positions[image, f].tolist())
            axis.imshow(place, extent=(x + k * 1.03, x + k * 1.03 + 1, y + 1, y), interpolation="bilinear")
        axis.plot([x, x + LOOKS * 1.03 - 0.03], [y + 1.03] * 2, color=colours[name], linewidth=3, solid_capstyle="butt")
        axis.text(x, y + 1.07, f"{name}, where it fires most", ha="left", va="top", fontsize=8, parse_math=False)
    axis.set_xlim(-0.1, 2 * (LOOKS + 0.6) - 0.4)
    axis.set_ylim(rows * 1.35, -0.05)
    axis.set_aspect("equal")
    axis.set_axis_off()


def _place(subject: Subject, image: int, peak: list[float]) -> Any:
    """The part of a test image around a peak (x, y in pixels of the crop), in the aspect ratio of the picture."""
    whole = cut(subject.dataset.test[image], LARGE)
    u, v = (p / subject.cache.meta["input_size"] for p in peak)
    side = LOOK * min(whole.size)
    left = min(max(u * whole.width - side / 2, 0), whole.width - side)
    top = min(max(v * whole.height - side / 2, 0), whole.height - side)
    return whole.resize((PIXELS, PIXELS), box=(left, top, left + side, top + side))


def _answer(probabilities: Tensor, cache: FeatureCache) -> str:
    best = int(probabilities.argmax())
    return f"{cache.class_name(best)} {float(probabilities[best]):.2f}"


def _draw_bars(axis: Any, title: str, groups: dict[str, Groups], means: dict[str, Average], colours: dict[str, Any]) -> None:
    """Both sides' shares of each group, with standard errors where there are any."""
    from matplotlib.patches import Patch

    place = {name: i for i, name in enumerate(colours)}
    looks: list[dict[str, Any]] = [{}, {"hatch": "////", "edgecolor": "white"}]
    for side, shift, look in zip(SIDES, (-0.2, 0.2), looks, strict=True):
        mean, error = means[side].mean.nan_to_num().tolist(), means[side].error.tolist()
        for name, value, spread in zip(groups[side].names, mean, error, strict=True):
            if name not in place or value < NOTHING:
                continue
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
