"""Filters of two runs of a suite side by side, after figure 3 of the paper."""

from __future__ import annotations

import argparse
from pathlib import Path

from optuna.trial import FrozenTrial

from ablations.arms import BASE
from ablations.results import DIMENSION, task_of
from core.cache import open_cache
from core.config import Config
from core.errors import InputError
from core.filters_page import draw_side_by_side
from sweep.config import SweepConfig
from sweep.folder import sweep_folder, trial_folder
from sweep.results import complete_trials, load
from sweep.space import resolve


def draw_pages(name: str, folder: Path) -> dict[str, Path]:
    """Draw the base beside every other arm, first seed and task, into a folder; returns arm -> file."""
    sweep, study = load(name)
    runs = sorted(complete_trials(study) if study else [], key=lambda t: _config(sweep, t).train.seed)
    base = next((t for t in runs if t.params[DIMENSION] == BASE), None)
    pages: dict[str, Path] = {}
    for trial in runs if base else []:
        arm = trial.params[DIMENSION]
        if base and arm != BASE and arm not in pages and _key(sweep, trial) == _key(sweep, base):
            pages[arm] = draw_pair(name, base, trial, folder / f"base-{arm}.png")
    return {arm: pages[arm] for arm in sweep.space[DIMENSION].presets if arm in pages}


def draw_pair(name: str, left: FrozenTrial, right: FrozenTrial, out: Path) -> Path:
    """Draw the filters of two complete runs of one performer and data set on the same images."""
    sweep, _ = load(name)
    config = _config(sweep, left)
    titles = [f"{t.params[DIMENSION].replace('_', ' ')}, seed {_config(sweep, t).train.seed}" for t in (left, right)]
    folders = [trial_folder(name, t.number) / "explainer" for t in (left, right)]
    return draw_side_by_side(config, open_cache(config), dict(zip(titles, folders, strict=True)), out)


def _config(sweep: SweepConfig, trial: FrozenTrial) -> Config:
    return resolve(trial.params, sweep.space, sweep.base)


def _key(sweep: SweepConfig, trial: FrozenTrial) -> tuple:
    """What two runs must share to be looked at side by side: task and seed."""
    config = _config(sweep, trial)
    return task_of(config, trial.params), config.train.seed


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `compare` to the command line."""
    compare = commands.add_parser("compare", help="filters of two runs of a suite on the same images")
    compare.add_argument("name", help="the suite")
    compare.add_argument("runs", nargs=2, type=int, metavar="NUMBER", help="numbers of two runs, as MLflow names them")
    compare.add_argument("--out", type=Path, help="PNG file (default: in the suite's report folder)")
    compare.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    sweep, study = load(arguments.name)
    if DIMENSION not in sweep.space:
        raise InputError(f"{arguments.name}: is a sweep, not a suite; see `paraphrase ablate`")
    by_number = {t.number: t for t in complete_trials(study)} if study else {}
    for number in arguments.runs:
        if number not in by_number:
            raise InputError(f"{number}: {arguments.name} has no complete run of this number")
    left, right = (by_number[number] for number in arguments.runs)
    if _key(sweep, left)[0] != _key(sweep, right)[0]:
        raise InputError(f"{right.number}: is of another performer or category than {left.number}")
    file = "-".join(f"{number:03d}" for number in arguments.runs)
    out = arguments.out or sweep_folder(arguments.name) / "report" / "pages" / f"{file}.png"
    print(draw_pair(arguments.name, left, right, out))
    return 0
