"""A page of filters, after figure 3 of the paper: the test images that fire each filter most, beside the performer's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paraphrase.core.config import Config
from paraphrase.core.data import load_dataset
from paraphrase.core.data.records import Record, crop
from paraphrase.core.device import autocast_for
from paraphrase.core.explainer.checkpoint import ABOUT, load_explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.evaluation import filter_scores, gather, performer_peaks, test_peaks
from paraphrase.core.measure.filters import FilterScores, Peaks
from paraphrase.core.pictures.drawing import pyplot, save

FILTERS, IMAGES = 12, 6
"""Filters on a page, and test images of each."""
SIDE, GAP = 100, 4
"""Pixels of an image on the page, and between two."""
STEP = 1 + GAP / SIDE
"""From one image to the next, in images."""


class Shown(NamedTuple):
    """One filter on the page."""

    title: str
    """Its number, the part it names, its instability."""
    images: list[int]
    """Test images that fire it most, strongest first."""
    peaks: np.ndarray
    """(images, 2) x, y of the peaks in pixels of the crop."""
    maps: np.ndarray
    """(images, n, n) activations."""


class Viewed(NamedTuple):
    """A network's filters on the test split."""

    peaks: Peaks
    """Of all test images."""
    scores: FilterScores | None
    """None where the data has no landmarks."""
    maps: Callable[[Tensor], Tensor]
    """Test images (K,) -> activations (K, F, n, n)."""


def draw_filters(config: Config, cache: FeatureCache, folder: str | Path, out: str | Path) -> Path:
    """Draw the page of a saved explainer (of its first replicate) beside the performer's own filters to a PNG file.

    Args:
        config: names the data set, whose test images are read again.
        cache: of the performer.
        folder: of the explainer.
        out: the PNG file.
    """
    views = {
        "interpretable filters of the explainer": _view_explainer(folder, cache),
        f"filters of the performer ({cache.meta['performer']})": _view_performer(cache),
    }
    sides = {}
    for title, view in views.items():
        filters = _best_filters(view)
        sides[title] = [_show(view, f, _strongest(view.peaks.values[:, f], _candidates(view, f, cache)), cache) for f in filters]
    return _draw(sides, load_dataset(config.data).test, cache.meta, Path(out))


def draw_side_by_side(config: Config, cache: FeatureCache, explainers: Mapping[str, str | Path], out: str | Path) -> Path:
    """Draw the filters of two saved explainers (of their first replicates) on the same test images to a PNG file.

    A row is a filter of the first explainer and the one of the same number in the second, which starts from the same
    channel of the performer where both have the same widths and seed; else their best trackers are paired in order. The
    images are those that fire both most, each on the scale of its own filter.

    Args:
        config: names the data set, whose test images are read again.
        cache: of the performer.
        explainers: title -> folder, for each of the two.
        out: the PNG file.
    """
    left, right = (_view_explainer(folder, cache) for folder in explainers.values())
    seeds = {json.loads((Path(folder) / ABOUT).read_text(encoding="utf-8"))["seeds"][0] for folder in explainers.values()}
    sides = dict(zip(explainers, pair_up(left, right, cache, same_start=len(seeds) == 1), strict=True))
    return _draw(sides, load_dataset(config.data).test, cache.meta, Path(out))


def pair_up(left: Viewed, right: Viewed, cache: FeatureCache, same_start: bool) -> tuple[list[Shown], list[Shown]]:
    """The rows of a side-by-side page: of each pair of filters, what both do on the images that fire both most.

    Args:
        same_start: both began from the same seed, so that equal numbers are of the same origin where widths agree.
    """
    filters = _best_filters(left)
    same = same_start and left.peaks.values.shape == right.peaks.values.shape
    rows: tuple[list[Shown], list[Shown]] = ([], [])
    for f, g in zip(filters, filters if same else _best_filters(right), strict=False):
        strengths = [view.peaks.values[:, i].float() for view, i in ((left, f), (right, g))]
        both = torch.stack([s / s.max().clamp(min=1e-12) for s in strengths]).sum(0)
        images = _strongest(both, _candidates(left, f, cache))
        rows[0].append(_show(left, f, images, cache))
        rows[1].append(_show(right, g, images, cache))
    return rows


def _view_explainer(folder: str | Path, cache: FeatureCache) -> Viewed:
    explainer = load_explainer(folder)
    autocast = autocast_for("float32", torch.device("cpu"))
    width = explainer.width if explainer.interp_widths else int(explainer.ordin_width or 0)
    every = test_peaks(explainer, cache, autocast)
    peaks = Peaks(every.positions[:, :width], every.values[:, :width])

    def maps_of(images: Tensor) -> Tensor:
        feature = gather(cache.test.features, images.expand(explainer.replicates, -1), torch.device("cpu"), autocast)
        _, interp_maps, ordin_maps = explainer.encode(feature)
        maps = interp_maps[-1] if interp_maps else ordin_maps
        assert maps is not None
        return maps[:, :width]

    return Viewed(peaks, filter_scores(cache, peaks), maps_of)


def _view_performer(cache: FeatureCache) -> Viewed:
    peaks = performer_peaks(cache)
    return Viewed(peaks, filter_scores(cache, peaks), lambda images: cache.test.features[images].permute(0, 3, 1, 2).float())


