"""The search space: which fields of the configuration are searched, and the configuration that a trial's values give."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from paraphrase.core.config import Config, from_mapping, set_path
from paraphrase.core.errors import InputError
from paraphrase.core.schema import RULES, Flag, Key, Real

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial


@dataclass(config=RULES)
class Dimension:
    type: Literal["float", "int", "categorical", "preset"]
    """float and int: between low and high; categorical: one of the choices; preset: one of several sets of fields."""
    low: Real | None = None
    """Smallest value, included."""
    high: Real | None = None
    """Largest value, included."""
    log: Flag = False
    """Search on a logarithmic scale."""
    step: Annotated[Real, Field(gt=0)] | None = None
    """Distance between neighbouring values; empty: 1 for int, continuous for float."""
    choices: list[Any] = Field(default_factory=list)
    """categorical: the values, also lists."""
    presets: dict[Key, dict[Key, Any]] = Field(default_factory=dict)
    """preset: name -> the fields that it sets. The dimension's own name is then free, and becomes a tag of each run."""
    when: dict[str, Any] = Field(default_factory=dict)
    """Searched only where each of these fields has this value, or one of this list; else the base's value stays."""
    also: list[str] = Field(default_factory=list)
    """Other fields that take the same value."""


SHORT_NAMES = {
    "explainer.interp_widths.0": "W1",
    "explainer.interp_widths.1": "W2",
    "explainer.ordin_width": "Wo",
    "train.learning_rate": "lr",
    "train.decoder_learning_rate": "lr_dec",
    "train.p_learning_rate": "lr_p",
}
"""Names for tables and run names; every other field goes by its last part."""


def short_names(paths: list[str]) -> dict[str, str]:
    """Path -> its shortest name that no other path has."""
    names = {path: SHORT_NAMES.get(path, path.rsplit(".", 1)[-1]) for path in paths}
    taken = list(names.values())
    return {path: name if taken.count(name) == 1 else path for path, name in names.items()}


def get_path(mapping: Any, path: str) -> Any:
    """The value at a dotted path of nested plain data.

    Raises:
        KeyError, IndexError, TypeError or ValueError: if there is none.
    """
    for key in path.split("."):
        mapping = mapping[int(key)] if isinstance(mapping, list) else mapping[key]
    return mapping


def encode(choice: Any) -> Any:
    """A categorical value as Optuna stores it: lists and mappings as JSON text."""
    return json.dumps(choice) if isinstance(choice, list | dict) else choice


def choices_of(dimension: Dimension) -> list[Any]:
    """The values of a categorical or preset dimension as Optuna stores them."""
    return list(dimension.presets) or [encode(c) for c in dimension.choices]


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's distribution of a dimension."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.type in ("categorical", "preset"):
        return CategoricalDistribution(choices_of(dimension))
    assert dimension.low is not None and dimension.high is not None
    if dimension.type == "int":
        step = int(dimension.step or 1)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def lies_in(dimension: Dimension, value: Any) -> bool:
    """Whether a dimension can take a value."""
    allowed = distribution(dimension)
    try:
        return bool(allowed._contains(allowed.to_internal_repr(encode(value))))
    except (TypeError, ValueError):
        return False


def ordered(space: Mapping[str, Dimension]) -> list[str]:
    """The paths, each after those its condition asks about.

    Raises:
        InputError: if conditions depend on each other in a circle.
    """
    done: list[str] = []
    while len(done) < len(space):
        ready = [p for p, d in space.items() if p not in done and all(w in done or w not in space for w in d.when)]
        if not ready:
            circle = ", ".join(p for p in space if p not in done)
            raise InputError(f"space: the conditions of {circle} depend on each other in a circle")
        done += ready
    return done


def holds(when: Mapping[str, Any], mapping: dict[str, Any]) -> bool:
    return all(get_path(mapping, path) in (wanted if isinstance(wanted, list) else [wanted]) for path, wanted in when.items())


def _set(mapping: dict[str, Any], path: str, dimension: Dimension, value: Any) -> None:
    if dimension.type == "preset":
        for target, wanted in dimension.presets[value].items():
            set_path(mapping, target, copy.deepcopy(wanted))
        return
    if dimension.type == "categorical":
        value = next(c for c in dimension.choices if encode(c) == value)
    for target in [path, *dimension.also]:
        set_path(mapping, target, copy.deepcopy(value))


def suggest(trial: Trial, space: Mapping[str, Dimension], base: dict[str, Any]) -> dict[str, Any]:
    """Ask the trial for every dimension whose condition holds; returns the searched values by path."""
    mapping = copy.deepcopy(base)
    for path in ordered(space):
        dimension = space[path]
        if holds(dimension.when, mapping):
            _set(mapping, path, dimension, _ask(trial, path, dimension))
    return trial.params


