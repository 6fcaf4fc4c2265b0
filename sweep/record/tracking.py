"""The record in MLflow: one parent run a sweep, one child run a trial, written by the driver alone, each value once."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraphrase.core.errors import InputError, first_line
from paraphrase.sweep.settings.folder import without_password

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from paraphrase.core.config import Config

PARENT_TAG = "mlflow.parentRunId"
FLUSH_SECONDS = 2.0
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


def quiet_mlflow() -> None:
    """No telemetry and no log lines of MLflow, alembic and git on the screen."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # the recorder tries again, and looks first: MLflow's client would make a second run where the answer was lost
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow.*")


def open_client(uri: str) -> MlflowClient:
    """A client of the tracking store at `uri`, whose tables exist afterwards.

    Raises:
        InputError: if the store cannot be opened.
    """
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    quiet_mlflow()  # importing mlflow sets its loggers up
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        first = without_password(first_line(error))
        remedy = "; start the server with `--allowed-hosts` that has this name and port" if "Invalid Host" in first else ""
        raise InputError(f"tracking_uri: {without_password(uri)} cannot be opened: {first}{remedy}") from None
    return client


def open_experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """The id of an experiment, made if it is not there."""
    found = client.get_experiment_by_name(name)
    if found is None:  # the tag has MLflow's pages show runs and charts, not those for language models
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


