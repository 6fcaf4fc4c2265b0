"""What a search learns from the trials of another sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from paraphrase.core.config import to_mapping
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.space import distribution, encode, get_path, holds, lies_in, ordered, resolve
from paraphrase.sweep.study.study import WARM_START, violations


def warm_start(study: optuna.Study, sweep: SweepConfig, source: optuna.Study, source_sweep: SweepConfig) -> int:
    """Let the search know the complete trials of another sweep; returns how many fit into this one's space.

    A trial fits if each of its values lies in this space, where a field that it did not search counts with the value
    its base had, and if it measured every objective. What is there already is not added again.
    """
    there = {t.user_attrs.get(WARM_START) for t in study.get_trials(deepcopy=False)} - {None}
    for trial in source.get_trials(deepcopy=False):
        if trial.state != TrialState.COMPLETE or WARM_START in trial.user_attrs:
            continue
        metrics = trial.user_attrs["metrics"]
        params = _translated(trial.params, sweep, source_sweep)
        origin = f"{source_sweep.name}/{trial.number}"
        if params is None or origin in there or any(metrics.get(m) is None for m in sweep.objectives):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={path: distribution(sweep.space[path]) for path in params},
                values=[metrics[m] for m in sweep.objectives],
                constraints=violations(metrics, sweep.constraints) or None,
                user_attrs={WARM_START: origin, "metrics": metrics},
            )
        )
        there.add(origin)
    return len(there)


def _translated(params: Mapping[str, Any], sweep: SweepConfig, source: SweepConfig) -> dict[str, Any] | None:
    config = to_mapping(resolve(params, source.space, to_mapping(source.base_config())))
    translated: dict[str, Any] = {}
    for path in ordered(sweep.space):
        dimension = sweep.space[path]
        try:
            if not holds(dimension.when, config):
                continue
            value = get_path(config, path)
            if not lies_in(dimension, value):
                return None
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        translated[path] = encode(value)
    return translated
