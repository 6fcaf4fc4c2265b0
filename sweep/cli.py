"""Commands of sweeps: `sweep`, `cluster` and `ui`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraphrase.core.errors import InputError
from paraphrase.core.terminal.commands import add_command
from paraphrase.core.terminal.console import say, show_fields, show_table, waiting

if TYPE_CHECKING:
    from paraphrase.sweep.commands import Sweep
    from paraphrase.sweep.settings.config import SweepConfig
    from paraphrase.sweep.study.results import Front

INTERRUPTED = 130
"""Exit code of a sweep that can go on."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `sweep`, `cluster` and `ui` to a parser; each sets `run`, a function of the arguments that returns the exit code."""
    _add_sweep(commands)
    _add_cluster(commands)
    fields = add_command(
        commands,
        "fields",
        "what can be written into YAML files and overrides",
        "fields loss",
        "fields resources",
        "fields --schema sweep > sweep.schema.json",
    )
    fields.add_argument("prefix", nargs="?", default="", help="only fields that begin so: loss, base, train.epochs")
    fields.add_argument("--schema", choices=("sweep", "config"), help="the JSON schema of such a file, for editors")
    fields.add_argument("--markdown", action="store_true", help="all of it as a Markdown page")
    fields.set_defaults(run=_fields)
    ui = add_command(commands, "ui", "open MLflow's pages on this machine's loopback", "ui", "ui mine --port 5001 --no-browser")
    ui.add_argument("name", nargs="?", help="a sweep; default: the home folder's own tracking store")
    ui.add_argument("--port", type=int, default=5000, help="port; the next free one is taken (default: 5000)")
    ui.add_argument("--no-browser", action="store_true", help="only print the address")
    ui.set_defaults(run=_ui)


def _fields(arguments: argparse.Namespace) -> int:
    from paraphrase.sweep.settings.schema import KINDS, about, fields, markdown, schema_of

    if arguments.schema:
        print(json.dumps(schema_of(arguments.schema), indent=1))
        return 0
    if arguments.markdown:
        print(markdown(), end="")
        return 0
    found = {kind: list(fields(kind, arguments.prefix)) for kind in KINDS}
    if not any(found.values()):
        raise InputError(f"{arguments.prefix}: no field begins so; `paraphrase fields` shows all")
    show_fields({f"Of {KINDS[kind]}": [(f.path, about(f), f.text) for f in some] for kind, some in found.items() if some})
    return 0


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    sweep = commands.add_parser("sweep", help="run, resume and read hyperparameter sweeps")
    parts = sweep.add_subparsers(required=True, metavar="ACTION")

    run = add_command(
        parts,
        "run",
        "start a new sweep",
        "sweep run menagerie",
        "sweep run mine.yaml --dry-run",
        "sweep run mine.yaml --name second trials=60 base.train.epochs=30",
        "sweep run mine.yaml --name third space.loss.eta.high=5",
    )
    run.add_argument("file", help="YAML file, or the name of one that comes with the code: menagerie, birds, animals_voc")
    run.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top: trials=20 base.loss.eta=0.5")
    run.add_argument("--name", help="name of the sweep (default: the file's)")
    run.add_argument("--dry-run", action="store_true", help="print what would run, what it would cost and what would stop it")
    run.add_argument("--resume", action="store_true", help="go on with the sweep if it exists already")
    run.add_argument("--skip-bad", action="store_true", help="go on without damaged images")
    _tables_can_be_wide(run)
    run.set_defaults(run=_run)

    resume = add_command(
        parts,
        "resume",
        "go on with a sweep, to its budget or a larger one",
        "sweep resume mine",
        "sweep resume mine --trials 80 resources.concurrency=4",
        "sweep resume mine --retry-failed",
    )
    resume.add_argument("name")
    resume.add_argument("--trials", type=int, help="new budget: number of trials that end")
    resume.add_argument("--retry-failed", action="store_true", help="try failed trials again, each in its own place")
    resume.add_argument("overrides", nargs="*", metavar="resources.field=value", help="other resources: resources.concurrency=4")
    _tables_can_be_wide(resume)
    resume.set_defaults(run=_resume)

    listing = parts.add_parser("list", help="all sweeps")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)

    show = add_command(parts, "show", "the Pareto front beside the performer", "sweep show mine", "sweep show mine --json")
    show.add_argument("name")
    show.add_argument("--json", action="store_true", help="as JSON")
    _tables_can_be_wide(show)
    show.set_defaults(run=_show)

    export = add_command(parts, "export", "CSV, one row a trial", "sweep export mine --out mine.csv")
    export.add_argument("name")
    export.add_argument("--out", type=Path, help="file (default: standard output)")
    export.set_defaults(run=_export)

    pick = add_command(
        parts,
        "pick",
        "one trial of the front, and how to train on with it: the knee, or the best that keeps the bounds",
        "sweep pick mine",
        'sweep pick mine --where "p>=0.9" --where "fidelity>=0.95"',
    )
    pick.add_argument("name")
    pick.add_argument("--where", action="append", default=[], metavar="BOUND", help='e.g. "p>=0.9"; can be repeated')
    pick.add_argument("--json", action="store_true", help="as JSON")
    pick.set_defaults(run=_pick)

    delete = parts.add_parser("delete", help="delete a sweep: its study, folder and MLflow runs")
    delete.add_argument("name")
    delete.set_defaults(run=_delete)


