"""An ablation suite: arms times seeds, run as a grid sweep, so that it resumes, scales and is recorded as one.

`python ablations/suite.py` does what `paraphrase ablate` does.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np

from ablations.arms import ABLATIONS, BASE, arms
from ablations.statistics import Comparison, compare, holm, seeds_needed, smallest_p_value
from core.cli import configuration
from core.config import Config, to_mapping
from core.errors import InputError
from core.metrics import KEYS, LOWER_IS_BETTER
from core.tables import text_table
from sweep.config import Dimension, SweepConfig, check_sweep
from sweep.driver import prepare, resume_sweep, run_sweep, say
from sweep.folder import sweep_folder, sweep_names, tracking_uri, write_atomically
from sweep.results import complete_trials, load, pick
from sweep.space import resolve
from sweep.tracking import log_to_parent

DIMENSION = "ablation"
"""Name of the dimension that chooses the arm, and of the tag that runs are grouped by."""


def suite_of(base: Config, name: str, seeds: int, names: list[str], aa: bool = False) -> SweepConfig:
    """The sweep that runs a suite.

    Args:
        base: what the arms differ from; its `train.seed` is the first seed.
        seeds: runs of each arm.
        names: of `ABLATIONS`; empty: all.
        aa: only the base, against itself with other seeds.

    Raises:
        InputError: if the base, a name or the number of seeds is bad.
    """
    if seeds < 2:
        raise InputError(f"--seeds {seeds}: must be at least 2, so that runs can be paired")
    sweep = SweepConfig(name=name, base=to_mapping(base), objectives={"reconstruction_error": "minimize"}, sampler="grid")
    first = base.train.seed
    channels = prepare(sweep).meta["channels"]
    chosen, idle = ({BASE: {}}, []) if aa else arms(base, channels, names)
    if idle:
        say(f"left out, since the base has nothing to take away: {', '.join(idle)}")
    count = 2 * seeds if aa else seeds
    if (compared := len(chosen) - 1) and smallest_p_value(seeds) * compared > 0.05:
        say(f"{seeds} seeds can never make one of {compared} arms significant at 5 %; that takes {seeds_needed(compared)}")
    sweep.space = {
        DIMENSION: Dimension("preset", presets=chosen),
        "train.seed": Dimension("int", low=first, high=first + count - 1),
    }
    sweep.trials = len(chosen) * count
    check_sweep(sweep)
    return sweep


def values_by_arm(name: str) -> dict[str, dict[int, Mapping[str, float]]]:
    """Arm -> seed -> metrics of the complete runs of a suite."""
    sweep, study = load(name)
    found: dict[str, dict[int, Mapping[str, float]]] = {arm: {} for arm in sweep.space[DIMENSION].presets}
    for trial in complete_trials(study) if study else []:
        seed = resolve(trial.params, sweep.space, sweep.base).train.seed
        found[trial.params[DIMENSION]][seed] = trial.user_attrs["metrics"]
    if list(found) == [BASE]:  # an A/A suite: the second half of the seeds plays the arm
        runs = sorted(found[BASE].items())
        half = len(runs) // 2
        found = {
            BASE: dict(runs[:half]),
            "base, other seeds": {s: m for (s, _), (_, m) in zip(runs[:half], runs[half:], strict=False)},
        }
    return found


def comparisons(name: str) -> dict[str, dict[str, Comparison | None]]:
    """Metric -> arm -> comparison with the base, paired by seed; None where the metric is not defined for the arm."""
    runs = values_by_arm(name)
    base = runs.pop(BASE)
    table: dict[str, dict[str, Comparison | None]] = {}
    for metric in KEYS:
        row: dict[str, Comparison | None] = {}
        for arm, of_arm in runs.items():
            seeds = [s for s in sorted(base) if metric in base[s] and metric in of_arm.get(s, {})]
            of_base = np.array([base[s][metric] for s in seeds])
            row[arm] = compare(of_base, np.array([of_arm[s][metric] for s in seeds])) if len(seeds) >= 2 else None
        if any(row.values()):
            table[metric] = row
    return table


HEADER = ["metric", "arm", "pairs", "base", "arm mean", "difference", "low", "high", "p", "p (Holm)", "effect size"]


def rows_of(table: Mapping[str, Mapping[str, Comparison | None]]) -> list[list[Any]]:
    """A row for each metric and arm; p-values are corrected over the arms of a metric."""
    rows: list[list[Any]] = []
    for metric, row in table.items():
        corrected = holm([c.p_value if c else math.nan for c in row.values()])
        for (arm, c), p in zip(row.items(), corrected, strict=True):
            if c is None:
                rows.append([metric, arm, 0, *["not defined"] * 8])
            else:
                rows.append([metric, arm, c.pairs, c.base, c.arm, c.difference, c.low, c.high, c.p_value, p, c.effect_size])
    return rows


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def write_tables(name: str) -> str:
    """Write a suite's table as text, CSV and Markdown and its forest plots into its folder and MLflow; returns the text."""
    from ablations.figures import draw_forests

    table = comparisons(name)
    rows = rows_of(table)
    folder = sweep_folder(name) / "report"
    text = text_table([HEADER, *([_cell(v) for v in row] for row in rows)])
    out = StringIO()
    csv.writer(out, lineterminator="\n").writerows([HEADER, *rows])
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in [HEADER, ["---"] * len(HEADER), *rows]]
    files = {"ablations.txt": text + "\n", "ablations.csv": out.getvalue(), "ablations.md": "\n".join(lines) + "\n"}
    for file, content in files.items():
        write_atomically(folder / file, content)
    plot = draw_forests(table, folder / "ablations.png")
    sweep, _ = load(name)
    log_to_parent(tracking_uri(sweep), sweep.experiment, name, [*(folder / f for f in files), plot])
    return text


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `ablate` to the command line."""
    ablate = commands.add_parser("ablate", help="what each ingredient of an explainer is worth")
    add_arguments(ablate)
    ablate.add_argument("--ablations", default="", help=f"comma-separated; default: all of {', '.join(ABLATIONS)}")
    ablate.set_defaults(run=lambda a: run_suite(a, [n for n in a.ablations.split(",") if n]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that every ablation script takes."""
    parser.add_argument("config", nargs="?", help="YAML file of the base configuration; default: the menagerie")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top, e.g. train.epochs=5")
    parser.add_argument("--from-sweep", metavar="NAME", help="take the base from a trial of a sweep instead")
    parser.add_argument("--trial", default="best", help="its number, or best: the knee of the front (default)")
    parser.add_argument("--name", default="ablations", help="name of the suite (default: ablations)")
    parser.add_argument("--seeds", type=int, default=8, help="runs of each arm (default: 8)")
    parser.add_argument("--aa", action="store_true", help="A/A suite: the base against itself with other seeds")
    parser.add_argument("--resume", action="store_true", help="go on with the suite of this name")
    parser.add_argument("--skip-bad", action="store_true", help="go on without damaged images")


