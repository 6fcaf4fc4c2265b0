"""Filters of two runs of a suite side by side, after figure 3 of the paper."""

from __future__ import annotations

from pathlib import Path

from optuna.trial import FrozenTrial

from paraphrase.ablations.arms import BASE
from paraphrase.ablations.results import DIMENSION, task_of
from paraphrase.core.config import Config
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.pictures.filters_page import draw_side_by_side
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import trial_folder
from paraphrase.sweep.settings.space import resolve
from paraphrase.sweep.study.results import complete_trials, load


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