def _best_filters(view: Viewed) -> list[int]:
    """A dozen filters that fire, the best trackers of each part in turn; the strongest where there are no landmarks."""
    scores = view.scores
    if scores is None:
        return view.peaks.values.float().mean(0).argsort(descending=True)[:FILTERS].tolist()
    ranked: dict[int, list[int]] = {}
    for f in scores.tracking.nan_to_num(-1).argsort(descending=True).tolist():
        if not scores.dead[f]:
            ranked.setdefault(int(scores.part[f]), []).append(f)
    queues = [ranked[part] for part in sorted(ranked, key=lambda p: (p < 0, p))]
    turns = [q[i] for i in range(max(map(len, queues), default=0)) for q in queues if i < len(q)]
    return sorted(turns[:FILTERS], key=lambda f: int(scores.part[f]))


def _candidates(view: Viewed, f: int, cache: FeatureCache) -> Tensor:
    """Test images that a filter is judged on: those of its category."""
    if view.scores is None:
        return torch.arange(len(view.peaks.values))
    return (cache.test.labels == view.scores.category[f]).nonzero().squeeze(1)


def _strongest(values: Tensor, candidates: Tensor) -> Tensor:
    """The images among the candidates with the largest of the (N,) values."""
    return candidates[values[candidates].argsort(descending=True, stable=True)[:IMAGES]]


def _show(view: Viewed, f: int, images: Tensor, cache: FeatureCache) -> Shown:
    title = f"{f}"
    if view.scores is not None:
        part = int(view.scores.part[f])
        name = "dead" if view.scores.dead[f] else cache.meta["landmarks"][part] if part >= 0 else "no part"
        title = f"{f}: {name}\n{float(view.scores.instability[f]):.3f}"
    with torch.no_grad():
        maps = view.maps(images)[:, f].float().numpy()
    return Shown(title, images.tolist(), view.peaks.positions[images, f].numpy(), maps)


def _draw(sides: dict[str, list[Shown]], records: list[Record], meta: dict[str, Any], out: Path) -> Path:
    """Both sides next to each other: a row a filter, a column an image."""
    rows = max(1, *(len(side) for side in sides.values()))
    figure, axes = pyplot().subplots(1, len(sides), figsize=(len(sides) * (IMAGES + 1.2), rows + 0.6), layout="constrained")
    for axis, (title, side) in zip(axes, sides.items(), strict=True):
        axis.set_title(title)
        axis.set_xlim(0, IMAGES * STEP)
        axis.set_ylim(rows * STEP, 0)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([(r + 0.5) * STEP for r in range(len(side))], [s.title for s in side], fontsize=9)
        axis.tick_params(length=0)
        axis.set_frame_on(False)
        pixels = np.ones((rows * (SIDE + GAP), IMAGES * (SIDE + GAP), 3))  # one picture: matplotlib takes long over many
        for row, shown in enumerate(side):
            for column, image in enumerate(shown.images):
                heat = shown.maps[column] / max(float(shown.maps[column].max()), 1e-12)
                top, left = row * (SIDE + GAP), column * (SIDE + GAP)
                picture = crop(records[image], meta["input_size"])[0]
                pixels[top : top + SIDE, left : left + SIDE] = overlay(picture, heat, meta, SIDE)
                _mark_peak(axis, shown.peaks[column], column, row, meta)
        axis.imshow(pixels, extent=(0, IMAGES * STEP, rows * STEP, 0), interpolation="bilinear")
    return save(figure, out)


def overlay(image: Any, heat: np.ndarray, meta: dict[str, Any], side: int = 96) -> np.ndarray:
    """A crop with a heat map over it: (side, side, 3) in [0, 1].

    Args:
        image: PIL image of the crop.
        heat: (n, n) in [0, 1], one value for each cell of the feature.
        meta: of the cache: size of the crop and receptive field of the cells.
        side: of the result in pixels.
    """
    from PIL import Image

    size, field = meta["input_size"], meta["receptive_field"]
    n, low = len(heat), field["start"] - field["stride"] / 2
    # the map covers pixels low ... low + n * stride of the crop, which is more or less than the crop
    box = [(edge - low) / field["stride"] for edge in (0, 0, size, size)]
    padded = np.pad(heat, n, mode="edge")
    box = [edge + n for edge in box]
    smooth = Image.fromarray(padded.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC, box=tuple(box))
    strength = np.asarray(smooth).clip(0, 1)[..., None]
    picture = np.asarray(image.resize((side, side))) / 255.0
    warm = np.array([1.0, 0.15, 0.0])
    shade = picture * (0.45 + 0.55 * strength)
    return (shade * (1 - 0.45 * strength) + warm * 0.45 * strength).clip(0, 1)


def _mark_peak(axis: Any, peak: np.ndarray, column: int, row: int, meta: dict[str, Any]) -> None:
    """The receptive field of a peak (x, y in pixels of the crop), as far as it lies in the image, and its centre."""
    from matplotlib.patches import Circle, Rectangle

    size, field = meta["input_size"], meta["receptive_field"]
    left, top = column * STEP, row * STEP
    frame = Rectangle((left, top), 1, 1, transform=axis.transData)
    x, y = peak / size
    side = field["size"] / size
    marks = (
        Rectangle((left + x - side / 2, top + y - side / 2), side, side, fill=False, color="white", linewidth=0.9),
        Circle((left + x, top + y), 0.025, color="cyan"),
    )
    for mark in marks:
        axis.add_artist(mark).set_in_layout(False)  # where they are is known: nothing to measure
        mark.set_clip_path(frame)
