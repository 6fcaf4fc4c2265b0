"""The `paraphrase` command: core's commands, and `sweep`, `report` and `ui`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli import add_commands
from core.errors import InputError

if TYPE_CHECKING:
    from sweep.page import Section

CONFIGS = Path(__file__).parent / "configs"


def main(
    arguments: list[str] | None = None,
    *more: Callable[[argparse._SubParsersAction], None],
    sections: Callable[[str], list[Section]] | None = None,
) -> int:
    """Entry point; returns the exit code: 0, 1 where training cannot go on, 2 for bad input, 130 after an interruption.

    Args:
        arguments: of the command line; None: the process's own.
        more: functions that add further commands.
        sections: name of a sweep -> what `report` puts below the summary of its page.
    """
    parser = argparse.ArgumentParser(prog="paraphrase", description="Explainer networks: sweeps and ablations.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_commands(commands)
    _add_sweep(commands)
    for add in more:
        add(commands)
    report = commands.add_parser("report", help="write the HTML report of a sweep or suite again, finished or not")
    report.add_argument("name")
    report.add_argument("--out", type=Path, help="HTML file (default: in the sweep's folder, and logged to its parent run)")
    report.set_defaults(run=_report, sections=sections)
    ui = commands.add_parser("ui", help="open MLflow's pages on this machine's loopback")
    ui.add_argument("name", nargs="?", help="a sweep; default: the home folder's own tracking store")
    ui.add_argument("--port", type=int, default=5000, help="port; the next free one is taken (default: 5000)")
    ui.add_argument("--no-browser", action="store_true", help="only print the address")
    ui.set_defaults(run=_ui)
    try:
        parsed = _parse(parser, arguments)
        return int(parsed.run(parsed))
    except InputError as error:
        print(f"paraphrase: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse; overrides may also stand after flags, where argparse alone would refuse them."""
    parsed, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(parsed, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    sweep = commands.add_parser("sweep", help="run, resume and read hyperparameter sweeps")
    parts = sweep.add_subparsers(required=True, metavar="ACTION")

    run = parts.add_parser("run", help="start a new sweep")
    run.add_argument("file", help=f"YAML file, or the name of one that comes with the code: {', '.join(_known())}")
    run.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top: trials=20 base.loss.eta=0.5")
    run.add_argument("--name", help="name of the sweep (default: the file's)")
    run.add_argument("--dry-run", action="store_true", help="print what would run and what it would cost")
    run.add_argument("--resume", action="store_true", help="go on with the sweep if it exists already")
    run.add_argument("--skip-bad", action="store_true", help="go on without damaged images")
    run.set_defaults(run=_run)

    resume = parts.add_parser("resume", help="go on with a sweep, to its budget or a larger one")
    resume.add_argument("name")
    resume.add_argument("--trials", type=int, help="new budget: number of trials that end")
    resume.add_argument("overrides", nargs="*", metavar="resources.field=value", help="other resources: resources.concurrency=4")
    resume.set_defaults(run=_resume)

    listing = parts.add_parser("list", help="all sweeps")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)

    show = parts.add_parser("show", help="the Pareto front beside the performer")
    show.add_argument("name")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(run=_show)

    export = parts.add_parser("export", help="CSV, one row a trial")
    export.add_argument("name")
    export.add_argument("--out", type=Path, help="file (default: standard output)")
    export.set_defaults(run=_export)

    pick = parts.add_parser("pick", help="one trial of the front, and how to train on with it")
    pick.add_argument("name")
    pick.add_argument("--where", action="append", default=[], metavar="BOUND", help='e.g. "p>=0.9"; can be repeated')
    pick.add_argument("--json", action="store_true", help="as JSON")
    pick.set_defaults(run=_pick)

    delete = parts.add_parser("delete", help="delete a sweep: its study, folder and MLflow runs")
    delete.add_argument("name")
    delete.set_defaults(run=_delete)


def _known() -> list[str]:
    return sorted(p.stem for p in CONFIGS.glob("*.yaml"))


