"""The Optuna study: storage, samplers, and what counts as finished, feasible and Pareto-optimal."""

from __future__ import annotations

import math
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, GridSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import Bound, SweepConfig
from paraphrase.sweep.settings.folder import SWEEP, sqlite_file, storage_url, sweep_folder, without_password
from paraphrase.sweep.settings.space import encode, grid
from paraphrase.sweep.study.storage import PatientStorage, open_storage

STATE_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
IDENTITY = "study_id"
"""User attribute of a study, and tag of its runs: two homes that share a tracking store may have sweeps of one name."""
STORED = "explainer"
"""User attribute of a trial: the key of its explainer in the store."""
RETRY_OF = "retry_of"
"""User attribute of a trial: the number of a failed one, of the same values, in whose place it is."""
WARM_START = "warm_start"
"""User attribute of trials that were taken over from another study."""

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def study_exists(url: str, name: str, patience: float | None = None) -> bool:
    """Whether the storage has a study of this name; makes no new sqlite file.

    Args:
        patience: see `open_storage`.
    """
    if (file := sqlite_file(url)) and not file.exists():
        return False
    return name in optuna.get_all_study_names(open_storage(url, patience))


def refuse_lost_study(sweep: SweepConfig, patience: float | None = None) -> None:
    """
    Args:
        patience: see `open_storage`.

    Raises:
        InputError: if trials were begun whose study is not there: a new one would begin again, over them.
    """
    if (sweep_folder(sweep.name) / "trials").exists() and not study_exists(storage_url(sweep), sweep.name, patience):
        where = without_password(storage_url(sweep))
        raise InputError(
            f"sweep {sweep.name}: its study is not in {where} any more; bring it back, or `paraphrase sweep delete {sweep.name}`"
        )


def open_study(sweep: SweepConfig, url: str, create: bool = False, storage: PatientStorage | None = None) -> optuna.Study:
    """The study of a sweep.

    Args:
        storage: at the URL, where it is open already.

    Raises:
        InputError: if it is not there and must not be created, or has other objectives.
    """
    storage = storage or open_storage(url)
    if create:
        directions = list(sweep.objectives.values())
        study = optuna.create_study(storage=storage, study_name=sweep.name, directions=directions, load_if_exists=True)
        if IDENTITY not in study.user_attrs:
            study.set_user_attr(IDENTITY, uuid.uuid4().hex)
        if study.metric_names is None:
            study.set_metric_names(list(sweep.objectives))
        if not own_trials(study):
            for point in sweep.start:
                study.enqueue_trial({path: encode(value) for path, value in point.items()}, skip_if_exists=True)
        return study
    try:
        study = optuna.load_study(study_name=sweep.name, storage=storage)
    except KeyError:
        raise InputError(
            f"sweep {sweep.name}: its study is not in {without_password(url)}; resume it once to create it"
        ) from None
    if study.metric_names not in (None, list(sweep.objectives)):
        raise InputError(
            f"{sweep_folder(sweep.name) / SWEEP}: names the objectives {', '.join(sweep.objectives)}, but its study has "
            f"{', '.join(study.metric_names)}; the file is damaged or was changed"
        )
    return study


def refuse_existing(sweep: SweepConfig) -> None:
    """Raises InputError, with the ways out, if there is a sweep of this name."""
    if (sweep_folder(sweep.name) / SWEEP).exists() or study_exists(storage_url(sweep), sweep.name):
        raise InputError(
            f"sweep {sweep.name}: exists already; go on with `paraphrase sweep resume {sweep.name}`, "
            f"or choose another name with `--name`, or delete it with `paraphrase sweep delete {sweep.name}`"
        )


class _Grid(GridSampler):
    """The grid without its own end: it would stop `Study.optimize`, which is not used here."""

    def after_trial(self, *_: Any) -> None:
        pass


BLIND = ("grid", "random")
"""Samplers that propose without regard to what came of earlier trials."""


def make_sampler(sweep: SweepConfig, number: int) -> BaseSampler:
    """The sampler that proposes trial `number`.

    It is made anew for every trial, seeded by (sampler_seed, number): so it has no state but the study, and a resumed
    sweep proposes what an uninterrupted one would from the same history.
    """
    seed = int(np.random.SeedSequence([sweep.sampler_seed, number]).generate_state(1)[0]) % 2**31
    conditional = any(d.when for d in sweep.space.values())
    match sweep.sampler:
        case "tpe":
            startup = sweep.startup_trials
            return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=conditional)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=sweep.startup_trials, warn_independent_sampling=False)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=max(2, sweep.startup_trials))
        case "random":
            return RandomSampler(seed=seed)
        case "grid":  # the order of the grid must not change between trials
            return _Grid(grid(sweep.space), seed=sweep.sampler_seed)


def budget(sweep: SweepConfig) -> int:
    """Number of trials that must end: the configured one, or the size of the grid if that is smaller."""
    if sweep.sampler != "grid":
        return sweep.trials
    return min(sweep.trials, math.prod(len(v) for v in grid(sweep.space).values()))


def identity_of(study: optuna.Study) -> str:
    """What tells a study from every other one, whatever their names."""
    return str(study.user_attrs[IDENTITY])


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of this sweep, without those taken over from another and those that are tried again."""
    trials = study.get_trials(deepcopy=False)
    again = {t.user_attrs.get(RETRY_OF) for t in trials}
    return [t for t in trials if WARM_START not in t.user_attrs and t.number not in again]


def retry_failed(study: optuna.Study) -> int:
    """Queue each failed trial's values once more, to count in its place; returns how many there are."""
    failed = [t for t in own_trials(study) if t.state == TrialState.FAIL]
    for trial in failed:
        study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})
    return len(failed)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended, in whatever way."""
    return [t for t in own_trials(study) if t.state in FINISHED]


def unfinished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were begun and have no end yet."""
    return [t for t in own_trials(study) if t.state not in FINISHED]


def violations(metrics: Mapping[str, Any], constraints: Mapping[str, Bound]) -> dict[str, float]:
    """Constraint name -> how far it is violated; <= 0 is kept. A metric that was not measured violates."""
    values: dict[str, float] = {}
    for metric, bound in constraints.items():
        value = metrics.get(metric)
        for kind, limit in (("min", bound.min), ("max", bound.max)):
            if limit is not None:
                gap = 1e9 if value is None else float(limit - value if kind == "min" else value - limit)
                values[f"{metric}.{kind}"] = gap
    return values


def pareto_trials(study: optuna.Study, constraints: Mapping[str, Bound]) -> list[FrozenTrial]:
    """The complete trials of this sweep that keep every constraint and that no other such trial dominates.

    A trial dominates another if it is at least as good on every objective and better on one.
    """
    signs = [-1.0 if d == optuna.study.StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
    complete = [t for t in own_trials(study) if t.state == TrialState.COMPLETE]
    feasible = [t for t in complete if all(v <= 0 for v in violations(t.user_attrs["metrics"], constraints).values())]
    costs = [np.array(signs) * np.array(t.values) for t in feasible]
    return [t for t, c in zip(feasible, costs, strict=True) if not any(_dominates(o, c) for o in costs)]


def _dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())
