"""Reads of MLflow what a report shows: curves, and what the runs of a study were made from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paraphrase.sweep.record.tracking import runs_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MADE_FROM = {"data_hash": "data", "performer_hash": "performer", "cache_key": "feature cache", "code_version": "code"}
"""Tag of a run -> its name in a report."""


def histories(client: MlflowClient, runs: Sequence[str], metrics: Sequence[str]) -> list[dict[str, list[tuple[int, float]]]]:
    """Each run's curves: metric -> (epoch, value); a metric that a run never reported is left out.

    Args:
        runs: ids of runs.
    """
    found: list[dict[str, list[tuple[int, float]]]] = []
    for run in runs:
        series = {metric: sorted((m.step, m.value) for m in client.get_metric_history(run, metric)) for metric in metrics}
        found.append({metric: points for metric, points in series.items() if points})
    return found


def record_of(client: MlflowClient, experiment: str, identity: str) -> dict[str, dict[str, Any]]:
    """`runs`: ids of the experiment and of a study's own run; `data`: hashes of what it and its first trials are made from.

    Args:
        experiment: its name.
        identity: of the study.
    """
    there = client.get_experiment_by_name(experiment)
    if there is None:
        return {"runs": {}, "data": {}}
    of_study = functools.partial(runs_of, client, there.experiment_id, identity)
    runs = [*of_study("kind = 'sweep'"), *of_study("kind = 'trial'", 1000)]
    ids = {"experiment": there.experiment_id, "parent run": runs[0].info.run_id} if runs else {}
    data = {name: ", ".join(sorted({r.data.tags[tag] for r in runs if tag in r.data.tags})) for tag, name in MADE_FROM.items()}
    return {"runs": ids, "data": {name: value for name, value in data.items() if value}}
