"""What the commands `train` and `explain` do, as functions: for Python and for the command line alike."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraphrase.core.config import Config, config_of, to_mapping
from paraphrase.core.data import load_dataset
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.checkpoint import ABOUT, load_explainer
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.files import fit_for_folder, read_text
from paraphrase.core.home import home
from paraphrase.core.measure.attribution import SIDES, Subject, open_subject
from paraphrase.core.measure.evaluation import baseline
from paraphrase.core.measure.metrics import metrics_rows
from paraphrase.core.measure.verdicts import performer_verdict, verdicts
from paraphrase.core.terminal.console import waiting
from paraphrase.core.terminal.html import embedded, html_table
from paraphrase.core.terminal.progress import bar, counted
from paraphrase.core.terminal.tables import format_value
from paraphrase.core.train.training import CHECKPOINT, Training, TrainingEnded

if TYPE_CHECKING:
    from torch import Tensor

    from paraphrase.core.data.records import Record
    from paraphrase.core.explainer.network import Explainer
    from paraphrase.core.features.cache import FeatureCache
    from paraphrase.core.measure.faithfulness import Faithfulness

WATCHED = ("location_instability", "p", "reconstruction_error", "fidelity")
"""Metrics beside the bar of a training."""


@dataclass
class Trained:
    """A trained explainer and what was measured of it."""

    folder: Path
    """Where it lies, with its checkpoint."""
    rows: dict[str, dict[str, float]]
    """Metrics of the performer, of the controls `random` and `centre`, and of the `explainer`."""
    filters: Path
    """The page of what its filters see, a PNG file."""
    gallery: Path
    """All of its filters, to sort and to filter, an HTML file."""

    @property
    def metrics(self) -> dict[str, float]:
        """Of the explainer, after its last epoch."""
        return self.rows["explainer"]

    @property
    def verdicts(self) -> list[str]:
        """What is plainly wrong with it, in lines; none where nothing is."""
        return verdicts(self.metrics, self.rows)

    @property
    def explainer(self) -> Explainer:
        """The network itself, in evaluation mode."""
        return load_explainer(self.folder)

    def _repr_html_(self) -> str:
        return html_table(metrics_rows(self.rows)) + embedded(self.filters)


def train(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    **overrides: Any,
) -> Trained:
    """Train one explainer, an exact checkpoint after each epoch.

    Args:
        config: a YAML file of a configuration or a sweep, plain data, or a trial's `config`; None: the menagerie's defaults.
        out: folder of the explainer; None: under the home folder, named by data, performer, seed and a hash of the configuration;
            counted where one is there already.
        resume: go on from the checkpoint in the folder.
        overrides: fields on top; a point in a path is written as two underscores: `loss__eta=0.5`.

    Raises:
        InputError: if anything is bad, or the folder holds an explainer already.
        TrainingEnded: if the run cannot go on; the message is the reason, and says which checkpoint is kept.
    """
    from paraphrase.core.pictures.filters_page import draw_filters, view_explainer
    from paraphrase.core.pictures.gallery import draw_gallery

    config = config_of(config, overrides)
    out = fit_for_folder(Path(out)) if out else _own_folder(config, resume)
    exists = (out / CHECKPOINT).exists()
    if exists and not resume:
        raise InputError(f"--out {out}: holds an explainer already; add --resume to go on, or name another folder")
    cache = open_cache(config)
    training = Training.load(out, config, cache) if exists else Training(config, cache)
    with bar("train", config.train.epochs * training.steps, "steps", training.epoch * training.steps) as moving:
        while not training.finished:
            try:
                entry = training.run_epoch(moving.advance)
            except TrainingEnded as error:
                kept = f"; the checkpoint in {out} is of epoch {training.history[-1]['epoch']}" if training.history else ""
                raise TrainingEnded(f"{error}{kept}") from None
            training.save(out)
            figures = zip(*metrics_rows({"": entry}, WATCHED), strict=True)
            moving.advance(0, f"epoch {training.epoch} " + " ".join(f"{cell} {value}" for cell, value in figures))
    training.save_explainer(out)
    with waiting("measuring and drawing"):
        rows = {**baseline(cache), "explainer": training.history[-1]}
        seen = view_explainer(out, cache), load_dataset(config.data).test, cache
        page = draw_filters(*seen, out / "filters.png")
        gallery = draw_gallery(*seen, out / "gallery.html")
    return Trained(out, rows, page, gallery)


def _own_folder(config: Config, resume: bool) -> Path:
    """Where an explainer goes that is given no folder: a new one, or to go on the last one of this configuration."""
    key = hashlib.sha256(json.dumps(to_mapping(config), sort_keys=True).encode()).hexdigest()[:6]
    words = config.data.source, config.performer.arch, f"seed{config.train.seed}", key
    name = re.sub(r"[^\w.-]", ".", "-".join(words))  # a factory has a colon
    folders = [home() / "explainers" / name]
    while (folders[-1] / CHECKPOINT).exists():
        folders.append(folders[0].with_name(f"{name}-{len(folders) + 1}"))
    return folders[-2] if resume and len(folders) > 1 else folders[-1]


@dataclass
class Explained:
    """Which parts predictions came from."""

    found: dict[str, Any]
    """As plain data."""
    table: list[list[str]]
    """As cells, the heading first."""
    pages: list[Path] = field(default_factory=list)
    """PNG files."""
    gallery: Path | None = None
    """All filters, to sort and to filter, an HTML file; only beside averages."""
    lines: list[str] = field(default_factory=list)
    """What the table does not say: whether the parts carry the answers, and what is plainly wrong."""

    def _repr_html_(self) -> str:
        return (
            html_table(self.table) + "".join(f"<p>{escape(line)}</p>" for line in self.lines) + "".join(map(embedded, self.pages))
        )


def explain(
    image: str | Path | None,
    explainer: str | Path,
    box: Sequence[float] | None = None,
    out: str | Path | None = None,
    categories: Sequence[str] | None = None,
) -> Explained:
    """Which parts a prediction came from, in the explainer and in the performer (figure 4 of the paper).

    Args:
        image: a picture; None: averages over the test images of each category.
        explainer: folder of a trained explainer.
        box: x, y, w, h of the object in the picture, in pixels as stored; None: all of it.
        out: folder of the pages; None: `explained` in the explainer's.
        categories: whose pages are drawn beside the averages; None: all.

    Raises:
        InputError: names the file, category or value that is bad.
    """
    folder = Path(explainer)
    pages = fit_for_folder(Path(out)) if out else folder / "explained"
    if image is None:
        return _explain_test_split(folder, categories, pages)
    return _explain_picture(folder, Path(image), box, pages)


def _explain_picture(folder: Path, image: Path, box: Sequence[float] | None, out: Path) -> Explained:
    from paraphrase.core.measure.attribution import average
    from paraphrase.core.pictures.explain_page import draw_image, explain_image, names_by_share

    record = _checked(image, box)
    with waiting("explaining"):
        subject = open_subject(folder)
        explained = explain_image(subject, record)
        page = draw_image(subject, explained, out / f"explained-{record.image.stem}.png")
    shares = {side: _defined(explained.groups[side].names, explained.shares[side][0].tolist()) for side in SIDES}
    probabilities = {side: _probable(explained.probabilities[side][0], subject.cache) for side in SIDES}
    answers = {side: max(p, key=lambda name: p[name]) for side, p in probabilities.items()}
    table = [["share of the prediction", *SIDES]]
    means = {side: average(values) for side, values in explained.shares.items()}
    names = names_by_share(explained.groups, means)
    table += [[name, *(format_value(shares[side].get(name)) for side in SIDES)] for name in names]
    table += [["predicted category", *(f"{answers[side]} {probabilities[side][answers[side]]:.4f}" for side in SIDES)]]
    table += [["p", format_value(subject.p), "-"]]
    found = {
        "image": str(record.image),
        "box": record.box,
        "page": str(page),
        "explained": subject.cache.class_name(int(explained.labels)),
        "shares": shares,
        "predicted": answers,
        "probabilities": probabilities,
        "p": subject.p,
    }
    return Explained(found, table, [page], lines=_wrong(subject, folder))


MOST_CLASSES = 20
"""Classes whose probabilities are told, the most probable ones first where there are more."""


def _probable(probabilities: Tensor, cache: FeatureCache) -> dict[str, float]:
    """Class -> probability; of a performer with many classes the most probable ones."""
    if len(probabilities) <= MOST_CLASSES:
        order = list(range(len(probabilities)))
    else:
        order = probabilities.argsort(descending=True, stable=True)[:MOST_CLASSES].tolist()
    return {cache.class_name(k): float(probabilities[k]) for k in order}


def _wrong(subject: Subject, folder: Path) -> list[str]:
    """What is plainly wrong with an explainer or its performer, in lines."""
    metrics, meta = json.loads(read_text(folder / ABOUT)).get("metrics", {}), subject.cache.meta
    of_performer = performer_verdict(subject.cache.accuracy(), len(meta["categories"]), len(subject.cache.test.labels))
    return [*verdicts(metrics, {}), *([of_performer] if of_performer else [])]


def _checked(image: Path, box: Sequence[float] | None) -> Record:
    """A checked picture of the user's own and the box in it."""
    from paraphrase.core.data.checks import check_image, check_record
    from paraphrase.core.data.records import WHOLE_IMAGE, Record

    corners = WHOLE_IMAGE
    if box is not None:
        x, y, w, h = map(float, box)
        corners = x, y, w, h
    origin = "" if box is None else f"--box {','.join(f'{v:g}' for v in box)}"
    record = check_record(Record(image, corners, label=0, origin=str(image), box_origin=origin), check_image(image))
    if isinstance(record, str):
        raise InputError(record)
    return record