def _add_cluster(commands: argparse._SubParsersAction) -> None:
    parts = commands.add_parser("cluster", help="look at the machines that sweeps run on").add_subparsers(
        required=True, metavar="ACTION"
    )
    doctor = add_command(
        parts,
        "doctor",
        "whether token, nodes, store, databases, clocks and GPUs are as a sweep needs them, and what to do where not",
        "cluster doctor",
        "cluster doctor mine.yaml --address auto",
        "cluster doctor menagerie store=s3://bucket/prefix resources.gpus_per_trial=1",
    )
    doctor.add_argument(
        "file", nargs="?", default="menagerie", help="a sweep: a YAML file, or the name of one that comes with the code"
    )
    doctor.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top")
    doctor.add_argument("--address", help="of a running Ray cluster: host:port or auto (default: the sweep's, or $RAY_ADDRESS)")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from paraphrase.sweep.settings.config import find_sweep_file, load_sweep

    address = [f"resources.address={arguments.address}"] if arguments.address else []
    sweep = load_sweep(find_sweep_file(arguments.file), [*arguments.overrides, *address])
    with waiting("loading torch, ray and mlflow"):
        from paraphrase.sweep.doctor import diagnose
    findings = []
    for finding in diagnose(sweep):
        findings.append(finding)
        if not arguments.json:
            print(f"{finding.state:<8} {finding.check:<10} {finding.found}", flush=True)
    if arguments.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    return 2 if any(finding.state == "wrong" for finding in findings) else 0


