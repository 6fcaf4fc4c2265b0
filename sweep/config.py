"""A sweep as one YAML file: base configuration, space, objectives, budget and resources, checked before anything runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from core.config import Config, bounded, from_mapping, read_yaml, set_path, to_mapping
from core.errors import InputError
from core.keys import KEYS

METRICS = KEYS
"""The metrics that every trial reports; the first three only where the data has landmarks."""

ALL = "all"
"""How the multi-category protocol is called where categories are named."""

EXTRA_METRICS = (
    "reconstruction_error_1",
    "reconstruction_error_2",
    "loss_reconstruction_1",
    "loss_reconstruction_2",
    "loss_p",
    "loss_filter",
    "seconds",
)
"""What else an epoch reports and an objective can be; `seconds` is of the last epoch."""

LANDMARK_METRICS = frozenset(METRICS[:3])
"""Metrics that need landmarks."""


@dataclass
class Dimension:
    type: Literal["float", "int", "categorical", "preset"]
    """float and int: between low and high; categorical: one of the choices; preset: one of several sets of fields."""
    low: float | None = None
    """Smallest value, included."""
    high: float | None = None
    """Largest value, included."""
    log: bool = False
    """Search on a logarithmic scale."""
    step: float | None = bounded(None, above=0.0)
    """Distance between neighbouring values; empty: 1 for int, continuous for float."""
    choices: list[Any] = field(default_factory=list)
    """categorical: the values, also lists."""
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """preset: name -> the fields that it sets. The dimension's own name is then free, and becomes a tag of each run."""
    when: dict[str, Any] = field(default_factory=dict)
    """Searched only where each of these fields has this value, or one of this list; else the base's value stays."""
    also: list[str] = field(default_factory=list)
    """Other fields that take the same value."""


@dataclass
class Bound:
    min: float | None = None
    """Smallest value that is allowed."""
    max: float | None = None
    """Largest value that is allowed."""


@dataclass
class EarlyStopping:
    metric: str
    """The metric that decides."""
    mode: Literal["min", "max"]
    """Whether small or large values are good."""
    grace_epochs: int = bounded(1, low=1)
    """No trial is stopped before this many epochs."""
    reduction_factor: float = bounded(3.0, above=1.0)
    """At each rung the best 1 / reduction_factor of the trials go on; the next rung is that many times later."""


@dataclass
class Resources:
    cpus_per_trial: float = bounded(1.0, above=0.0)
    """CPU cores of one trial; it computes with as many threads."""
    gpus_per_trial: float | None = bounded(None, low=0.0)
    """GPUs of one trial, also a fraction; empty: one where the cluster has any, else none."""
    concurrency: int | None = bounded(None, low=1)
    """Most trials at once; empty: as many as fit."""
    trials_per_batch: int | None = bounded(None, low=1, high=1024)
    """Most trials that train as one batch, which those can that differ only in seeds and loss weights; empty: on a GPU, with a
    grid or random sampler, the fastest of 1, 2, 4 and 8, measured when the sweep begins; else 1. Without effect where trials
    have replicates or are stopped early."""
    address: str | None = None
    """A running Ray cluster (host:port or auto); empty: $RAY_ADDRESS, else a local one that ends with the command."""


def _default_objectives() -> dict[str, Any]:
    return {"location_instability": "minimize", "p": "maximize", "reconstruction_error": "minimize"}


@dataclass
class SweepConfig:
    """One sweep."""

    name: str
    """Name of the study, the folder and the MLflow parent run; the file's name if not given."""
    base: Any = field(default_factory=dict)
    """The configuration that all trials share: a mapping, or a YAML file relative to this one."""
    space: dict[str, Dimension] = field(default_factory=dict)
    """Path of a configuration field -> what is searched there."""
    objectives: dict[str, Literal["minimize", "maximize"]] = field(default_factory=_default_objectives)
    """Metric -> direction."""
    constraints: dict[str, Bound] = field(default_factory=dict)
    """Metric -> bounds that a trial must keep to be on the front."""
    trials: int = bounded(16, low=1)
    """Budget: number of trials that end, in whatever way."""
    sampler: Literal["tpe", "nsga2", "gp", "random", "grid"] = "tpe"
    """Who proposes the trials."""
    sampler_seed: int = bounded(0, low=0)
    """Seed of the search, apart from the seeds of data and training."""
    startup_trials: int = bounded(10, low=1)
    """tpe and gp: random trials before the model of the search is used; nsga2: size of a generation."""
    start: list[dict[str, Any]] = field(default_factory=list)
    """Points of the space that are tried first: path -> value; what a point leaves out is proposed."""
    early_stopping: EarlyStopping | None = None
    """Asynchronous successive halving (ASHA); null: off."""
    resources: Resources = field(default_factory=Resources)
    """What a trial needs and where it runs."""
    max_retries: int = bounded(3, low=0)
    """How often a trial whose worker died goes on from its last checkpoint before it counts as failed."""
    warm_start: str | None = None
    """Name of a finished sweep whose trials the search learns from."""
    storage: str | None = None
    """Optuna storage URL; empty: sqlite in the home folder."""
    tracking_uri: str | None = None
    """MLflow tracking URI; empty: sqlite in the home folder."""
    experiment: str = "paraphrase"
    """MLflow experiment."""

    def base_config(self) -> Config:
        """The configuration that all trials share."""
        return from_mapping(Config, self.base, "base")


