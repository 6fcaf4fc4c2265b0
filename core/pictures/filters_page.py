"""A page of filters, after figure 3 of the paper: the test images that fire each filter most, beside the performer's own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paraphrase.core.config import Config
from paraphrase.core.data import load_dataset
from paraphrase.core.data.records import Record, crop
from paraphrase.core.device import autocast_for
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.checkpoint import ABOUT, load_explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.files import read_text
from paraphrase.core.measure.alike import groups_alike
from paraphrase.core.measure.attribution import PerformerPath
from paraphrase.core.measure.evaluation import filter_scores, gather, performer_peaks
from paraphrase.core.measure.filter_table import Filters, filters_of, weigh
from paraphrase.core.measure.filters import FilterScores, Peaks
from paraphrase.core.pictures.drawing import pyplot, save
from paraphrase.core.terminal.tables import brief

FILTERS, IMAGES = 12, 6
"""Groups of filters on a page, and test images of each."""
SIDE, GAP = 100, 4
"""Pixels of an image on the page, and between two."""
STEP = 1 + GAP / SIDE
"""From one image to the next, in images."""


class Shown(NamedTuple):
    """One filter on the page."""

    title: str
    """Its number; the part that names it, with its tracking, where that beats chance; its instability; how many are alike."""
    images: list[int]
    """Test images that fire it most, strongest first."""
    peaks: np.ndarray
    """(images, 2) x, y of the peaks in pixels of the crop."""
    maps: np.ndarray
    """(images, n, n) activations."""


class Viewed(NamedTuple):
    """A network's filters on the test split, and their maps."""

    filters: Filters
    """What is known of them."""
    maps: Callable[[Tensor], Tensor]
    """Test images (K,) -> activations (K, F, n, n)."""

    @property
    def peaks(self) -> Peaks:
        return self.filters.peaks

    @property
    def scores(self) -> FilterScores | None:
        return self.filters.scores

    @property
    def worth(self) -> Tensor:
        """(F,) share in the performer's answers; the mean peak where that is not defined."""
        return self.peaks.values.float().mean(0) if self.filters.worth is None else self.filters.worth


def draw_filters(explainer: Viewed, records: Sequence[Record], cache: FeatureCache, out: str | Path) -> Path:
    """Draw the page of an explainer beside the performer's own filters to a PNG file.

    Args:
        explainer: from `view_explainer`.
        records: of the test images, which are read again.
        cache: of the performer.
        out: the PNG file.
    """
    views = {
        "interpretable filters of the explainer": explainer,
        f"filters of the performer ({cache.meta['performer']})": _view_performer(cache),
    }
    sides = {}
    for title, view in views.items():
        groups = _best_groups(view, cache)
        sides[title] = [_show_group(view, group, cache) for group in groups]
    return _draw(sides, records, cache.meta, Path(out))


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
    left, right = (view_explainer(folder, cache) for folder in explainers.values())
    seeds = {json.loads(read_text(Path(folder) / ABOUT))["seeds"][0] for folder in explainers.values()}
    sides = dict(zip(explainers, pair_up(left, right, cache, same_start=len(seeds) == 1), strict=True))
    return _draw(sides, load_dataset(config.data).test, cache.meta, Path(out))


def pair_up(left: Viewed, right: Viewed, cache: FeatureCache, same_start: bool) -> tuple[list[Shown], list[Shown]]:
    """The rows of a side-by-side page: of each pair of filters, what both do on the images that fire both most.

    Args:
        same_start: both began from the same seed, so that equal numbers are of the same origin where widths agree.
    """
    filters = _best_filters(left, cache)
    same = same_start and left.peaks.values.shape == right.peaks.values.shape
    rows: tuple[list[Shown], list[Shown]] = ([], [])
    for f, g in zip(filters, filters if same else _best_filters(right, cache), strict=False):
        strengths = [view.peaks.values[:, i].float() for view, i in ((left, f), (right, g))]
        both = torch.stack([s / s.max().clamp(min=1e-12) for s in strengths]).sum(0)
        images = _strongest(both, _candidates(left, f, cache))
        rows[0].append(_show(left, f, images, cache))
        rows[1].append(_show(right, g, images, cache))
    return rows


def view_explainer(folder: str | Path, cache: FeatureCache) -> Viewed:
    """A saved explainer's filters, those of its first replicate."""
    explainer = load_explainer(folder)
    explainer = explainer if explainer.replicates == 1 else explainer.replicate(0).eval().requires_grad_(False)
    autocast = autocast_for("float32", torch.device("cpu"))

    def maps_of(images: Tensor) -> Tensor:
        feature = gather(cache.test.features, images[None], torch.device("cpu"), autocast)
        _, interp_maps, ordin_maps = explainer.encode(feature)
        maps = interp_maps[-1] if interp_maps else ordin_maps
        assert maps is not None
        return maps

    return Viewed(filters_of(explainer, cache, autocast)[0], maps_of)


_PERFORMERS: dict[str, Viewed] = {}


def _view_performer(cache: FeatureCache) -> Viewed:
    """The performer's own filters; looked at once a process, since every page of a sweep has them."""
    key = cache.meta["key"]
    if key not in _PERFORMERS:
        peaks = performer_peaks(cache)
        try:
            worth = weigh(PerformerPath(cache), cache)
        except InputError:  # its layers are not known
            worth = None

        def maps_of(images: Tensor) -> Tensor:
            return cache.test.features[images].permute(0, 3, 1, 2).float()

        _PERFORMERS[key] = Viewed(Filters(peaks, filter_scores(cache, peaks), worth), maps_of)
    return _PERFORMERS[key]


