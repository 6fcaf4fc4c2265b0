"""An ablation suite: arms times seeds (times performers, times categories), run as a grid sweep, so that it resumes, scales
and is recorded as one.

`python ablations/suite.py` does what `paraphrase ablate` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ablations.arms import ABLATIONS, arms, check_names
from ablations.report import write_suite_report
from ablations.results import AA, CATEGORY, DIMENSION, PERFORMER, task_configs
from ablations.statistics import seeds_needed, smallest_p_value
from core.cache import open_cache
from core.cli import configuration
from core.config import Config, apply_overrides, from_mapping, set_path, to_mapping
from core.errors import InputError
from core.metrics import LOWER_IS_BETTER
from core.performer.weights import load_performer
from sweep.config import Dimension, SweepConfig, check_sweep
from sweep.driver import resume_sweep, run_sweep, say
from sweep.folder import sweep_folder, sweep_names
from sweep.results import complete_trials, load, pick
from sweep.space import resolve

SETTINGS = ("resources", "max_retries", "storage", "tracking_uri", "experiment")
"""Fields of a sweep that a suite takes as they are."""

ALL = "all"
"""Among categories: the multi-category protocol."""


def suite_of(
    base: Config,
    name: str,
    seeds: int,
    names: list[str],
    performers: list[str] | None = None,
    categories: list[str] | None = None,
    aa: bool = False,
    settings: dict[str, Any] | None = None,
) -> SweepConfig:
    """The sweep that runs a suite; builds the feature caches that it needs.

    Args:
        base: what the arms differ from; its `train.seed` is the first seed.
        seeds: runs of each arm, performer and category.
        names: of `ABLATIONS`; empty: all.
        performers: architectures, or folders of fitted performers; empty: the base's.
        categories: of the single-category protocol, or `all` for the multi-category one; empty: the base's.
        aa: only the base, against itself with other seeds.
        settings: fields of the sweep that are the user's own, of `SETTINGS`.

    Raises:
        InputError: if the base, a name or the number of seeds is bad.
    """
    if seeds < 2:
        raise InputError(f"--seeds {seeds}: must be at least 2, so that runs can be paired")
    check_names(names)
    mapping = to_mapping(base)
    space = _task_dimensions(performers or [], categories or [])
    for dimension in space.values():  # the base is a task of the suite, so that no cache is built for nothing
        first = next(iter(dimension.presets.values()))
        for path, value in first.items():
            set_path(mapping, path, value)
    base = from_mapping(Config, mapping)
    fixed = {"name": name, "base": mapping, "objectives": {"reconstruction_error": "minimize"}, "sampler": "grid"}
    sweep = from_mapping(SweepConfig, (settings or {}) | fixed)
    sweep.space = space
    tasks = task_configs(sweep)
    channels = [open_cache(config).meta["channels"] for config in tasks.values()]
    chosen, idle = ({AA: {}}, []) if aa else arms(base, channels, names)
    if idle:
        say(f"left out, since the base has nothing to take away: {', '.join(idle)}")
    _warn_of_too_few(seeds, len(tasks), len(chosen) - 1)
    first_seed, count = base.train.seed, 2 * seeds if aa else seeds
    sweep.space = {
        DIMENSION: Dimension("preset", presets=chosen),
        **space,
        "train.seed": Dimension("int", low=first_seed, high=first_seed + count - 1),
    }
    sweep.trials = len(chosen) * len(tasks) * count
    check_sweep(sweep)
    return sweep


def _task_dimensions(performers: list[str], categories: list[str]) -> dict[str, Dimension]:
    """The dimensions over which a suite has several tasks."""
    space: dict[str, Dimension] = {}
    if performers:
        presets = {Path(p).name: _performer(p) for p in performers}
        if len(presets) < len(performers):
            raise InputError(f"--performers {','.join(performers)}: two have the same name")
        space[PERFORMER] = Dimension("preset", presets=presets)
    if categories:
        if len(set(categories)) < len(categories):
            raise InputError(f"--categories {','.join(categories)}: one is there twice")
        single: dict[str, dict[str, Any]] = {c: {"data.single_category": None if c == ALL else c} for c in categories}
        space[CATEGORY] = Dimension("preset", presets=single)
    return space


def _performer(name: str) -> dict[str, str]:
    """What a performer changes in the configuration: its architecture, and the weights where it is a folder."""
    if not Path(name).is_dir():
        return {"performer.arch": name}
    return {"performer.arch": load_performer(Path(name))[0].spec.arch, "performer.weights": str(Path(name).resolve())}


def _warn_of_too_few(seeds: int, tasks: int, compared: int) -> None:
    """Say before anything runs that so few pairs cannot give a significant difference."""
    if compared and smallest_p_value(seeds * tasks) * compared > 0.05:
        needed = seeds_needed(compared, tasks)
        say(f"{seeds} seeds can never make one of {compared} arms significant at 5 %; that takes {needed}")


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `ablate` to the command line."""
    ablate = commands.add_parser("ablate", help="what each ingredient of an explainer is worth")
    add_arguments(ablate)
    ablate.add_argument("--ablations", default="", help=f"comma-separated; default: all of {', '.join(ABLATIONS)}")
    ablate.set_defaults(run=lambda a: run_suite(a, [n for n in a.ablations.split(",") if n]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that every ablation script takes."""
    parser.add_argument("config", nargs="?", help="YAML file of the base configuration; default: the menagerie")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="fields on top, also resources.concurrency=2")
    parser.add_argument("--from-sweep", metavar="NAME", help="take the base from a trial of a sweep instead")
    parser.add_argument("--trial", default="best", help="its number, or best: the knee of the front (default)")
    parser.add_argument("--name", default="ablations", help="name of the suite (default: ablations)")
    parser.add_argument("--seeds", type=int, default=8, help="runs of each arm (default: 8)")
    parser.add_argument("--performers", default="", help="comma-separated architectures or folders of fitted performers")
    parser.add_argument("--categories", default="", help="comma-separated: each against the others; all: all at once")
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


def _settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sweep's fields among the overrides, which are taken out of them."""
    if arguments.config and "=" in arguments.config and not Path(arguments.config).exists():
        arguments.overrides, arguments.config = [arguments.config, *arguments.overrides], None
    own = [text for text in arguments.overrides if text.partition("=")[0].partition(".")[0] in SETTINGS]
    arguments.overrides = [text for text in arguments.overrides if text not in own]
    mapping: dict[str, Any] = {}
    apply_overrides(mapping, own)
    return mapping


def run_suite(arguments: argparse.Namespace, names: list[str]) -> int:
    """Run or resume a suite and print its table; returns the exit code."""
    if arguments.resume:
        if arguments.name not in sweep_names() or DIMENSION not in load(arguments.name)[0].space:
            raise InputError(f"--resume: there is no suite {arguments.name}; start it without the flag, or see --name")
        code = resume_sweep(arguments.name, changes=_settings_of(arguments).get("resources"))
    else:
        if arguments.name in sweep_names():
            raise InputError(f"--name {arguments.name}: exists already; add --resume to go on, or choose another name")
        performers, categories = ([n for n in t.split(",") if n] for t in (arguments.performers, arguments.categories))
        settings = _settings_of(arguments)
        base = base_of(arguments)
        suite = suite_of(base, arguments.name, arguments.seeds, names, performers, categories, arguments.aa, settings)
        code = run_sweep(suite)
    if code == 0:
        print(write_suite_report(arguments.name))
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
