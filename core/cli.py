"""Commands that need no cluster: `performer`, `cache` and `train`. `python -m core` runs them where only torch is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from core.config import Config, load_config
from core.errors import InputError
from core.home import home


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

    train = _configured(commands.add_parser("train", help="train one explainer"))
    train.add_argument("--out", type=Path, help="folder of the explainer (default: under the home folder)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    train.add_argument("--json", action="store_true", help="print the metrics as JSON")
    train.set_defaults(run=_train)


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
    from core.training import CHECKPOINT, Training

    config = configuration(arguments)
    out = arguments.out or home() / "explainers" / f"{config.data.source}-{config.performer.arch}-seed{config.train.seed}"
    exists = (out / CHECKPOINT).exists()
    if exists and not arguments.resume:
        raise InputError(f"--out {out}: holds an explainer already; add --resume to go on, or name another folder")
    cache = open_cache(config)
    training = Training.load(out, config, cache) if exists else Training(config, cache)
    with tqdm(total=config.train.epochs, initial=training.epoch, unit="epoch", disable=None) as bar:
        while not training.finished:
            entry = training.run_epoch()
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


def main(arguments: list[str] | None = None) -> int:
    """`python -m core`: the core commands alone."""
    parser = argparse.ArgumentParser(prog="python -m core", description=__doc__)
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    return run_command(parser, arguments)


def run_command(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> int:
    """Parse and run; bad input is one line on stderr and exit code 2."""
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except InputError as error:
        print(f"paraphrase: {error}", file=sys.stderr)
        return 2
