"""A sweep as one YAML file: base configuration, space, objectives, budget and resources, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from paraphrase.core.config import Config, from_mapping, read_yaml, set_path, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.foreign import look_in
from paraphrase.core.measure.metrics import DETAILS, EACH_PART, KEYS, metric_of
from paraphrase.core.objective.terms import LOSS_KEYS
from paraphrase.core.schema import RULES, Place, Real, Seed, Whole, parse_yaml
from paraphrase.sweep.settings.space import Dimension, check_space, lies_in

ALL = "all"
"""How the multi-category protocol is called where categories are named."""

MEASURED = (*KEYS, *DETAILS, *LOSS_KEYS, "seconds")
"""All that an epoch reports and an objective can be; `seconds` is of the last epoch."""


@dataclass(config=RULES)
class Bound:
    min: Real | None = None
    """Smallest value that is allowed."""
    max: Real | None = None
    """Largest value that is allowed."""


@dataclass(config=RULES)
class EarlyStopping:
    metric: str
    """The metric that decides."""
    mode: Literal["min", "max"]
    """Whether small or large values are good."""
    grace_epochs: Whole = Field(default=1, ge=1)
    """No trial is stopped before this many epochs."""
    reduction_factor: Real = Field(default=3.0, gt=1.0)
    """At each rung the best 1 / reduction_factor of the trials go on; the next rung is that many times later."""


@dataclass(config=RULES)
class Resources:
    cpus_per_trial: Real = Field(default=1.0, gt=0.0)
    """CPU cores of one trial; it computes with as many threads."""
    gpus_per_trial: Annotated[Real, Field(ge=0)] | None = None
    """GPUs of one trial, up to 1 also a fraction; empty: one where the cluster has any, else none."""
    concurrency: Annotated[Whole, Field(ge=1)] | None = None
    """Most trials at once; empty: as many as fit."""
    trials_per_batch: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """Most trials that train as one batch, which those can that differ only in seeds and loss weights; empty: on a GPU, with a
    grid or random sampler, the fastest of 1, 2, 4 and 8, measured when the sweep begins; else 1. Without effect where trials
    have replicates or are stopped early."""
    wait_for: Annotated[Real, Field(ge=0)] | None = None
    """Minutes to wait for nodes on which a trial fits, of a cluster that grows: all trials, or as many as `concurrency` says, are
    then asked for at once; empty: a trial must fit when the sweep begins."""
    address: str | None = None
    """A running Ray cluster (host:port or auto); empty: $RAY_ADDRESS, else a local one that ends with the command."""


def _default_objectives() -> dict[str, Any]:
    """A set that a collapsed explainer, one detector many times over, cannot win."""
    return {
        "landmark_error": "minimize",
        "location_instability": "minimize",
        "p": "maximize",
        "reconstruction_error": "minimize",
    }


WITHOUT_LANDMARKS: dict[str, Any] = {"distinct_filters": "maximize", "mutual_information": "maximize"}
"""What takes the place of objectives that need landmarks, where the data has none."""


@dataclass(config=RULES)
class SweepConfig:
    """One sweep."""

    name: str
    """Name of the study, the folder and the MLflow parent run; the file's name if not given."""
    base: Any = Field(default_factory=dict)
    """The configuration that all trials share: a mapping, or a YAML file relative to this one."""
    space: dict[str, Dimension] = Field(default_factory=dict)
    """Path of a configuration field -> what is searched there."""
    objectives: dict[str, Literal["minimize", "maximize"]] = Field(default_factory=_default_objectives)
    """Metric -> direction."""
    constraints: dict[str, Bound] = Field(default_factory=dict)
    """Metric -> bounds that a trial must keep to be on the front."""
    trials: Whole = Field(default=16, ge=1)
    """Budget: number of trials that end, in whatever way."""
    sampler: Literal["tpe", "nsga2", "gp", "random", "grid"] = "tpe"
    """Who proposes the trials."""
    sampler_seed: Seed = Field(default=0)
    """Seed of the search, apart from the seeds of data and training."""
    startup_trials: Whole = Field(default=10, ge=1)
    """tpe and gp: random trials before the model of the search is used; nsga2: size of a generation."""
    start: list[dict[str, Any]] = Field(default_factory=list)
    """Points of the space that are tried first: path -> value; what a point leaves out is proposed."""
    early_stopping: EarlyStopping | None = None
    """Asynchronous successive halving (ASHA); null: off."""
    resources: Resources = Field(default_factory=Resources)
    """What a trial needs and where it runs."""
    max_retries: Whole = Field(default=3, ge=0)
    """How often a trial whose worker died goes on from its last checkpoint before it counts as failed."""
    warm_start: str | None = None
    """Name of a finished sweep whose trials the search learns from."""
    store: Place | None = None
    """Where caches, checkpoints and explainers lie that all nodes of a cluster can read and write: `s3://BUCKET/PREFIX` or
    `file:///SHARED/FOLDER`; empty: the home folder, which all nodes must then share."""
    storage: Place | None = None
    """Optuna storage URL; empty: sqlite in the home folder."""
    tracking_uri: Place | None = None
    """MLflow tracking URI; empty: $MLFLOW_TRACKING_URI when the sweep begins, else sqlite in the home folder."""
    experiment: str = "paraphrase"
    """MLflow experiment."""

    def base_config(self) -> Config:
        """The configuration that all trials share."""
        return from_mapping(Config, self.base, "base")


