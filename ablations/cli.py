"""Commands of ablations, and `report`, of a sweep or suite."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraphrase.core.cli import configuration
from paraphrase.core.errors import InputError
from paraphrase.core.terminal.commands import add_command
from paraphrase.core.terminal.console import show_table, waiting
from paraphrase.sweep.cli import INTERRUPTED, show_plan

if TYPE_CHECKING:
    from paraphrase.ablations.commands import Suite
    from paraphrase.core.config import Config

BASE = "base"
"""Name of the arm that takes nothing away."""

FORMATS = ("text", "csv", "markdown", "latex")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `ablate`, `tables`, `compare` and `report`; each sets `run`, a function of the arguments that returns the exit code."""
    _add_ablate(commands)
    _add_tables(commands)
    _add_compare(commands)
    report = add_command(
        commands,
        "report",
        "write the HTML report of a sweep or suite again, finished or not",
        "report mine --out mine.html",
    )
    report.add_argument("name")
    report.add_argument("--out", type=Path, help="HTML file (default: in the sweep's folder, and logged to its parent run)")
    report.set_defaults(run=_report)


def _add_ablate(commands: argparse._SubParsersAction) -> None:
    ablate = add_command(
        commands,
        "ablate",
        "what each ingredient of an explainer is worth",
        "ablate --list",
        "ablate mine.yaml --ablations no_ordinary_track,no_filter_loss --seeds 8",
        "ablate mine.yaml --seeds 4 --dry-run",
        "ablate --from-sweep mine --trial best --name mine-parts",
        "ablate --resume --name mine-parts",
    )
    ablate.add_argument("config", nargs="?", help="YAML file of the base configuration; default: the menagerie")
    ablate.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top, also resources.concurrency=2")
    ablate.add_argument("--ablations", default="", help="comma-separated; default: all; base: none")
    ablate.add_argument("--list", action="store_true", help="name and describe all ablations, and end")
    ablate.add_argument("--from-sweep", metavar="NAME", help="take the base from a trial of a sweep instead")
    ablate.add_argument("--trial", help="its number, or best: the knee of the front (default)")
    ablate.add_argument("--name", default="ablations", help="name of the suite (default: ablations)")
    ablate.add_argument("--seeds", type=int, help="runs of each arm (default: 8)")
    ablate.add_argument("--performers", default="", help="comma-separated architectures or folders of fitted performers")
    ablate.add_argument("--categories", default="", help="comma-separated: each against the others; all: all at once")
    ablate.add_argument("--aa", action="store_true", help="A/A suite: the base against itself with other seeds")
    ablate.add_argument("--dry-run", action="store_true", help="print what would run, what it would cost and what would stop it")
    ablate.add_argument("--resume", action="store_true", help="go on with the suite of this name")
    ablate.add_argument("--skip-bad", action="store_true", help="go on without damaged images")
    ablate.add_argument("--wide", action="store_true", help="all columns of a table side by side, however wide")
    ablate.set_defaults(run=_ablate)


