"""Commands that need torch alone: `performer`, `cache`, `train` and `explain`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paraphrase.core.errors import InputError
from paraphrase.core.terminal.commands import add_command
from paraphrase.core.terminal.console import show_table, waiting

if TYPE_CHECKING:
    from paraphrase.core.config import Config


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the core commands to a parser; each sets `run`, a function of the arguments that returns the exit code."""
    performer = commands.add_parser("performer", help="fit the CNN that is to be explained, or show its layers")
    parts = performer.add_subparsers(required=True, metavar="ACTION")
    fit = _configured(
        add_command(
            parts,
            "fit",
            "fine-tune the performer on the data's categories, once; later runs find it again",
            "performer fit mine.yaml",
            "performer fit mine.yaml performer.arch=alexnet performer.fit.epochs=20",
        )
    )
    fit.set_defaults(run=_performer_fit)
    layers = add_command(
        parts,
        "layers",
        "which layers of a network can be explained, and those that are taken where none are named",
        "performer layers resnet50",
        "performer layers my_nets:my_net performer.input_size=320 'performer.arguments={width: 2}'",
    )
    layers.add_argument("arch", help="performer.arch: a torchvision classifier, timm:NAME, or module:factory")
    layers.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top, e.g. performer.input_size=320")
    layers.set_defaults(run=_performer_layers)

    cache = commands.add_parser("cache", help="build, check, list and remove feature caches")
    parts = cache.add_subparsers(required=True, metavar="ACTION")
    build = _configured(add_command(parts, "build", "compute features and targets of every image, once", "cache build mine.yaml"))
    build.set_defaults(run=_cache_build)
    verify = parts.add_parser("verify", help="compare every file of a cache with its checksum")
    verify.add_argument("key", nargs="?", help="cache key or its beginning; default: all caches")
    verify.set_defaults(run=_cache_verify)
    parts.add_parser("list", help="all caches with their sizes").set_defaults(run=_cache_list)
    remove = parts.add_parser("remove", help="remove a cache")
    remove.add_argument("key", help="cache key or its beginning")
    remove.set_defaults(run=_cache_remove)

    train = _configured(
        add_command(
            commands,
            "train",
            "train one explainer",
            "train                                   # the default, on drawn animals",
            "train mine.yaml loss.eta=0.5 --out explainers/mine",
            "train mine.yaml train.seed=1 --json",
        )
    )
    train.epilog = f"{train.epilog}\n\nexit code: 0; 1 if the loss is not finite or all filters died; 2 for bad input"
    train.add_argument("--out", type=Path, help="folder of the explainer (default: under the home folder)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    train.add_argument("--wide", action="store_true", help="all columns of the table side by side")
    train.add_argument("--json", action="store_true", help="print the metrics as JSON")
    train.set_defaults(run=_train)

    explain = add_command(
        commands,
        "explain",
        "which parts a prediction came from: of a picture, or of the test split",
        "explain --explainer explainers/mine     # averages, a page a category",
        "explain bird.jpg --explainer explainers/mine --box 30,12,200,180",
    )
    explain.add_argument("image", nargs="?", type=Path, help="picture to explain; default: averages over the test split")
    explain.add_argument("--explainer", type=Path, required=True, metavar="FOLDER", help="folder of a trained explainer")
    explain.add_argument("--box", metavar="X,Y,W,H", help="the object in the picture, in pixels as stored; default: all of it")
    explain.add_argument("--category", action="append", metavar="NAME", help="draw only this category's page; may be repeated")
    explain.add_argument("--out", type=Path, metavar="DIR", help="folder of the pictures (default: explained, in FOLDER)")
    explain.add_argument("--wide", action="store_true", help="all columns of the table side by side")
    explain.add_argument("--json", action="store_true", help="print the shares as JSON")
    explain.set_defaults(run=_explain)


def _configured(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("config", nargs="?", help="YAML file of a configuration; default: the menagerie")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top, e.g. loss.eta=0.5")
    parser.add_argument("--skip-bad", action="store_true", help="go on without damaged images")
    return parser


def configuration(arguments: argparse.Namespace) -> Config:
    """The configuration of a command's YAML file, overrides and flags."""
    from paraphrase.core.config import load_config

    file, overrides = arguments.config, list(arguments.overrides)
    if file and "=" in file and not Path(file).exists():
        file, overrides = None, [file, *overrides]
    if arguments.skip_bad:
        overrides.append("data.skip_bad=true")
    return load_config(file, overrides)


def _performer_fit(arguments: argparse.Namespace) -> int:
    from paraphrase.core.data import load_dataset
    from paraphrase.core.performer import obtain_performer

    config = configuration(arguments)
    dataset = load_dataset(config.data)
    _tell_skipped(dataset.skipped)
    _, info = obtain_performer(config, dataset)
    print(f"{config.performer.arch} on {dataset.name}: test accuracy {info['accuracy']:.4f} ({len(dataset.test)} images)")
    print(f"kept in {info['folder']}")
    return 0


def _performer_layers(arguments: argparse.Namespace) -> int:
    import yaml

    from paraphrase.core.config import load_config
    from paraphrase.core.performer.performer import Performer, build_network
    from paraphrase.core.performer.spec import FIELDS, candidates, resolve_spec

    config = load_config(None, [f"performer.arch={arguments.arch}", *arguments.overrides]).performer
    network = build_network(config.arch, None, None, config.arguments, config.head, config.head_dropout)
    show_table([["layer", "C x n x n", "stride px", "field px"], *candidates(config, network)])
    spec = resolve_spec(config, network)
    rest = Performer(network, spec).rest()  # which sees whether the network can be cut there
    shown = {"arch": spec.arch, "input_size": spec.input_size} | {name: getattr(spec, name) for name in FIELDS}
    print(yaml.safe_dump({"performer": shown}, sort_keys=False, default_flow_style=None), end="")
    if rest is not None:
        print(f"# rest: {len(rest.nodes)} operations from the feature to the targets, frozen, behind the explainer's decoder")
    return 0


def _tell_skipped(skipped: list[str]) -> None:
    for line in skipped:
        print(f"skipped {line}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} damaged images skipped", file=sys.stderr)


def _cache_build(arguments: argparse.Namespace) -> int:
    from paraphrase.core.features.obtain import open_cache

    cache = open_cache(configuration(arguments))
    print(f"cache {cache.meta['key']}: {len(cache.train.labels)} training and {len(cache.test.labels)} test images")
    return 0


def _cache_verify(arguments: argparse.Namespace) -> int:
    from paraphrase.core.features.cache import find_cache, list_caches, verify_cache

    folders = [find_cache(arguments.key)] if arguments.key else [info.folder for info in list_caches()]
    for folder in folders:
        verify_cache(folder)
        print(f"{folder.name}: every file is as it was built")
    return 0


def _cache_list(arguments: argparse.Namespace) -> int:
    from paraphrase.core.features.cache import list_caches

    for info in list_caches():
        print(f"{info.folder.name}  {info.bytes / 2**20:8.1f} MiB  {info.description}")
    return 0


def _cache_remove(arguments: argparse.Namespace) -> int:
    from paraphrase.core.features.cache import remove_cache

    print(f"removed {remove_cache(arguments.key)}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    with waiting("loading torch"):
        from paraphrase.core.commands import train
        from paraphrase.core.measure.metrics import metrics_rows
        from paraphrase.core.train.training import TrainingEnded

    try:
        trained = train(config, arguments.out, arguments.resume)
    except TrainingEnded as error:
        print(f"paraphrase: the run ended: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({"folder": str(trained.folder), **trained.rows}))
        return 0
    show_table(metrics_rows(trained.rows), wide=arguments.wide)
    for line in trained.verdicts:
        print(line)
    print(f"explainer: {trained.folder}\nits filters: {trained.filters}\nall of them, to sort: {trained.gallery}")
    print(f"which parts its answers come from: paraphrase explain --explainer {trained.folder}")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.image is None and arguments.box:
        raise InputError("--box: belongs to an IMAGE, and none is given")
    if arguments.image is not None and arguments.category:
        raise InputError("--category: is for the averages; with an IMAGE the performer names the category")
    box = _box(arguments.box) if arguments.box else None
    with waiting("loading torch"):
        from paraphrase.core.commands import explain

    explained = explain(arguments.image, arguments.explainer, box, arguments.out, arguments.category)
    if arguments.image is None:
        below = f"{len(explained.pages)} pages and a gallery of all filters in {explained.pages[0].parent}"
    else:
        below = f"both are shares of the answer {explained.found['explained']}; the picture is in {explained.pages[0]}"
    if arguments.json:
        print(json.dumps(explained.found))
        return 0
    show_table(explained.table, wide=arguments.wide)
    print(*explained.lines, below, sep="\n")
    return 0


def _box(text: str) -> tuple[float, float, float, float]:
    """x, y, w, h of a flag."""
    try:
        x, y, w, h = (float(v) for v in text.split(","))
    except ValueError:
        raise InputError(f"--box {text}: expected X,Y,W,H, four numbers in pixels") from None
    return x, y, w, h