def _tables_can_be_wide(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wide", action="store_true", help="all columns of a table side by side, however wide")


def _run(arguments: argparse.Namespace) -> int:
    from paraphrase.sweep.settings.config import find_sweep_file, load_sweep

    overrides = [*arguments.overrides, *(["base.data.skip_bad=true"] if arguments.skip_bad else [])]
    sweep = load_sweep(find_sweep_file(arguments.file), overrides, arguments.name)
    with waiting("loading torch, ray and mlflow"):
        if arguments.dry_run:
            return show_plan(sweep)
        from paraphrase.sweep.commands import run

        _load_what_trials_need()
    return _ended(run(sweep, resume=arguments.resume), arguments.wide)


def show_plan(sweep: SweepConfig) -> int:
    """Print what a sweep would run, and a line for each thing that would stop it; returns the exit code."""
    from paraphrase.sweep.driver.plan import describe_plan, problems
    from paraphrase.sweep.settings.places import absolute, tracked

    sweep = absolute(tracked(sweep))
    print(describe_plan(sweep), flush=True)
    found = problems(sweep)
    for problem in found:
        say(f"paraphrase: {problem}")
    return 2 if found else 0


def _load_what_trials_need() -> None:
    """Import what takes seconds while something says so."""
    from paraphrase.sweep.workers.cluster import quiet_ray

    quiet_ray()
    import paraphrase.core.train.training
    import paraphrase.sweep.record.tracking
    import paraphrase.sweep.workers.trainable  # noqa: F401


def _ended(sweep: Sweep, wide: bool) -> int:
    """Show what a sweep found and what to type next; returns the exit code."""
    if sweep.missing > 0:
        return INTERRUPTED
    show_front(sweep.tables, wide)
    if not sweep.trials:
        return 1
    best = sweep.best()
    best.bring()
    print(f"\nreport: {sweep.report}")
    print(f"the knee of the front, nearest to the best of every objective, is trial {best.number}: {best.folder}")
    print(f"next: paraphrase ui {sweep.name}, or paraphrase explain --explainer {best.folder / 'explainer'}")
    return 0


def show_front(front: Front, wide: bool) -> None:
    """Print a front: metrics, then parameters."""
    show_table(front.metrics, wide=wide)
    if len(front.params) > 1:
        print()
        show_table(front.params, wide=wide)
    if front.note:
        print(front.note)


def _resume(arguments: argparse.Namespace) -> int:
    from paraphrase.core.config import apply_overrides

    changes: dict[str, Any] = {}
    apply_overrides(changes, arguments.overrides)
    if fixed := [field for field in changes if field != "resources"]:
        raise InputError(f"sweep resume: {fixed[0]} cannot be changed any more; only --trials and resources.* go with it")
    with waiting("loading torch, ray and mlflow"):
        from paraphrase.sweep.commands import Sweep
        from paraphrase.sweep.driver.run import resume_sweep

        _load_what_trials_need()
    resume_sweep(arguments.name, arguments.trials, changes.get("resources"), arguments.retry_failed)
    return _ended(Sweep(arguments.name), arguments.wide)


def _list(arguments: argparse.Namespace) -> int:
    from paraphrase.core.terminal.console import duration
    from paraphrase.sweep.study.results import describe_all

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
    from paraphrase.core.files import read_text
    from paraphrase.core.terminal.console import duration
    from paraphrase.sweep.settings.folder import SUITE_TABLES, sweep_folder
    from paraphrase.sweep.study.results import describe, front_of, load

    description = describe(arguments.name)
    if arguments.json:
        print(json.dumps(description))
        return 0
    states = ", ".join(f"{count} {state}" for state, count in description["trials"].items() if count) or "no trials"
    print(f"{arguments.name}: budget {description['budget']}, {states}, {duration(description['seconds'])}")
    sweep, study = load(arguments.name)
    file = sweep_folder(arguments.name) / "report" / SUITE_TABLES
    if tables := json.loads(read_text(file)) if file.exists() else []:
        for title, cells in tables:
            print()
            show_table(cells, title, arguments.wide)
    elif study is not None:
        show_front(front_of(study, sweep), arguments.wide)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from paraphrase.core.files import write_or_print
    from paraphrase.sweep.study.results import export_csv

    write_or_print(export_csv(arguments.name), arguments.out)
    return 0


def _pick(arguments: argparse.Namespace) -> int:
    from paraphrase.sweep.settings.folder import trial_folder
    from paraphrase.sweep.settings.space import in_short
    from paraphrase.sweep.study.results import metrics_of, pick, picking_rule

    trial, rule = pick(arguments.name, arguments.where), picking_rule(arguments.name, arguments.where)
    folder = trial_folder(arguments.name, trial.number)
    command = f"paraphrase train {folder / 'config.yaml'} train.epochs=40"
    if arguments.json:
        fields = {"number": trial.number, "params": trial.params, "metrics": metrics_of(trial)}
        print(json.dumps(fields | {"folder": str(folder), "command": command, "rule": rule}))
        return 0
    print(f"trial {trial.number}: {in_short(trial.params)}\n({rule})")
    for metric, value in metrics_of(trial).items():
        print(f"  {metric:<22} {value:.4f}")
    print(f"its explainer: {folder / 'explainer'}")
    print(f"train longer with its configuration: {command}")
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    from paraphrase.sweep.driver.run import delete_sweep

    delete_sweep(arguments.name)
    print(f"deleted sweep {arguments.name}")
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from paraphrase.sweep.ui import serve

    return serve(arguments.name, arguments.port, not arguments.no_browser)