def _ablate(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list_ablations()
    with waiting("loading torch, ray and mlflow"):
        from paraphrase.ablations import commands

    settings = _settings_of(arguments, commands.SETTINGS)
    names, performers, categories = (
        [n for n in text.split(",") if n] for text in (arguments.ablations, arguments.performers, arguments.categories)
    )
    if arguments.resume:
        _refuse_changes(arguments, settings, names)
        suite = commands.go_on(arguments.name, settings.get("resources"))
    else:
        given = _base_of(arguments), arguments.name, arguments.seeds, names, performers, categories, arguments.aa
        if arguments.dry_run:
            return show_plan(commands.planned(*given, _flat(settings)))
        suite = commands.ablate(*given, **_flat(settings))
    if suite.missing > 0:
        return INTERRUPTED
    if not suite.trials:
        return 1
    _show_suite(suite, arguments.wide)
    return 0


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    from paraphrase.core.config import flatten

    return flatten(settings)


def _list_ablations() -> int:
    from paraphrase.ablations.arms import ABLATIONS

    show_table([["ablation", "what is taken away or exchanged"], *([name, a.title] for name, a in ABLATIONS.items())], keys=2)
    return 0


def _show_suite(suite: Suite, wide: bool) -> None:
    """Print every arm against the base, a table for each metric; the base's own metrics where there is no other arm."""
    from paraphrase.ablations.results import tables_of

    tables = tables_of(suite.comparisons)
    for title, rows in tables:
        show_table(rows, title, wide)
        print()
    if not tables:
        print((suite.folder / "report" / "tables.txt").read_text(), end="")
    print(f"tables and figures: {suite.folder / 'report'}")
    print(f"report: {suite.report}\nnext: paraphrase ui {suite.name}")


def _base_of(arguments: argparse.Namespace) -> Config:
    """The base configuration of the flags, with the overrides on top.

    Raises:
        InputError: if the sweep has no such trial, or flags contradict each other.
    """
    from paraphrase.ablations.commands import config_of_trial
    from paraphrase.core.config import Config, apply_overrides, from_mapping, to_mapping

    if not arguments.from_sweep:
        if arguments.trial:
            raise InputError(f"--trial {arguments.trial}: is of a sweep; say which with --from-sweep")
        return configuration(arguments)
    if arguments.config:
        raise InputError(f"--from-sweep {arguments.from_sweep}: takes the base from a trial; leave out {arguments.config}")
    mapping = to_mapping(config_of_trial(arguments.from_sweep, arguments.trial or "best"))
    apply_overrides(mapping, [*arguments.overrides, *(["data.skip_bad=true"] if arguments.skip_bad else [])])
    return from_mapping(Config, mapping)


def _settings_of(arguments: argparse.Namespace, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The sweep's fields among the overrides, which are taken out of them."""
    from paraphrase.core.config import apply_overrides

    if arguments.config and "=" in arguments.config and not Path(arguments.config).exists():
        arguments.overrides, arguments.config = [arguments.config, *arguments.overrides], None
    own = [text for text in arguments.overrides if text.partition("=")[0].partition(".")[0] in allowed]
    arguments.overrides = [text for text in arguments.overrides if text not in own]
    mapping: dict[str, Any] = {}
    apply_overrides(mapping, own)
    return mapping


def _refuse_changes(arguments: argparse.Namespace, settings: Mapping[str, Any], names: list[str]) -> None:
    """A suite goes on as it was begun, on other resources if need be; its own ablations may be said again."""
    from paraphrase.ablations.commands import Suite

    arms = Suite.named(arguments.name).arms
    given = [arguments.config, *arguments.overrides, *(k for k in settings if k != "resources")]
    other = names and {BASE, *names} != {BASE, *arms}
    flags = ("from_sweep", "trial", *(["ablations"] if other else []), "performers", "categories", "aa", "seeds", "skip_bad")
    given += ["--" + flag.replace("_", "-") for flag in flags if getattr(arguments, flag)]
    if given := [text for text in given if text]:
        raise InputError(f"--resume: {given[0]} cannot be changed any more; only --name and resources.* go with it")


def _add_tables(commands: argparse._SubParsersAction) -> None:
    tables = add_command(
        commands,
        "tables",
        "the paper's tables for what was run, with its own figures beside",
        "tables ablations --format latex --out tables.tex",
    )
    tables.add_argument("names", nargs="+", metavar="NAME", help="suites, or sweeps (then their knee trial)")
    tables.add_argument("--arm", default=BASE, help="arm of a suite (default: base)")
    tables.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    tables.add_argument("--out", type=Path, help="file (default: standard output)")
    tables.set_defaults(run=_tables)


def _tables(arguments: argparse.Namespace) -> int:
    from paraphrase.ablations.report.tables import measure, render
    from paraphrase.core.files import write_or_print

    text = render([cell for name in arguments.names for cell in measure(name, arguments.arm)], arguments.format)
    write_or_print(text, arguments.out)
    return 0


def _add_compare(commands: argparse._SubParsersAction) -> None:
    compare = add_command(
        commands,
        "compare",
        "any two trials: metrics, what is configured otherwise, and their filters on the same images",
        "compare mine/3 mine/12",
        "compare mine other                # the knees of two sweeps",
        "compare mine-parts 3 12           # two runs of one suite",
    )
    compare.add_argument(
        "trials", nargs="+", metavar="TRIAL", help="NAME/NUMBER; NAME: a sweep's knee, a suite's base; or NAME NUMBER NUMBER"
    )
    compare.add_argument("--out", type=Path, help="PNG file (default: in the report folder of the first)")
    compare.add_argument("--wide", action="store_true", help="all columns of a table side by side, however wide")
    compare.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    given = arguments.trials
    if len(given) == 3 and all(number.isdecimal() for number in given[1:]):
        given = [f"{given[0]}/{number}" for number in given[1:]]
    if len(given) != 2:
        raise InputError(f"compare: {' '.join(given)}: expected two trials, NAME/NUMBER or NAME, or NAME NUMBER NUMBER")
    with waiting("measuring and drawing"):
        from paraphrase.ablations.comparison import compare

        compared = compare(given[0], given[1], arguments.out)
    show_table(compared.metrics, wide=arguments.wide)
    if len(compared.differences) > 1:
        print()
        show_table(compared.differences, wide=arguments.wide)
    print()
    print(compared.page or "of other images or another performer, so their filters are not drawn side by side")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from paraphrase.ablations.report.write import sections_of
    from paraphrase.sweep.report.write import report_again
    from paraphrase.sweep.settings.folder import read_sweep

    read_sweep(arguments.name)
    with waiting("drawing the report"):
        page = report_again(arguments.name, arguments.out, sections_of(arguments.name))
    print(page)
    return 0