CONFIGS = Path(__file__).parents[1] / "configs"
"""Sweeps that come with the code."""


def known_sweeps() -> list[str]:
    """Names of the sweeps that come with the code."""
    return sorted(p.stem for p in CONFIGS.glob("*.yaml"))


def find_sweep_file(text: str | Path) -> Path:
    """A YAML file by its path, or by the name of one that comes with the code.

    Raises:
        InputError: if there is none.
    """
    if Path(text).is_file():
        return Path(text)
    if text in known_sweeps():
        return CONFIGS / f"{text}.yaml"
    what = "is not a file" if Path(text).exists() else "no such file"
    raise InputError(f"{text}: {what}; a path, or one of {', '.join(known_sweeps())}")


def load_sweep(file: str | Path, overrides: Iterable[str] = (), name: str | None = None) -> SweepConfig:
    """The sweep of a YAML file, with `path=value` overrides (`base.loss.eta=0.5`, `space.loss.eta.high=3`) on top.

    Raises:
        InputError: names the file or the field by its full path, and what would be right.
    """
    changes = dict(_parsed(text) for text in overrides)
    look_in(Path(file).parent)
    return sweep_of(read_yaml(file), changes, name, Path(file))


def sweep_of(
    mapping: dict[str, Any], changes: Mapping[str, Any] | None = None, name: str | None = None, file: Path | None = None
) -> SweepConfig:
    """The sweep of plain data.

    Args:
        mapping: fields of `SweepConfig`; changed in place.
        changes: path -> value, on top.
        name: of the sweep, in place of the mapping's.
        file: that the mapping is of, which gives it a name and a place to look for its base.

    Raises:
        InputError: names the field by its full path, and what would be right.
    """
    if file:
        mapping.setdefault("name", file.stem)
    base = mapping.get("base") or {}
    if isinstance(base, str):
        base = read_yaml((file.parent if file else Path()) / base)
    # Lists must be there in full, so that overrides and the space can address their items.
    mapping["base"] = to_mapping(from_mapping(Config, base, "base"))
    for path, value in (changes or {}).items():
        _change(mapping, path, value)
    if name:
        mapping["name"] = name
    sweep = from_mapping(SweepConfig, mapping)
    check_sweep(sweep)
    return sweep


def _parsed(text: str) -> tuple[str, Any]:
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise InputError(f"{text}: expected path=value, for example trials=20 or base.train.epochs=5")
    return path, parse_yaml(value, text)


def _change(mapping: dict[str, Any], path: str, value: Any) -> None:
    if not path.startswith("space."):
        set_path(mapping, path, value)
        return
    space = mapping.setdefault("space", {})
    rest = path.removeprefix("space.")
    known = [key for key in space if rest == key or rest.startswith(key + ".")]
    key = max(known, key=len) if known else rest
    if rest != key:
        set_path(space[key], rest[len(key) + 1 :], value)
    elif value is None:
        space.pop(key, None)
    elif isinstance(value, dict):
        space[key] = value
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
    gpus = sweep.resources.gpus_per_trial
    if gpus and gpus > 1 and gpus != int(gpus):
        raise InputError(f"resources.gpus_per_trial: {gpus:g}, but only of one GPU there are fractions; use {int(gpus)}")
    if sweep.warm_start == sweep.name:
        raise InputError("warm_start: must name another sweep")


def _check_metric(metric: str, path: str, full: bool = False) -> None:
    plain = metric.removesuffix("_se")
    if plain not in MEASURED and metric_of(plain) is None:
        where = path if full else f"{path}.{metric}"
        parts = ", ".join(f"{key}_<landmark>" for key in EACH_PART)
        raise InputError(f"{where}: unknown metric; allowed are {', '.join(MEASURED)}, {parts}")
    found = metric_of(plain)
    if full and found and found.at_end:
        raise InputError(f"{path}: {metric} is measured after the last epoch only; name one that every epoch has")


def needs_landmarks(metric: str) -> bool:
    """Whether a metric, or its standard error, needs data with landmarks."""
    found = metric_of(metric.removesuffix("_se"))
    return found is not None and found.landmarks


def drop_landmark_metrics(sweep: SweepConfig) -> list[str]:
    """Take what needs landmarks out of a sweep over data without any, in place; returns what was taken out.

    In place of objectives come those of `WITHOUT_LANDMARKS`.

    Raises:
        InputError: if early stopping needs landmarks.
    """
    dropped = [m for m in [*sweep.objectives, *sweep.constraints] if needs_landmarks(m)]
    if any(metric in sweep.objectives for metric in dropped):
        sweep.objectives.update({k: v for k, v in WITHOUT_LANDMARKS.items() if k not in sweep.objectives})
    for metric in dropped:
        sweep.objectives.pop(metric, None)
        sweep.constraints.pop(metric, None)
    if sweep.early_stopping and needs_landmarks(sweep.early_stopping.metric):
        raise InputError(f"early_stopping.metric: the data has no landmarks for {sweep.early_stopping.metric}")
    return dropped