def by_stability(view: Viewed) -> list[int]:
    """The filters that fire, the most stable first; the strongest first where there are no landmarks."""
    alive = (view.peaks.values > 0).any(0)
    unstable = -view.peaks.values.float().mean(0) if view.scores is None else view.scores.instability.nan_to_num(torch.inf)
    return [f for f in unstable.argsort(stable=True).tolist() if alive[f]]


def _best_groups(view: Viewed, cache: FeatureCache) -> list[list[int]]:
    """A dozen groups of filters that say the same thing, the most stable one of each first; by what they contribute together.

    Of each part that has a name the group that tracks it best is among them, so that the page shows what there is to see.
    """
    groups = groups_alike(view.peaks, cache.meta["input_size"], by_stability(view))
    groups.sort(key=lambda group: -float(view.worth[group].sum()))
    best: dict[int, int] = {}
    for i, group in enumerate(groups if view.scores is not None else []):
        assert view.scores is not None
        part, tracking = int(view.scores.part[group[0]]), float(view.scores.tracking[group[0]])
        if part >= 0 and (part not in best or tracking > float(view.scores.tracking[groups[best[part]][0]])):
            best[part] = i
    shown = [*sorted(best.values())[:FILTERS], *(i for i in range(len(groups)) if i not in best.values())][:FILTERS]
    return [groups[i] for i in sorted(shown)]


def _show_group(view: Viewed, group: list[int], cache: FeatureCache) -> Shown:
    """The first of a group of filters on the images that fire it most."""
    f = group[0]
    shown = _show(view, f, _strongest(view.peaks.values[:, f], _candidates(view, f, cache)), cache)
    alike = f"\n+ {len(group) - 1} alike" if len(group) > 1 else ""
    return shown._replace(title=shown.title + alike)


def _best_filters(view: Viewed, cache: FeatureCache) -> list[int]:
    """The first filter of each of the best groups."""
    return [group[0] for group in _best_groups(view, cache)]


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
        name = f"{cache.meta['landmarks'][part]} {brief(float(view.scores.tracking[f]))}" if part >= 0 else "-"
        instability = float(view.scores.instability[f])
        title = f"{f}: {name}" + ("" if math.isnan(instability) else f"\n{brief(instability)}")
    with torch.no_grad():
        maps = view.maps(images)[:, f].float().numpy()
    return Shown(title, images.tolist(), view.peaks.positions[images, f].numpy(), maps)


def _draw(sides: dict[str, list[Shown]], records: Sequence[Record], meta: dict[str, Any], out: Path) -> Path:
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
                picture = overlay(crop(records[image], meta["input_size"])[0], heat, meta, (SIDE, SIDE))
                pixels[top : top + SIDE, left : left + SIDE] = _with_peak(picture, shown.peaks[column], meta)
        axis.imshow(pixels, extent=(0, IMAGES * STEP, rows * STEP, 0), interpolation="bilinear")
    return save(figure, out)


def overlay(image: Any, heat: np.ndarray, meta: dict[str, Any], pixels: tuple[int, int]) -> np.ndarray:
    """A crop with a map's outline on it, as bright as it was: (height, width, 3) in [0, 1].

    Args:
        image: PIL image of what the crop shows, of any size and aspect ratio.
        heat: (n, n) in [0, 1], one value for each cell of the feature.
        meta: of the cache: size of the crop and receptive field of the cells.
        pixels: width and height of the result.
    """
    from PIL import Image

    size, field = meta["input_size"], meta["receptive_field"]
    n, low = len(heat), field["start"] - field["stride"] / 2
    # the map covers pixels low ... low + n * stride of the crop, which is more or less than the crop
    box = [(edge - low) / field["stride"] for edge in (0, 0, size, size)]
    padded = np.pad(heat, n, mode="edge")
    box = [edge + n for edge in box]
    smooth = Image.fromarray(padded.astype(np.float32)).resize(pixels, Image.Resampling.BICUBIC, box=tuple(box))
    inside = np.asarray(smooth) > CONTOUR
    picture = np.asarray(image.resize(pixels)) / 255.0
    rim = inside & ~_shrunk(inside, 2)
    around = _shrunk(~inside, 0) & ~_shrunk(~inside, 1)
    picture[around], picture[rim] = DARK, BRIGHT
    return picture


CONTOUR = 0.5
"""Share of its largest value at which a map is outlined."""
BRIGHT, DARK = (1.0, 0.95, 0.2), (0.05, 0.05, 0.05)
"""A light line with a dark one around it can be seen on any photograph, whatever its colours."""


def _shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask without its outermost pixels."""
    for _ in range(by):
        inner = mask.copy()
        for axis in (0, 1):
            for shift in (1, -1):
                inner &= np.roll(mask, shift, axis)
        mask = inner
    return mask


def _with_peak(picture: np.ndarray, peak: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    """The picture (side, side, 3) with a peak (x, y in pixels of the crop) and its receptive field, as far as it lies in it.

    Drawn in pixels: matplotlib takes seconds over as many marks.
    """
    side, size, field = len(picture), meta["input_size"], meta["receptive_field"]
    places = np.arange(side)
    x, y = (peak / size * side).round()
    reach = round(field["size"] / size * side / 2)
    for edge in (-reach, reach):
        if 0 <= y + edge < side:
            picture[int(y + edge), np.abs(places - x) <= reach] = 1.0
        if 0 <= x + edge < side:
            picture[np.abs(places - y) <= reach, int(x + edge)] = 1.0
    near = (places[None, :] - x) ** 2 + (places[:, None] - y) ** 2
    picture[near <= DOT**2] = CYAN
    return picture


DOT, CYAN = 2.5, (0.0, 1.0, 1.0)
"""Radius of a peak, in pixels of the page's images, and its colour."""
