"""Commands that need no cluster: `performer`, `cache`, `train` and `explain`. `python -m core` runs them where only torch is."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import Config, load_config
from core.errors import InputError
from core.home import home

if TYPE_CHECKING:
    from core.attribution import Subject
    from core.data.records import Record


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the core commands to a parser; each sets `run`, a function of the arguments that returns the exit code."""
    performer = commands.add_parser("performer", help="fit the CNN that is to be explained")
    parts = performer.add_subparsers(required=True, metavar="ACTION")
    fit = _configured(parts.add_parser("fit", help="fine-tune the performer on the data's categories"))
    fit.set_defaults(run=_performer_fit)

    cache = commands.add_parser("cache", help="build, check, list and remove feature caches")
    parts = cache.add_subparsers(required=True, metavar="ACTION")
    build = _configured(parts.add_parser("build", help="compute features and targets of every image, once"))
    build.set_defaults(run=_cache_build)
    verify = parts.add_parser("verify", help="compare every file of a cache with its checksum")
    verify.add_argument("key", nargs="?", help="cache key or its beginning; default: all caches")
    verify.set_defaults(run=_cache_verify)
    parts.add_parser("list", help="all caches with their sizes").set_defaults(run=_cache_list)
    remove = parts.add_parser("remove", help="remove a cache")
    remove.add_argument("key", help="cache key or its beginning")
    remove.set_defaults(run=_cache_remove)

    ends = "Exit code: 0; 1 if the run cannot go on (its loss is not finite, or all filters died); 2 for bad input."
    train = _configured(commands.add_parser("train", help="train one explainer", epilog=ends))
    train.add_argument("--out", type=Path, help="folder of the explainer (default: under the home folder)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    train.add_argument("--json", action="store_true", help="print the metrics as JSON")
    train.set_defaults(run=_train)

    explain = commands.add_parser("explain", help="which parts a prediction came from: of a picture, or of the test split")
    explain.add_argument("image", nargs="?", type=Path, help="picture to explain; default: averages over the test split")
    explain.add_argument("--explainer", type=Path, required=True, metavar="FOLDER", help="folder of a trained explainer")
    explain.add_argument("--box", metavar="X,Y,W,H", help="the object in the picture, in pixels as stored; default: all of it")
    explain.add_argument("--category", action="append", metavar="NAME", help="draw only this category's page; may be repeated")
    explain.add_argument("--out", type=Path, metavar="DIR", help="folder of the pictures (default: explained, in FOLDER)")
    explain.add_argument("--json", action="store_true", help="print the shares as JSON")
    explain.set_defaults(run=_explain)


def _configured(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("config", nargs="?", help="YAML file of a configuration; default: the menagerie")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top, e.g. loss.eta=0.5")
    parser.add_argument("--skip-bad", action="store_true", help="go on without damaged images")
    return parser


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration of a command's YAML file, overrides and flags."""
    file, overrides = arguments.config, list(arguments.overrides)
    if file and "=" in file and not Path(file).exists():
        file, overrides = None, [file, *overrides]
    if arguments.skip_bad:
        overrides.append("data.skip_bad=true")
    return load_config(file, overrides)


def _performer_fit(arguments: argparse.Namespace) -> int:
    from core.data import load_dataset
    from core.performer import obtain_performer

    config = configuration(arguments)
    dataset = load_dataset(config.data)
    _tell_skipped(dataset.skipped)
    _, info = obtain_performer(config, dataset)
    print(f"{config.performer.arch} on {dataset.name}: test accuracy {info['accuracy']:.4f} ({len(dataset.test)} images)")
    print(f"kept in {info['folder']}")
    return 0


def _tell_skipped(skipped: list[str]) -> None:
    for line in skipped:
        print(f"skipped {line}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} damaged images skipped", file=sys.stderr)


def _cache_build(arguments: argparse.Namespace) -> int:
    from core.cache import open_cache

    cache = open_cache(configuration(arguments))
    print(f"cache {cache.meta['key']}: {len(cache.train.labels)} training and {len(cache.test.labels)} test images")
    return 0


def _cache_verify(arguments: argparse.Namespace) -> int:
    from core.cache import find_cache, list_caches, verify_cache

    folders = [find_cache(arguments.key)] if arguments.key else [info.folder for info in list_caches()]
    for folder in folders:
        verify_cache(folder)
        print(f"{folder.name}: every file is as it was built")
    return 0


def _cache_list(arguments: argparse.Namespace) -> int:
    from core.cache import list_caches

    for info in list_caches():
        print(f"{info.folder.name}  {info.bytes / 2**20:8.1f} MiB  {info.description}")
    return 0


def _cache_remove(arguments: argparse.Namespace) -> int:
    from core.cache import remove_cache

    print(f"removed {remove_cache(arguments.key)}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from core.cache import open_cache
    from core.evaluation import baseline
    from core.filters_page import draw_filters
    from core.tables import metrics_table
    from core.training import CHECKPOINT, Training, TrainingEnded

    config = configuration(arguments)
    out = arguments.out or home() / "explainers" / f"{config.data.source}-{config.performer.arch}-seed{config.train.seed}"
    exists = (out / CHECKPOINT).exists()
    if exists and not arguments.resume:
        raise InputError(f"--out {out}: holds an explainer already; add --resume to go on, or name another folder")
    cache = open_cache(config)
    training = Training.load(out, config, cache) if exists else Training(config, cache)
    with tqdm(total=config.train.epochs, initial=training.epoch, unit="epoch", disable=None) as bar:
        while not training.finished:
            try:
                entry = training.run_epoch()
            except TrainingEnded as error:
                bar.close()
                kept = f"; the checkpoint in {out} is of epoch {training.history[-1]['epoch']}" if training.history else ""
                print(f"paraphrase: the run ended: {error}{kept}", file=sys.stderr)
                return 1
            training.save(out)
            shown = ("location_instability", "p", "reconstruction_error", "fidelity")
            bar.set_postfix_str(" ".join(f"{k}={entry[k]:.4f}" for k in shown if k in entry))
            bar.update()
    training.save_explainer(out)
    rows = {**baseline(cache), "explainer": training.history[-1]}
    page = draw_filters(config, cache, out, out / "filters.png")
    if arguments.json:
        print(json.dumps({"folder": str(out), **rows}))
    else:
        print(metrics_table(rows))
        print(f"explainer in {out}, its filters in {page}")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from core.attribution import open_subject

    out = arguments.out or arguments.explainer / "explained"
    if arguments.image is None and arguments.box:
        raise InputError("--box: belongs to an IMAGE, and none is given")
    if arguments.image is not None and arguments.category:
        raise InputError("--category: is for the averages; with an IMAGE the performer names the category")
    if arguments.image is None:
        result, text = _explain_test(open_subject(arguments.explainer), arguments.category, out)
    else:
        record = _picture(arguments.image, arguments.box)
        result, text = _explain_picture(open_subject(arguments.explainer), record, out)
    print(json.dumps(result) if arguments.json else text)
    return 0


def _picture(image: Path, box: str | None) -> Record:
    """A checked picture of the user's own and the box in it."""
    from core.data.checks import check_image, check_record
    from core.data.records import WHOLE_IMAGE, Record

    corners = WHOLE_IMAGE
    if box:
        try:
            x, y, w, h = (float(v) for v in box.split(","))
        except ValueError:
            raise InputError(f"--box {box}: expected X,Y,W,H, four numbers in pixels") from None
        corners = (x, y, w, h)
    record = check_record(Record(image, corners, label=0, origin=str(image), box_origin=f"--box {box}"), check_image(image))
    if isinstance(record, str):
        raise InputError(record)
    return record


def _explain_picture(subject: Subject, record: Record, out: Path) -> tuple[dict[str, Any], str]:
    """Explain one picture, draw its page; returns it for programs and for people."""
    from core.attribution import SIDES
    from core.explain_page import all_names, draw_image, explain_image
    from core.tables import format_value, text_table

    categories = subject.cache.meta["categories"]
    explained = explain_image(subject, record)
    page = draw_image(subject, explained, out / f"explained-{record.image.stem}.png")
    shares = {side: _defined(explained.groups[side].names, explained.shares[side][0].tolist()) for side in SIDES}
    probabilities = {side: dict(zip(categories, explained.probabilities[side][0].tolist(), strict=True)) for side in SIDES}
    answers = {side: max(p, key=lambda name: p[name]) for side, p in probabilities.items()}
    table = [["share of the prediction", *SIDES]]
    table += [[name, *(format_value(shares[side].get(name)) for side in SIDES)] for name in all_names(explained.groups)]
    table += [["predicted category", *(f"{answers[side]} {probabilities[side][answers[side]]:.4f}" for side in SIDES)]]
    table += [["p", format_value(subject.p), "-"]]
    result = {
        "image": str(record.image),
        "box": record.box,
        "page": str(page),
        "explained": categories[int(explained.labels)],
        "shares": shares,
        "predicted": answers,
        "probabilities": probabilities,
        "p": subject.p,
    }
    return result, f"{text_table(table)}\nboth are shares of the answer {result['explained']}; the picture is in {page}"


def _explain_test(subject: Subject, wanted: list[str] | None, out: Path) -> tuple[dict[str, Any], str]:
    """Explain the test split, draw its pages; returns it for programs and for people."""
    from tqdm import tqdm

    from core.explain_page import all_names, draw_category, draw_overview, explain_test
    from core.tables import format_value, text_table

    categories = subject.cache.meta["categories"]
    averages = explain_test(subject)
    explained = [categories[c] for c in averages.by_category]
    for name in wanted or []:
        if name not in explained:
            raise InputError(f"--category {name}: is none of those explained: {', '.join(explained)}")
    names = all_names(averages.groups)
    table, found = [["category", *names, "images"]], dict[str, Any]()
    for c, sides in averages.by_category.items():
        found[categories[c]] = {}
        for side, mean in sides.items():
            own = averages.groups[side].names
            shares, errors = _defined(own, mean.mean.tolist()), _defined(own, mean.error.tolist())
            found[categories[c]][side] = {"shares": shares, "se": errors, "images": mean.images}
            cells = [format_value(shares.get(name), errors.get(name)) for name in names]
            table.append([f"{categories[c]}, {side}", *cells, str(mean.images)])
    pages = [draw_overview(subject, averages, out / "explain.png")]
    drawn = [c for c in averages.by_category if wanted is None or categories[c] in wanted]
    for c in tqdm(drawn, "pages", delay=5, disable=None):
        name = categories[c].replace("%", "%25").replace("/", "%2F")
        pages.append(draw_category(subject, averages, c, out / f"explain-{name}.png"))
    result = {"categories": found, "pages": [str(page) for page in pages], "p": subject.p}
    return result, f"{text_table(table)}\n{len(pages)} pages in {out}"


def _defined(names: list[str], values: list[float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in zip(names, values, strict=True)}


def main(arguments: list[str] | None = None) -> int:
    """`python -m core`: the core commands alone."""
    parser = argparse.ArgumentParser(prog="python -m core", description=__doc__)
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    return run_command(parser, arguments)


def run_command(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> int:
    """Parse and run; bad input is one line on stderr and exit code 2, a run that cannot go on one line and exit code 1."""
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except InputError as error:
        print(f"paraphrase: {error}", file=sys.stderr)
        return 2