def load_sweep(file: str | Path, overrides: list[str] | None = None, name: str | None = None) -> SweepConfig:
    """The sweep of a YAML file, with `path=value` overrides (`base.loss.eta=0.5`, `space.loss.eta.high=3`) on top.

    Raises:
        InputError: names the file or the field by its full path, and what would be right.
    """
    file = Path(file)
    mapping = read_yaml(file)
    mapping.setdefault("name", file.stem)
    base = mapping.get("base", {})
    if isinstance(base, str):
        mapping["base"] = read_yaml(file.parent / base)
    # Lists must be there in full, so that overrides and the space can address their items.
    mapping["base"] = to_mapping(from_mapping(Config, mapping.get("base") or {}, "base"))
    for text in overrides or []:
        _override(mapping, text)
    if name:
        mapping["name"] = name
    sweep = from_mapping(SweepConfig, mapping)
    check_sweep(sweep)
    return sweep


def _override(mapping: dict[str, Any], text: str) -> None:
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise InputError(f"{text}: expected path=value, for example trials=20 or base.train.epochs=5")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"{text}: the value is not YAML") from None
    if not path.startswith("space."):
        set_path(mapping, path, parsed)
        return
    space = mapping.setdefault("space", {})
    rest = path.removeprefix("space.")
    known = [key for key in space if rest == key or rest.startswith(key + ".")]
    key = max(known, key=len) if known else rest
    if rest != key:
        set_path(space[key], rest[len(key) + 1 :], parsed)
    elif parsed is None:
        space.pop(key, None)
    elif isinstance(parsed, dict):
        space[key] = parsed
    else:
        allowed = ", ".join(space) or "none"
        raise InputError(f"{path}: unknown part of the space; it has {allowed}; a new one needs {{type: ..., ...}}")


def check_name(name: str) -> None:
    """Raises InputError if a sweep cannot be called so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(f"name: {name!r} must be letters, digits, '.', '_' or '-', and start with one of the first two")


def check_sweep(sweep: SweepConfig) -> None:
    """Everything about a sweep that can be wrong before it starts.

    Raises:
        InputError: names the field by its full path, and what would be right.
    """
    from sweep.space import check_space, lies_in

    check_name(sweep.name)
    base = sweep.base_config()
    check_space(sweep.space, to_mapping(base), sweep.sampler)
    for i, point in enumerate(sweep.start):
        for path, value in point.items():
            if path not in sweep.space:
                raise InputError(f"start.{i}.{path}: is not in the space; allowed are {', '.join(sweep.space)}")
            if not lies_in(sweep.space[path], value):
                raise InputError(f"start.{i}.{path}: {value} is not a value that space.{path} allows")
    if not sweep.objectives:
        raise InputError("objectives: at least one metric is needed, for example p: maximize")
    for metric in sweep.objectives:
        _check_metric(metric, "objectives")
    for metric, bound in sweep.constraints.items():
        _check_metric(metric, "constraints")
        if bound.min is None and bound.max is None:
            raise InputError(f"constraints.{metric}: needs min or max")
        if bound.min is not None and bound.max is not None and bound.min > bound.max:
            raise InputError(f"constraints.{metric}: min {bound.min} is above max {bound.max}")
    if sweep.early_stopping:
        _check_metric(sweep.early_stopping.metric, "early_stopping.metric", full=True)
        if "train.epochs" not in sweep.space and sweep.early_stopping.grace_epochs > base.train.epochs:
            raise InputError(f"early_stopping.grace_epochs: must be at most base.train.epochs, {base.train.epochs}")
    if sweep.warm_start == sweep.name:
        raise InputError("warm_start: must name another sweep")


def _check_metric(metric: str, path: str, full: bool = False) -> None:
    plain = metric.removesuffix("_se")
    if plain not in METRICS + EXTRA_METRICS:
        where = path if full else f"{path}.{metric}"
        raise InputError(f"{where}: unknown metric; allowed are {', '.join(METRICS + EXTRA_METRICS)}")


def drop_landmark_metrics(sweep: SweepConfig) -> list[str]:
    """Take what needs landmarks out of a sweep over data without any, in place; returns what was taken out.

    Raises:
        InputError: if no objective remains, or early stopping needs landmarks.
    """
    dropped = [m for m in [*sweep.objectives, *sweep.constraints] if m.removesuffix("_se") in LANDMARK_METRICS]
    for metric in dropped:
        sweep.objectives.pop(metric, None)
        sweep.constraints.pop(metric, None)
    if not sweep.objectives:
        raise InputError(f"objectives: the data has no landmarks, so {', '.join(dropped)} cannot be measured; add p or another")
    if sweep.early_stopping and sweep.early_stopping.metric.removesuffix("_se") in LANDMARK_METRICS:
        raise InputError(f"early_stopping.metric: the data has no landmarks for {sweep.early_stopping.metric}")
    return dropped