def base_of(arguments: argparse.Namespace) -> Config:
    """The base configuration of the flags.

    Raises:
        InputError: if the sweep has no such trial.
    """
    if not arguments.from_sweep:
        return configuration(arguments)
    sweep, study = load(arguments.from_sweep)
    if arguments.trial == "best":
        return resolve(pick(arguments.from_sweep).params, sweep.space, sweep.base)
    for trial in complete_trials(study) if study else []:
        if str(trial.number) == arguments.trial:
            return resolve(trial.params, sweep.space, sweep.base)
    raise InputError(f"--trial {arguments.trial}: {arguments.from_sweep} has no complete trial of this number; or say best")


def run_suite(arguments: argparse.Namespace, names: list[str]) -> int:
    """Run or resume a suite and print its table; returns the exit code."""
    if arguments.resume:
        if arguments.name not in sweep_names() or DIMENSION not in load(arguments.name)[0].space:
            raise InputError(f"--resume: there is no suite {arguments.name}; start it without the flag, or see --name")
        code = resume_sweep(arguments.name)
    else:
        if arguments.name in sweep_names():
            raise InputError(f"--name {arguments.name}: exists already; add --resume to go on, or choose another name")
        code = run_sweep(suite_of(base_of(arguments), arguments.name, arguments.seeds, names, arguments.aa))
    if code == 0:
        print(write_tables(arguments.name))
        print("lower is better: " + ", ".join(sorted(LOWER_IS_BETTER)))
        print(f"tables and figures in {sweep_folder(arguments.name) / 'report'}")
    return code


def main(names: list[str] | None = None) -> int:
    """A script's entry point: the whole suite, or only these ablations."""
    parser = argparse.ArgumentParser(description=__doc__ if names is None else f"Ablation: {', '.join(names)}")
    add_arguments(parser)
    try:
        return run_suite(parser.parse_args(), names or [])
    except InputError as error:
        print(f"paraphrase: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
