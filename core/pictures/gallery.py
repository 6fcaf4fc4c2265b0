"""A gallery of all filters of an explainer, to sort and to filter: one HTML file that needs no network and no other file."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from paraphrase.core.data.records import Record, crop
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.files import write_atomically
from paraphrase.core.measure.alike import groups_alike
from paraphrase.core.measure.filter_table import filter_rows
from paraphrase.core.pictures.filters_page import Viewed, by_stability

IMAGES = 6
"""Test images of each filter: those that fire it most."""
SIDE = 112
"""Most pixels of an image's side."""


def draw_gallery(view: Viewed, records: Sequence[Record], cache: FeatureCache, out: str | Path) -> Path:
    """Write the gallery of an explainer.

    Args:
        view: of the explainer, from `view_explainer`.
        records: of the test images, which are read again.
        cache: of the performer.
        out: the HTML file.

    Raises:
        InputError: if the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    meta = cache.meta
    rows = filter_rows(view.filters, meta["landmarks"], meta["categories"])
    for group in groups_alike(view.filters.peaks, meta["input_size"], by_stability(view)):
        for f in group:
            rows[f]["alike"] = len(group) - 1
            rows[f]["first"] = int(f == group[0])
    peaks = view.filters.peaks
    strongest = peaks.values.argsort(dim=0, descending=True, stable=True)[:IMAGES]  # (IMAGES, F)
    used = strongest.unique()
    maps: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for block in used.split(64):
            maps |= dict(zip(block.tolist(), view.maps(block).float(), strict=True))
    shown = []
    for f, row in enumerate(rows):
        tiles = [
            {"image": i, "map": _packed(maps[i][f]), "peak": [round(v, 1) for v in peaks.positions[i, f].tolist()]}
            for i in strongest[:, f].tolist()
            if peaks.values[i, f] > 0
        ]
        shown.append(row | {"tiles": tiles})
    data = {
        "filters": shown,
        "images": {i: _encoded(crop(records[i], meta["input_size"])[0]) for i in used.tolist()},
        "labels": {i: meta["categories"][int(cache.test.labels[i])] for i in used.tolist()},
        "parts": meta["landmarks"],
        "size": meta["input_size"],
        "field": meta["receptive_field"],
    }
    environment = Environment(loader=PackageLoader("paraphrase.core.pictures"), autoescape=True, undefined=StrictUndefined)
    lead = f"{len(rows)} filters on the test images of {meta['dataset']}, seen through {meta['performer']}"
    # a script ends at the first </, whatever stands around it
    page = environment.get_template("gallery.html").render(lead=lead, data=json.dumps(data).replace("</", "<\\/"))
    write_atomically(Path(out), page)
    return Path(out)


def _packed(values: torch.Tensor) -> str:
    """A map (n, n) in 256 steps of its largest value, as base64."""
    steps = (values / values.amax().clamp(min=1e-12) * 255).round().clamp(0, 255).to(torch.uint8)
    return b64encode(steps.numpy().tobytes()).decode()


def _encoded(image: Any) -> str:
    image.thumbnail((SIDE, SIDE))
    out = BytesIO()
    image.save(out, "WEBP", quality=80)
    return f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"
