"""An ablation suite: arms times seeds (times performers, times categories), run as a grid sweep, so that it resumes, scales
and is recorded as one.

`python ablations/suite.py` does what `paraphrase ablate` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.arms import BASE, arms, check_names
from ablations.paired import SIGNIFICANT, seeds_needed, smallest_p_value
from ablations.report import write_suite_report
from ablations.results import AA, CATEGORY, DIMENSION, PERFORMER, task_configs
from core.cache import open_cache
from core.cli import configuration
from core.config import Config, apply_overrides, from_mapping, set_path, to_mapping
from core.errors import InputError
from core.keys import LOWER_IS_BETTER
from core.performer.weights import load_performer
from sweep.config import ALL, Dimension, SweepConfig, check_name, check_sweep
from sweep.driver import resume_sweep, run_sweep, say
from sweep.folder import sweep_folder, sweep_names
from sweep.results import complete_trials, load, pick
from sweep.space import resolve

SETTINGS = ("resources", "max_retries", "storage", "tracking_uri", "experiment")
"""Fields of a sweep that a suite takes as they are."""

SEEDS = 8
"""Runs of each arm, unless the user says otherwise."""


def suite_of(
    base: Config,
    name: str,
    seeds: int | None,
    names: list[str],
    performers: list[str] | None = None,
    categories: list[str] | None = None,
    aa: bool = False,
    settings: dict[str, Any] | None = None,
) -> SweepConfig:
    """The sweep that runs a suite; builds the feature caches that it needs.

    Args:
        base: what the arms differ from; its `train.seed` is the first seed.
        seeds: runs of each arm, performer and category; None: `SEEDS`.
        names: of `ABLATIONS`; empty: all.
        performers: architectures, or folders of fitted performers; empty: the base's.
        categories: of the single-category protocol, or `all` for the multi-category one; empty: the base's.
        aa: only the base, against itself with other seeds.
        settings: fields of the sweep that are the user's own, of `SETTINGS`.

    Raises:
        InputError: if the base, a name or the number of seeds is bad.
    """
    seeds = SEEDS if seeds is None else seeds
    if seeds < 2:
        raise InputError(f"--seeds {seeds}: must be at least 2, so that runs can be paired")
    check_names(names)
    if base.train.replicates > 1:  # they have the next seeds, which are other runs' own
        say(f"train.replicates is 1 in a suite, not {base.train.replicates}: its runs are the replicates")
    mapping = to_mapping(base)
    mapping["train"]["replicates"] = 1
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
    _warn_of_too_few(seeds, len(tasks), 1 if aa else len(chosen) - 1)
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


def _performer(name: str) -> dict[str, Any]:
    """What a performer changes: its architecture; weights, size and layers too where it is a fitted one's folder."""
    if not Path(name).is_dir():
        return {"performer.arch": name}
    spec = load_performer(Path(name))[0].spec
    layers = {k: getattr(spec, k) for k in ("arch", "feature", "pool", "targets", "decoder_init", "input_size")}
    layers |= {k: list(v) for k, v in layers.items() if isinstance(v, tuple)}
    return {f"performer.{k}": v for k, v in layers.items()} | {"performer.weights": str(Path(name).resolve())}


def _warn_of_too_few(seeds: int, tasks: int, compared: int) -> None:
    """Say before anything runs that so few pairs cannot give a significant difference."""
    if compared and smallest_p_value(seeds, tasks) * compared > SIGNIFICANT:
        needed = seeds_needed(compared, tasks)
        say(f"{seeds} seeds can never make one of {compared} arms significant at 5 %; that takes {needed}")


def base_of(arguments: argparse.Namespace) -> Config:
    """The base configuration of the flags, with the overrides on top.

    Raises:
        InputError: if the sweep has no such trial, or flags contradict each other.
    """
    if not arguments.from_sweep:
        if arguments.trial:
            raise InputError(f"--trial {arguments.trial}: is of a sweep; say which with --from-sweep")
        return configuration(arguments)
    if arguments.config:
        raise InputError(f"--from-sweep {arguments.from_sweep}: takes the base from a trial; leave out {arguments.config}")
    mapping = to_mapping(_config_of_trial(arguments.from_sweep, arguments.trial or "best"))
    apply_overrides(mapping, [*arguments.overrides, *(["data.skip_bad=true"] if arguments.skip_bad else [])])
    return from_mapping(Config, mapping)


def _config_of_trial(name: str, number: str) -> Config:
    sweep, study = load(name)
    if number == "best":
        return resolve(pick(name).params, sweep.space, sweep.base)
    for trial in complete_trials(study) if study else []:
        if str(trial.number) == number:
            return resolve(trial.params, sweep.space, sweep.base)
    raise InputError(f"--trial {number}: {name} has no complete trial of this number; or say best")


def _settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sweep's fields among the overrides, which are taken out of them."""
    if arguments.config and "=" in arguments.config and not Path(arguments.config).exists():
        arguments.overrides, arguments.config = [arguments.config, *arguments.overrides], None
    own = [text for text in arguments.overrides if text.partition("=")[0].partition(".")[0] in SETTINGS]
    arguments.overrides = [text for text in arguments.overrides if text not in own]
    mapping: dict[str, Any] = {}
    apply_overrides(mapping, own)
    return mapping


def run_suite(arguments: argparse.Namespace) -> int:
    """Run or resume a suite and print its table; returns the exit code.

    Raises:
        InputError: if a flag is bad, or would have no effect.
    """
    check_name(arguments.name)
    settings = _settings_of(arguments)
    names, performers, categories = (
        [n for n in text.split(",") if n] for text in (arguments.ablations, arguments.performers, arguments.categories)
    )
    if arguments.resume:
        _refuse_changes(arguments, settings, names)
        code = resume_sweep(arguments.name, changes=settings.get("resources"))
    else:
        if arguments.name in sweep_names():
            raise InputError(f"--name {arguments.name}: exists already; add --resume to go on, or choose another name")
        if arguments.aa and names:
            raise InputError("--aa: compares the base with itself; leave out --ablations")
        base = base_of(arguments)
        suite = suite_of(base, arguments.name, arguments.seeds, names, performers, categories, arguments.aa, settings)
        code = run_sweep(suite)
    if code == 0:
        print(write_suite_report(arguments.name))
        print("lower is better: " + ", ".join(sorted(LOWER_IS_BETTER)))
        print(f"tables and figures in {sweep_folder(arguments.name) / 'report'}")
    return code


def _refuse_changes(arguments: argparse.Namespace, settings: Mapping[str, Any], names: list[str]) -> None:
    """A suite goes on as it was begun, on other resources if need be; its own ablations may be said again."""
    space = load(arguments.name)[0].space if arguments.name in sweep_names() else {}
    if DIMENSION not in space:
        raise InputError(f"--resume: there is no suite {arguments.name}; start it without the flag, or see --name")
    given = [arguments.config, *arguments.overrides, *(k for k in settings if k != "resources")]
    other = names and {BASE, *names} != {BASE, *space[DIMENSION].presets}
    flags = ("from_sweep", "trial", *(["ablations"] if other else []), "performers", "categories", "aa", "seeds", "skip_bad")
    given += ["--" + flag.replace("_", "-") for flag in flags if getattr(arguments, flag)]
    if given := [text for text in given if text]:
        raise InputError(f"--resume: {given[0]} cannot be changed any more; only --name and resources.* go with it")


if __name__ == "__main__":
    from ablations.cli import main

    sys.exit(main(["ablate", *sys.argv[1:]]))
