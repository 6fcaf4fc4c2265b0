"""What a suite measured: its runs by arm, task and seed, the performers' own metrics, and every arm against the base."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from paraphrase.ablations.arms import BASE
from paraphrase.ablations.paired import Comparison, compare, holm_over_arms
from paraphrase.core.config import Config
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.measure.evaluation import baseline
from paraphrase.core.measure.metrics import BY_KEY, KEYS
from paraphrase.sweep.settings.config import ALL, SweepConfig
from paraphrase.sweep.settings.space import resolve
from paraphrase.sweep.study.results import complete_trials, load
from paraphrase.sweep.study.study import unfinished_trials

DIMENSION, PERFORMER, CATEGORY = "ablation", "performer", "category"
"""Dimensions of a suite, and the tags that its runs are grouped by."""

AA, OTHER_SEEDS = "aa", "base, other seeds"
"""The only arm of an A/A suite as it is run, and the name that its second half of seeds goes by."""


class Task(NamedTuple):
    """What an explainer is trained on."""

    performer: str
    """Architecture, or the name of a fitted performer's folder."""
    category: str
    """The single category, or `all`."""


Metrics = Mapping[str, float]
"""Key -> value of a run."""


def task_of(config: Config, params: Mapping[str, Any]) -> Task:
    """The task of a run: named by the suite's dimensions, or else by its configuration."""
    named = config.performer.arch, config.data.single_category or ALL
    return Task(params.get(PERFORMER, named[0]), params.get(CATEGORY, named[1]))


def task_configs(sweep: SweepConfig) -> dict[Task, Config]:
    """Every task of a suite with the base's configuration on it."""
    dimensions = [d for d in (PERFORMER, CATEGORY) if d in sweep.space]
    found: dict[Task, Config] = {}
    for names in product(*(sweep.space[d].presets for d in dimensions)):
        params = dict(zip(dimensions, names, strict=True))
        config = resolve(params, {d: sweep.space[d] for d in dimensions}, sweep.base)
        found[task_of(config, params)] = config
    return found


def runs_by_arm(name: str) -> dict[str, dict[Task, dict[int, Metrics]]]:
    """Arm -> task -> seed -> metrics of the complete runs of a suite."""
    sweep, study = load(name)
    arms = list(sweep.space[DIMENSION].presets)
    found: dict[str, dict[Task, dict[int, Metrics]]] = {arm: {t: {} for t in task_configs(sweep)} for arm in arms}
    for trial in complete_trials(study) if study else []:
        config = resolve(trial.params, sweep.space, sweep.base)
        runs = found[trial.params[DIMENSION]][task_of(config, trial.params)]
        runs[config.train.seed] = trial.user_attrs["metrics"]
    if arms == [AA]:  # the second half of the seeds plays the arm
        halves: dict[str, dict[Task, dict[int, Metrics]]] = {BASE: {}, OTHER_SEEDS: {}}
        for task, runs in found[AA].items():
            seeds = sorted(runs)
            half = len(seeds) // 2
            halves[BASE][task] = {s: runs[s] for s in seeds[:half]}
            halves[OTHER_SEEDS][task] = {s: runs[t] for s, t in zip(seeds[:half], seeds[half:], strict=False)}
        return halves
    return found


def baselines(name: str) -> dict[Task, dict[str, dict[str, float]]]:
    """The performer's and the control rows of every task of a suite; measured once, then kept in its study."""
    sweep, study = load(name)
    kept: dict[str, Any] = dict(study.user_attrs.get("baselines", {})) if study else {}
    found = {}
    for task, config in task_configs(sweep).items():
        key = "/".join(task)
        if key not in kept:
            kept[key] = baseline(open_cache(config))
        found[task] = kept[key]
    if study and not unfinished_trials(study) and study.user_attrs.get("baselines") != kept:  # else the driver writes it
        study.set_user_attr("baselines", kept)
    return found


def comparisons(name: str) -> dict[str, dict[str, Comparison | None]]:
    """Metric -> arm -> comparison with the base, paired by task and seed; None where the metric is not defined for the arm."""
    runs = runs_by_arm(name)
    base = runs.pop(BASE)
    table: dict[str, dict[str, Comparison | None]] = {}
    for metric in KEYS:
        row = {arm: _compare(metric, base, of_arm) for arm, of_arm in runs.items()}
        if any(c and c.pairs for c in row.values()):
            table[metric] = row
    return table


def _compare(
    metric: str, base: Mapping[Task, Mapping[int, Metrics]], arm: Mapping[Task, Mapping[int, Metrics]]
) -> Comparison | None:
    pairs: list[list[tuple[float, float]]] = []
    for task, runs in base.items():
        both = [s for s in sorted(runs) if metric in runs[s] and metric in arm[task].get(s, {})]
        if both:
            pairs.append([(runs[s][metric], arm[task][s][metric]) for s in both])
    if not pairs and any(arm[task] for task in base if base[task]):
        return None
    of_base, of_arm = ([np.array([pair[side] for pair in task]) for task in pairs] for side in (0, 1))
    return compare(of_base, of_arm)


NOT_DEFINED, NO_RUNS = "not defined", "no runs yet"
"""In place of a difference: the arm's runs do not have the metric; none of its runs can be paired with one of the base."""

HEADER = ["metric", "arm", "pairs", "of base", "of arm", "difference", "low", "high", "p-value", "Holm", "effect size"]
"""Of `rows_of`."""


def rows_of(table: Mapping[str, Mapping[str, Comparison | None]]) -> list[list[Any]]:
    """A row for each metric and arm; p-values are corrected over the arms of a metric. None: not defined."""
    rows: list[list[Any]] = []
    for metric, row in table.items():
        corrected = holm_over_arms(row)
        for arm, c in row.items():
            p = corrected[arm]
            if c is None:
                rows.append([metric, arm, 0, None, None, NOT_DEFINED, *[None] * 5])
            elif not c.pairs:
                rows.append([metric, arm, 0, None, None, NO_RUNS, *[None] * 5])
            else:
                rows.append([metric, arm, c.pairs, c.base, c.arm, c.difference, c.low, c.high, c.p_value, p, c.effect_size])
    return rows


def tables_of(table: Mapping[str, Mapping[str, Comparison | None]]) -> list[tuple[str, list[list[str]]]]:
    """For the screen: of each metric a title, and cells with a row for each arm, the heading first."""
    found = []
    for metric, row in table.items():
        corrected = holm_over_arms(row)
        base = next(c.base for c in row.values() if c and c.pairs)
        title = f"{metric.replace('_', ' ')} ({BY_KEY[metric].better} is better), base {base:.4f}"
        cells = [["arm", "n", "mean", "diff", "low", "high", "Holm p", "effect"]]
        for arm, c in row.items():
            if c is None or not c.pairs:
                cells.append([arm, "0", NOT_DEFINED if c is None else NO_RUNS, *["-"] * 5])
                continue
            values = [f"{v:.4f}" if v == v else "-" for v in (c.arm, c.difference, c.low, c.high, corrected[arm])]
            cells.append([arm, str(c.pairs), *values, f"{c.effect_size:.2f}" if c.effect_size == c.effect_size else "-"])
        found.append((title, cells))
    return found