class Tracker:
    """Writes one sweep. Whatever was written before, by this process or a killed one, is found and not written again.

    Args:
        client, experiment: where to write.
        study: name of the sweep; with the trial's number it identifies a run.
        tags: tags of every run.
    """

    def __init__(self, client: MlflowClient, experiment: str, study: str, tags: Mapping[str, str]) -> None:
        self.client, self.experiment, self.study, self.tags = client, experiment, study, dict(tags)
        self.seconds = 0.0
        self.uri = str(client.tracking_uri)
        self._runs: dict[int, str] = {}
        self._unsure: set[int] = set()  # trials whose run may have been made although the answer was lost
        self._fresh: set[str] = set()  # runs that this process made, so that nothing can be in them yet
        self._logged: dict[str, dict[str, set[int]]] = {}
        self._waiting: dict[str, list[Any]] = {}
        self._flushed = time.monotonic()
        with self._timed():
            self.parent = self._find_or_create({"kind": "sweep"}, study)
            self._reopen(self.parent)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Adds up the time that logging takes."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin

    def _find(self, tags: Mapping[str, str]) -> Run | None:
        wanted = {"study": self.study, **tags}
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
        found = self.client.search_runs([self.experiment], query, max_results=1, order_by=["attributes.start_time ASC"])
        return found[0] if found else None

    def _find_or_create(self, tags: Mapping[str, str], name: str) -> str:
        """The run with these tags. It is looked for by its tags, since a killed driver may have made it already."""
        run = self._find(tags) or self.client.create_run(
            self.experiment, run_name=name, tags={**self.tags, "study": self.study, **tags}
        )
        return str(run.info.run_id)

    def _reopen(self, run: str) -> None:
        if self.client.get_run(run).info.status != "RUNNING":
            self.client.update_run(run, status="RUNNING")

    def start_trial(
        self, number: int, name: str, params: Mapping[str, Any], more_tags: Mapping[str, str] | None = None, earlier: bool = True
    ) -> str:
        """The run of a trial, with its parameters and tags; found again if it exists.

        Args:
            earlier: whether another driver may have made it: a search takes longer the more runs there are.
        """
        with self._timed():
            tags = {"kind": "trial", "trial_number": str(number), PARENT_TAG: self.parent}
            run = self._runs.get(number)
            present: Mapping[str, str] = {}
            if run is None and (earlier or number in self._unsure):
                found = self._find({"kind": "trial", "trial_number": str(number)})
                if found:
                    run, present = str(found.info.run_id), found.data.params
                    self._reopen(run)
            if run is None:
                self._unsure.add(number)
                every = {**self.tags, **(more_tags or {}), "study": self.study, "trial_state": "running", **tags}
                run = str(self.client.create_run(self.experiment, run_name=name, tags=every).info.run_id)
                self._fresh.add(run)
            self._runs[number] = run
            self._log_params(run, {k: v for k, v in params.items() if k not in present})
            return run

    def run_of(self, number: int) -> str | None:
        """The run of a trial, as far as it is known."""
        return self._runs.get(number)

    def know(self, number: int, run: str) -> None:
        """Be told a trial's run, which then need not be searched for."""
        self._runs.setdefault(number, run)

    def _log_params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(_key(k), str(v)[:6000]) for k, v in params.items()]
        for i in range(0, len(entries), 100):
            self.client.log_batch(run, params=entries[i : i + 100])

    def _steps(self, run: str, key: str) -> set[int]:
        """The steps of a metric that are in the store already."""
        known = self._logged.setdefault(run, {})
        if key not in known:
            history = [] if run in self._fresh else self.client.get_metric_history(run, _key(key))
            known[key] = {m.step for m in history}
        return known[key]

    def log(self, number: int, history: Iterable[Mapping[str, Any]]) -> None:
        """Note the metrics of epochs; what is in the store already is left out. They are written in batches.

        Args:
            history: entries with `epoch`, `timestamp` (ms) and metrics; entries that are not numbers are left out.
        """
        run = self._runs[number]
        with self._timed():
            for entry in history:
                self._note(run, entry, int(entry["epoch"]), int(entry["timestamp"]))
        self.flush_if_due(FLUSH_SECONDS)

    def _note(self, run: str, metrics: Mapping[str, Any], step: int, timestamp: int) -> None:
        from mlflow.entities import Metric

        for key, value in metrics.items():
            if key in ("epoch", "timestamp") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            steps = self._steps(run, key)
            if step not in steps:
                steps.add(step)  # only noted here, so this cannot fail half-way
                self._waiting.setdefault(run, []).append(Metric(_key(key), float(value), timestamp, step))

    def flush_if_due(self, seconds: float) -> None:
        """Write what is waiting if nothing was written for so long."""
        if self._waiting and time.monotonic() - self._flushed > seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        with self._timed():
            for run in list(self._waiting):
                metrics = self._waiting[run]
                for i in range(0, len(metrics), 1000):
                    self.client.log_batch(run, metrics=metrics[i : i + 1000])
                del self._waiting[run]
        self._flushed = time.monotonic()

    def end_trial(
        self,
        number: int,
        state: str,
        reason: str | None,
        artifacts: Sequence[Path],
        end: int | None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write the end of a trial: waiting metrics, artifacts, tags, and last the run's status.

        Args:
            state: complete, pruned or failed.
            reason: why it ended so, if not complete.
            artifacts: files and folders.
            end: when its training ended, in ms.
            tags: what else is known only now.
        """
        from mlflow.entities import RunTag

        self.flush()
        run = self._runs[number]
        with self._timed():
            for path in artifacts:
                self.log_artifact(path, number)
            more = {"trial_state": state} | ({"reason": reason[:5000]} if reason else {}) | dict(tags or {})
            self.client.log_batch(run, tags=[RunTag(key, value) for key, value in more.items()])
            self.client.set_terminated(run, status=STATUS[state], end_time=end)

    def mark_front(self, number: int) -> None:
        """Tag a trial's run as Pareto-optimal."""
        self.client.set_tag(self._run_of(number), "pareto", "true")

    def log_artifact(self, path: Path, number: int | None = None) -> None:
        """Copy a file or folder (under its own name) to a trial's run, or the parent's."""
        run = self.parent if number is None else self._run_of(number)
        if path.is_dir():
            self.client.log_artifacts(run, str(path), artifact_path=path.name)
        elif path.exists():
            self.client.log_artifact(run, str(path))

    def _run_of(self, number: int) -> str:
        if number not in self._runs:
            found = self._find({"kind": "trial", "trial_number": str(number)})
            assert found is not None, f"trial {number} has no run"
            self._runs[number] = str(found.info.run_id)
        return self._runs[number]

    def log_parent(self, metrics: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None) -> None:
        """Write metrics (once each, at step 0) and parameters of the parent run."""
        with self._timed():
            if params:
                present = self.client.get_run(self.parent).data.params
                self._log_params(self.parent, {k: v for k, v in params.items() if k not in present})
            self._note(self.parent, metrics or {}, 0, int(time.time() * 1000))
            self.flush()

    def end(self, status: str, logging_share: float | None = None) -> None:
        """End the parent run: FINISHED when the budget is spent, KILLED after an interruption."""
        self.flush()
        if logging_share is not None:
            sessions = len(self.client.get_metric_history(self.parent, "logging_share"))
            self.client.log_metric(self.parent, "logging_share", logging_share, step=sessions)
        self.client.set_terminated(self.parent, status=status)


def hash_tags(meta: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say what a feature cache was built from."""
    return {
        "data_hash": meta["dataset_fingerprint"],
        "performer_hash": meta["performer_fingerprint"],
        "cache_key": meta["key"],
    }


def seed_tags(config: Config) -> dict[str, str]:
    """The seeds that a run, or a sweep's base, has."""
    data, performer, train = config.data.seed, config.performer.fit.seed, config.train.seed
    return {"seeds": f"data {data}, performer {performer}, train {train}"}


SHARED_VIEW = "mlflow.sharedViewState."
"""Prefix of the experiment tags in which MLflow's pages keep views that are shared by a link."""


def share_grouped_view(uri: str, experiment: str, study: str, tag: str) -> None:
    """Keep a view of MLflow's table and charts that shows a study's trials, grouped by a tag: means instead of single runs.

    MLflow adds the parent run to what was searched for; its rows, `performer/...` and the controls, are left out of the charts.
    """
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        view = {
            "searchFilter": f"tags.study = '{study}' and tags.kind = 'trial'",
            "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": tag}]},
            "chartsSearchFilter": "^[^/]+$",
        }
        client.set_experiment_tag(found.experiment_id, SHARED_VIEW + study, json.dumps(view))


def log_to_parent(uri: str, experiment: str, study: str, files: Iterable[Path]) -> None:
    """Copy files to the parent run of a finished sweep."""
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], f"tags.study = '{study}' and tags.kind = 'sweep'") if found else []
    for file in files if runs else []:
        client.log_artifact(runs[0].info.run_id, str(file))


def delete_runs(uri: str, experiment: str, study: str) -> None:
    """Delete all runs of a sweep.

    Raises:
        InputError: if the store cannot be opened.
    """
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    while found and (runs := client.search_runs([found.experiment_id], f"tags.study = '{study}'")):
        for run in runs:
            client.delete_run(run.info.run_id)


def _key(key: str) -> str:
    """A metric or parameter name with the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in key)