def _find_file(text: str) -> Path:
    """A YAML file by its path, or by the name of one that comes with the code."""
    if Path(text).is_file():
        return Path(text)
    if text in _known():
        return CONFIGS / f"{text}.yaml"
    raise InputError(f"{text}: no such file; a path, or one of {', '.join(_known())}")


def _run(arguments: argparse.Namespace) -> int:
    from sweep.config import load_sweep

    overrides = [*arguments.overrides, *(["base.data.skip_bad=true"] if arguments.skip_bad else [])]
    sweep = load_sweep(_find_file(arguments.file), overrides, arguments.name)
    if arguments.dry_run:
        from sweep.estimate import describe_plan

        print(describe_plan(sweep))
        return 0
    from sweep.changes import changes_since_begun
    from sweep.driver import resume_sweep, run_sweep
    from sweep.folder import sweep_names

    if arguments.resume and sweep.name in sweep_names():
        return resume_sweep(sweep.name, *changes_since_begun(sweep))
    return run_sweep(sweep)


def _resume(arguments: argparse.Namespace) -> int:
    from core.config import apply_overrides
    from sweep.driver import resume_sweep

    changes: dict[str, Any] = {}
    apply_overrides(changes, arguments.overrides)
    if fixed := [field for field in changes if field != "resources"]:
        raise InputError(f"sweep resume: {fixed[0]} cannot be changed any more; only --trials and resources.* go with it")
    return resume_sweep(arguments.name, arguments.trials, changes.get("resources"))


def _list(arguments: argparse.Namespace) -> int:
    from sweep.progress import duration
    from sweep.results import describe_all

    sweeps = describe_all()
    if arguments.json:
        print(json.dumps(sweeps))
        return 0
    for sweep in sweeps:
        states = ", ".join(f"{count} {state}" for state, count in sweep["trials"].items() if count) or "no trials"
        print(f"{sweep['name']:<24} budget {sweep['budget']:>4}  {states}  ({duration(sweep['seconds'])})")
    if not sweeps:
        print("no sweeps yet; start one with `paraphrase sweep run menagerie`")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from sweep.progress import duration
    from sweep.results import describe, front_table, load

    description = describe(arguments.name)
    if arguments.json:
        print(json.dumps(description))
        return 0
    states = ", ".join(f"{count} {state}" for state, count in description["trials"].items() if count) or "no trials"
    print(f"{arguments.name}: budget {description['budget']}, {states}, {duration(description['seconds'])}")
    sweep, study = load(arguments.name)
    if study is not None:
        print(front_table(study, sweep))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from core.files import write_or_print
    from sweep.results import export_csv

    write_or_print(export_csv(arguments.name), arguments.out)
    return 0


def _pick(arguments: argparse.Namespace) -> int:
    from sweep.folder import trial_folder
    from sweep.results import metrics_of, pick
    from sweep.space import run_name

    trial = pick(arguments.name, arguments.where)
    folder = trial_folder(arguments.name, trial.number)
    command = f"paraphrase train {folder / 'config.yaml'} train.epochs=40"
    if arguments.json:
        fields = {"number": trial.number, "params": trial.params, "metrics": metrics_of(trial)}
        print(json.dumps(fields | {"folder": str(folder), "command": command}))
        return 0
    print(run_name(trial.number, trial.params))
    for metric, value in metrics_of(trial).items():
        print(f"  {metric:<22} {value:.4f}")
    print(f"its explainer: {folder / 'explainer'}")
    print(f"train longer with its configuration: {command}")
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    from sweep.driver import delete_sweep

    delete_sweep(arguments.name)
    print(f"deleted sweep {arguments.name}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from sweep.folder import read_sweep
    from sweep.report import report_again

    read_sweep(arguments.name)
    more = arguments.sections(arguments.name) if arguments.sections else []
    print(report_again(arguments.name, arguments.out, more))
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from sweep.ui import serve

    return serve(arguments.name, arguments.port, not arguments.no_browser)


if __name__ == "__main__":
    sys.exit(main())