def _explain_test_split(folder: Path, wanted: Sequence[str] | None, out: Path) -> Explained:
    from paraphrase.core.pictures.explain_page import all_names, explain_test, names_by_share
    from paraphrase.core.pictures.filters_page import view_explainer
    from paraphrase.core.pictures.gallery import draw_gallery

    with waiting("explaining the test images"):
        subject = open_subject(folder)
        categories = subject.cache.meta["categories"]
        averages = explain_test(subject)
    explained = [categories[c] for c in averages.by_category]
    for name in wanted or []:
        if name not in explained:
            raise InputError(f"--category {name}: is none of those explained: {', '.join(explained)}")
    shown = {name for means in averages.by_category.values() for name in names_by_share(averages.groups, means)}
    names = [name for name in all_names(averages.groups) if name in shown]
    table, found = [["category", *names, "images"]], dict[str, Any]()
    for c, sides in averages.by_category.items():
        found[categories[c]] = {}
        for side, mean in sides.items():
            own = averages.groups[side].names
            shares, errors = _defined(own, mean.mean.tolist()), _defined(own, mean.error.tolist())
            found[categories[c]][side] = {"shares": shares, "se": errors, "images": mean.images}
            cells = [format_value(shares.get(name), errors.get(name)) for name in names]
            table.append([f"{categories[c]}, {side}", *cells, str(mean.images)])
    pages = _draw_split(subject, averages, wanted, out)
    with waiting("drawing the filters"):
        seen = view_explainer(folder, subject.cache), subject.dataset.test, subject.cache
        gallery = draw_gallery(*seen, out / "gallery.html")
    faithful, lines = {}, []
    for side, about in averages.faithful.items():
        names, steps = averages.groups[side].names, [str(k) for k in range(len(about.parts))]
        faithful[side] = {
            **_defined(["drop", "control"], [about.drop, about.drop_control]),
            "left": list(_defined(steps, about.parts.tolist()).values()),
            "left_control": list(_defined(steps, about.control.tolist()).values()),
            "filters": about.filters.tolist(),
            "alone": _defined(names, about.alone.tolist()),
            "alone_control": _defined(names, about.alone_control.tolist()),
        }
        lines.append(f"faithfulness, {side}: " + _faithful(about))
    results: dict[str, Any] = {"categories": found, "faithfulness": faithful, "p": subject.p}
    results |= {"pages": [str(page) for page in pages], "gallery": str(gallery)}
    return Explained(results, table, pages, gallery, [*lines, *_wrong(subject, folder)])


def _faithful(found: Faithfulness) -> str:
    if math.isnan(found.drop):
        return "not defined, since its answers need none of its filters"
    return f"without parts an answer's logit falls by {found.drop:.3f}, without random filters by {found.drop_control:.3f}"


def _draw_split(subject: Subject, averages: Any, wanted: Sequence[str] | None, out: Path) -> list[Path]:
    from paraphrase.core.pictures.explain_page import draw_category, draw_faithfulness, draw_overview

    categories = subject.cache.meta["categories"]
    pages = [draw_overview(subject, averages, out / "explain.png"), draw_faithfulness(averages, out / "faithfulness.png")]
    drawn = [c for c in averages.by_category if wanted is None or categories[c] in wanted]
    for c in counted(drawn, "drawing", len(drawn), "pages"):
        name = categories[c].replace("%", "%25").replace("/", "%2F")
        pages.append(draw_category(subject, averages, c, out / f"explain-{name}.png"))
    return pages


def _defined(names: list[str], values: list[float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in zip(names, values, strict=True)}
