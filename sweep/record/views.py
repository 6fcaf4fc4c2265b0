"""A view of MLflow's table and charts of a study's trials, prepared as if a user had arranged and shared it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paraphrase.sweep.study.study import IDENTITY

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MODE = "workflowType=machine_learning"
"""Part of an address that has MLflow show runs and charts; without it a browser shows pages for language models first."""
SHARED_VIEW = "mlflow.sharedViewState."
"""Prefix of the experiment tags in which MLflow's pages keep views that are shared by a link."""
SEARCH = "search"
"""Of the section of charts that is ours; MLflow adds one of its own, with a chart for each metric."""
MOST_RUNS = 100
"""Trials that the chart draws, by MLflow's own limit."""


def share_view(
    client: MlflowClient,
    experiment: str,
    identity: str,
    objectives: Mapping[str, str],
    searched: Sequence[str] = (),
    grouped_by: str | None = None,
) -> None:
    """Keep a view that shows a study's trials, the best of the first objective first, with parallel coordinates.

    Args:
        experiment: its name.
        objectives: metric -> `minimize` or `maximize`.
        searched: parameters of the runs that are columns and, if there are any, axes of the parallel coordinates.
        grouped_by: a tag by whose values means are shown instead of single runs.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    first, direction = next(iter(objectives.items()))
    view: dict[str, Any] = {
        "searchFilter": f"tags.{IDENTITY} = '{identity}' and tags.kind = 'trial'",
        "orderByKey": f"metrics.`{first}`",  # by anything but time, trials are not folded into the sweep's own run
        "orderByAsc": direction == "minimize",
        "runsHiddenMode": "SHOWALL",  # else all but ten are not in the charts
        "selectedColumns": [
            *(f"metrics.`{metric}`" for metric in objectives),
            *(f"params.`{param}`" for param in searched),
            "tags.`pareto`",
        ],
    }
    if searched:
        drawn = {"deleted": False, "isGenerated": False}
        card = {"type": "PARALLEL", "uuid": SEARCH, "metricSectionId": SEARCH, "displayName": "What was searched", **drawn}
        card |= {"selectedParams": list(searched), "selectedMetrics": list(objectives)}
        view["compareRunCharts"] = [card | {"showAllRuns": True, "runsCountToCompare": MOST_RUNS}]
        section = {"uuid": SEARCH, "name": "Search", "display": True, "isReordered": False, **drawn}
        view["compareRunSections"] = [section | {"columns": 1, "cardHeight": 420}]  # the names of axes need the whole width
    if grouped_by is not None:
        view["groupBy"] = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": grouped_by}]}
    client.set_experiment_tag(found.experiment_id, SHARED_VIEW + identity, json.dumps(view))


def params_of(client: MlflowClient, run: str) -> dict[str, str]:
    """The parameters of a run."""
    return dict(client.get_run(run).data.params)


def searched_of(params: Iterable[str], space: Iterable[str]) -> list[str]:
    """Those parameters of a run that were searched: a list of numbers is one parameter for each."""
    return [p for path in space for p in params if p == path or p.startswith(f"{path}.")]
