"""The `paraphrase` command with all its parts; what they need is imported when they run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.arms import ABLATIONS, BASE
from sweep.cli import main as sweep_main

if TYPE_CHECKING:
    from sweep.page import Section

FORMATS = ("text", "csv", "markdown", "latex")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return sweep_main(arguments, _add_ablate, _add_tables, _add_compare, sections=_sections)


def _add_ablate(commands: argparse._SubParsersAction) -> None:
    ablate = commands.add_parser("ablate", help="what each ingredient of an explainer is worth")
    ablate.add_argument("config", nargs="?", help="YAML file of the base configuration; default: the menagerie")
    ablate.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top, also resources.concurrency=2")
    ablate.add_argument("--ablations", default="", help=f"comma-separated; default: all of {', '.join(ABLATIONS)}; base: none")
    ablate.add_argument("--from-sweep", metavar="NAME", help="take the base from a trial of a sweep instead")
    ablate.add_argument("--trial", help="its number, or best: the knee of the front (default)")
    ablate.add_argument("--name", default="ablations", help="name of the suite (default: ablations)")
    ablate.add_argument("--seeds", type=int, help="runs of each arm (default: 8)")
    ablate.add_argument("--performers", default="", help="comma-separated architectures or folders of fitted performers")
    ablate.add_argument("--categories", default="", help="comma-separated: each against the others; all: all at once")
    ablate.add_argument("--aa", action="store_true", help="A/A suite: the base against itself with other seeds")
    ablate.add_argument("--resume", action="store_true", help="go on with the suite of this name")
    ablate.add_argument("--skip-bad", action="store_true", help="go on without damaged images")
    ablate.set_defaults(run=_ablate)


def _ablate(arguments: argparse.Namespace) -> int:
    from ablations.suite import run_suite

    return run_suite(arguments)


def _add_tables(commands: argparse._SubParsersAction) -> None:
    tables = commands.add_parser("tables", help="the paper's tables for what was run, with its own figures beside")
    tables.add_argument("names", nargs="+", metavar="NAME", help="suites, or sweeps (then their knee trial)")
    tables.add_argument("--arm", default=BASE, help="arm of a suite (default: base)")
    tables.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    tables.add_argument("--out", type=Path, help="file (default: standard output)")
    tables.set_defaults(run=_tables)


def _tables(arguments: argparse.Namespace) -> int:
    from ablations.tables import measure, render
    from core.files import write_or_print

    text = render([cell for name in arguments.names for cell in measure(name, arguments.arm)], arguments.format)
    write_or_print(text, arguments.out)
    return 0


def _add_compare(commands: argparse._SubParsersAction) -> None:
    compare = commands.add_parser("compare", help="filters of two runs of a suite on the same images")
    compare.add_argument("name", help="the suite")
    compare.add_argument("runs", nargs=2, type=int, metavar="NUMBER", help="numbers of two runs, as MLflow names them")
    compare.add_argument("--out", type=Path, help="PNG file (default: in the suite's report folder)")
    compare.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from ablations.pages import draw_runs

    left, right = arguments.runs
    print(draw_runs(arguments.name, left, right, arguments.out))
    return 0


def _sections(name: str) -> list[Section]:
    from ablations.report import sections_of

    return sections_of(name)


if __name__ == "__main__":
    sys.exit(main())