def _ask(trial: Trial, path: str, dimension: Dimension) -> Any:
    if dimension.type in ("categorical", "preset"):
        return trial.suggest_categorical(path, choices_of(dimension))
    assert dimension.low is not None and dimension.high is not None
    if dimension.type == "int":
        step = int(dimension.step or 1)
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return trial.suggest_float(path, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def resolve(params: Mapping[str, Any], space: Mapping[str, Dimension], base: dict[str, Any]) -> Config:
    """The base configuration with a trial's values in it.

    Args:
        params: path -> value as Optuna stores it.

    Raises:
        InputError: if a value is impossible.
    """
    mapping = copy.deepcopy(base)
    for path in ordered(space):
        if path in params:
            _set(mapping, path, space[path], params[path])
    return from_mapping(Config, mapping)


MOST_NAMED = 3
"""Values that fit into a name."""


def run_name(number: int, params: Mapping[str, Any]) -> str:
    """A name that can be read in MLflow's tables: `007 W1=64 eta=0.53`; with many values, which would be cut off, `trial 007`."""
    return f"{number:03d} {in_short(params)}".strip() if len(params) <= MOST_NAMED else f"trial {number:03d}"


def in_short(params: Mapping[str, Any]) -> str:
    """A trial's values: `W1=64 eta=0.53`."""
    names = short_names(list(params))
    return " ".join(
        f"{names[path]}={value:.3g}" if isinstance(value, float) else f"{names[path]}={value}" for path, value in params.items()
    )


LARGEST_GRID = 20_000
"""Points of a grid; Optuna's sampler lists them all for each trial."""


def grid(space: Mapping[str, Dimension]) -> dict[str, list[Any]]:
    """Every value of every dimension.

    Raises:
        InputError: for a continuous or conditional dimension, or a grid of more than `LARGEST_GRID` points.
    """
    values: dict[str, list[Any]] = {}
    for path, dimension in space.items():
        if dimension.when:
            raise InputError(f"space.{path}.when: the grid sampler takes no conditions")
        if dimension.type in ("categorical", "preset"):
            values[path] = choices_of(dimension)
            continue
        if dimension.log or (dimension.type == "float" and dimension.step is None):
            raise InputError(f"space.{path}: the grid sampler needs a step, or type categorical with choices")
        step = dimension.step or 1
        assert dimension.low is not None and dimension.high is not None
        count = math.floor((dimension.high - dimension.low) / step + 1e-9) + 1
        points = [dimension.low + i * step for i in range(count)]
        values[path] = [int(p) for p in points] if dimension.type == "int" else points
    if (points_of_grid := math.prod(map(len, values.values()))) > LARGEST_GRID:
        raise InputError(
            f"sampler: the grid has {points_of_grid:.6g} points, all of them listed for each trial; at most {LARGEST_GRID} "
            f"are possible. Leave out dimensions or values, or take sampler: random"
        )
    return values


def check_space(space: Mapping[str, Dimension], base: dict[str, Any], sampler: str) -> None:
    """Check every dimension against the configuration it searches.

    Raises:
        InputError: names the path and what would be right.
    """
    if not space:
        raise InputError("space: at least one field must be searched, for example loss.eta: {type: float, low: 0, high: 1}")
    for path, dimension in space.items():
        _check_dimension(f"space.{path}", dimension)
        if dimension.type == "preset":
            _check_presets(f"space.{path}", dimension, base)
            continue
        extremes = dimension.choices if dimension.type == "categorical" else [dimension.low, dimension.high]
        for target in [path, *dimension.also]:
            where = f"space.{path}" if target == path else f"space.{path}.also"
            for value in extremes:
                trial = copy.deepcopy(base)
                try:
                    set_path(trial, target, value)
                    from_mapping(Config, trial)
                except InputError as error:
                    raise InputError(f"{where}: {error}") from None
        for other in dimension.when:
            try:
                get_path(base, other)
            except (KeyError, IndexError, TypeError, ValueError):
                raise InputError(f"space.{path}.when.{other}: no such field of the configuration") from None
    ordered(space)
    if sampler == "grid":
        grid(space)


def _check_presets(where: str, dimension: Dimension, base: dict[str, Any]) -> None:
    if not dimension.presets:
        raise InputError(f"{where}.presets: at least one is needed, for example no_filter_loss: {{loss.lambda_f: 0}}")
    for name in dimension.presets:
        mapping = copy.deepcopy(base)
        try:
            _set(mapping, where, dimension, name)
            from_mapping(Config, mapping)
        except InputError as error:
            raise InputError(f"{where}.presets.{name}: {error}") from None


def _check_dimension(where: str, dimension: Dimension) -> None:
    if dimension.type == "categorical":
        if len(dimension.choices) < 1:
            raise InputError(f"{where}.choices: at least one value is needed")
        if twice := [choice for i, choice in enumerate(dimension.choices) if choice in dimension.choices[:i]]:
            raise InputError(f"{where}.choices: {twice[0]} is there twice")
        if dimension.low is not None or dimension.high is not None or dimension.log or dimension.step is not None:
            raise InputError(f"{where}: type categorical takes only choices")
        return
    if dimension.choices:
        raise InputError(f"{where}.choices: only for type categorical")
    if dimension.type == "preset":
        return
    if dimension.presets:
        raise InputError(f"{where}.presets: only for type preset")
    for end in ("low", "high"):
        value = getattr(dimension, end)
        if value is None:
            raise InputError(f"{where}.{end}: missing; must be a number")
        if dimension.type == "int" and value != int(value):
            raise InputError(f"{where}.{end}: expected a whole number, got {value}")
    assert dimension.low is not None and dimension.high is not None
    if dimension.low > dimension.high:
        raise InputError(f"{where}.low: {dimension.low} is above high, {dimension.high}")
    if dimension.log and dimension.low <= 0:
        raise InputError(f"{where}.low: must be > 0 on a logarithmic scale")
    if dimension.log and dimension.step is not None:
        raise InputError(f"{where}.step: not together with log")
    if dimension.step is not None and dimension.step > dimension.high - dimension.low > 0:
        raise InputError(f"{where}.step: {dimension.step} leads beyond high from the first step, so only low would be tried")
    if dimension.type == "int" and dimension.step is not None and dimension.step != int(dimension.step):
        raise InputError(f"{where}.step: expected a whole number, got {dimension.step}")
