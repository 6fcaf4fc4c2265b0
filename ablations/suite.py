"""An ablation suite: arms times seeds (times performers, times categories), run as a grid sweep, so that it resumes, scales
and is recorded as one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paraphrase.ablations.arms import arms, check_names
from paraphrase.ablations.paired import too_few
from paraphrase.ablations.results import AA, CATEGORY, DIMENSION, PERFORMER, task_configs
from paraphrase.core.config import Config, from_mapping, set_path, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.features.obtain import channels_of
from paraphrase.core.performer.weights import load_performer
from paraphrase.core.terminal.console import say
from paraphrase.sweep.settings.config import ALL, SweepConfig, check_sweep
from paraphrase.sweep.settings.space import Dimension

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
    """The sweep that runs a suite.

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
    channels = [channels_of(config) for config in tasks.values()]
    chosen, idle = ({AA: {}}, []) if aa else arms(base, channels, names)
    if idle:
        say(f"left out, since the base has nothing to take away: {', '.join(idle)}")
    if few := too_few(seeds, len(tasks), 1 if aa else len(chosen) - 1):
        say(few)
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
