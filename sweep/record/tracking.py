"""The record in MLflow: one parent run a sweep, one child run a trial, written by the driver alone, each value once."""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from paraphrase.core.errors import first_line
from paraphrase.core.terminal.console import say
from paraphrase.sweep.record.client import connect, open_client, open_experiment, reach
from paraphrase.sweep.study.study import IDENTITY

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag
    from mlflow.tracking import MlflowClient


PARENT_TAG = "mlflow.parentRunId"
FLUSH_SECONDS = 2.0
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


METRICS, PARAMS = 800, 100
"""Most of a request, beside at most 100 tags: MLflow takes 1000 of all."""


class Waiting(NamedTuple):
    """What is to be written into a run."""

    metrics: list[Metric]
    params: list[Param]


class Tracker:
    """Writes one sweep. Whatever was written before, by this process or a killed one, is found and not written again.

    Args:
        client, experiment: where to write.
        study: name of the sweep.
        identity: of its study; with the trial's number it identifies a run.
        tags: tags of every run.
        of_parent: more tags of the sweep's own run.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        study: str,
        identity: str,
        tags: Mapping[str, str],
        of_parent: Mapping[str, str] | None = None,
    ) -> None:
        self.client, self.experiment, self.identity = client, experiment, identity
        self.tags = {**tags, "study": study, IDENTITY: identity}
        self._runs: dict[int, str] = {}
        self._gone: set[str] = set()  # runs that no longer exist
        self._unsure: set[int] = set()  # trials whose run may have been made although the answer was lost
        self._fresh: set[str] = set()  # runs that this process made, so that nothing can be in them yet
        self._logged: dict[str, dict[str, set[int]]] = {}
        self._waiting: dict[str, Waiting] = {}
        self._flushed = time.monotonic()
        found = self._find("kind = 'sweep'") or client.create_run(
            experiment, run_name=study, tags={**self.tags, **(of_parent or {}), "kind": "sweep"}
        )
        self.parent = str(found.info.run_id)
        self._reopen(self.parent)

    def _find(self, condition: str) -> Run | None:
        """A run by its tags, since a killed driver may have made it already; one that was deleted is restored."""
        found = runs_of(self.client, self.experiment, self.identity, condition, deleted=True)
        if found and found[0].info.lifecycle_stage == "deleted":
            self._restore(found[0])
        return found[0] if found else None

    def _restore(self, run: Run) -> None:
        self.client.restore_run(run.info.run_id)
        say(f"MLflow: run {run.info.run_name} had been deleted; it is restored")

    def _into(self, run: str, write: Callable[[], Any]) -> None:
        """Write something into a run; one that was deleted meanwhile is restored, one that is gone is said to be, once."""
        from mlflow.exceptions import MlflowException

        if run in self._gone:
            return
        try:
            write()
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise
            try:
                found = self.client.get_run(run)
            except MlflowException as why:
                if why.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self._gone.add(run)
                say(f"MLflow: run {run} is there no longer; nothing more is written into it")
                return
            if found.info.lifecycle_stage != "deleted":
                raise
            self._restore(found)
            write()

    def _reopen(self, run: str) -> None:
        if self.client.get_run(run).info.status != "RUNNING":
            self.client.update_run(run, status="RUNNING")

    def start_trial(
        self, number: int, name: str, params: Mapping[str, Any], more_tags: Mapping[str, str] | None = None, earlier: bool = True
    ) -> str:
        """The run of a trial, with its tags; found again if it exists. Its parameters are written with what follows, or soon.

        Args:
            earlier: whether another driver may have made it: a search takes longer the more runs there are.
        """
        tags = {"kind": "trial", "trial_number": str(number), PARENT_TAG: self.parent}
        run = self._runs.get(number)
        present: Mapping[str, str] = {}
        if run is None and (earlier or number in self._unsure):
            found = self._find(f"trial_number = '{number}'")
            if found:
                run, present = str(found.info.run_id), found.data.params
                self._reopen(run)
        if run is None:
            self._unsure.add(number)
            every = {**self.tags, **(more_tags or {}), "trial_state": "running", **tags}
            run = str(self.client.create_run(self.experiment, run_name=name, tags=every).info.run_id)
            self._fresh.add(run)
        self._runs[number] = run
        self._note_params(run, {k: v for k, v in params.items() if k not in present})
        return run

    def know(self, number: int, run: str) -> None:
        """Be told a trial's run, which then need not be searched for."""
        self._runs.setdefault(number, run)

    def _of(self, run: str) -> Waiting:
        return self._waiting.setdefault(run, Waiting([], []))

    def _note_params(self, run: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._of(run).params.extend(Param(_key(k), str(v)[:6000]) for k, v in params.items())

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
                self._of(run).metrics.append(Metric(_key(key), float(value), timestamp, step))

    def flush_if_due(self, seconds: float) -> None:
        """Write what is waiting if nothing was written for so long."""
        if self._waiting and time.monotonic() - self._flushed > seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        for run in list(self._waiting):
            self._write(run)
        self._flushed = time.monotonic()

    def _write(self, run: str, tags: Sequence[RunTag] = ()) -> None:
        """Write what waits for a run, and tags, in as few requests as MLflow allows: each is a transaction of its database."""
        metrics, params = self._of(run)
        requests = max(math.ceil(len(metrics) / METRICS), math.ceil(len(params) / PARAMS), 1 if tags else 0)
        for i in range(requests):
            some = metrics[i * METRICS : (i + 1) * METRICS], params[i * PARAMS : (i + 1) * PARAMS], () if i else tags
            self._into(run, functools.partial(self.client.log_batch, run, *some))
        del self._waiting[run]

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

        run = self._runs[number]
        for path in artifacts:
            self.log_artifact(path, number)
        more = {"trial_state": state} | ({"reason": reason[:5000]} if reason else {}) | dict(tags or {})
        self._write(run, [RunTag(key, value) for key, value in more.items()])
        self._into(run, lambda: self.client.set_terminated(run, status=STATUS[state], end_time=end))
        self._logged.pop(run, None)  # else the memory of ten thousand trials
        self._fresh.discard(run)

    def mark_front(self, number: int) -> None:
        """Tag a trial's run as Pareto-optimal."""
        run = self._runs[number]
        self._into(run, lambda: self.client.set_tag(run, "pareto", "true"))

    def log_artifact(self, path: Path, number: int | None = None) -> None:
        """Copy a file or folder (under its own name) to a trial's run, or the parent's."""
        run = self.parent if number is None else self._runs[number]
        if path.is_dir():
            self._into(run, lambda: self.client.log_artifacts(run, str(path), artifact_path=path.name))
        elif path.exists():
            self._into(run, lambda: self.client.log_artifact(run, str(path)))

    def log_text(self, text: str, file: str) -> None:
        """Write a file of the parent run."""
        self._into(self.parent, lambda: self.client.log_text(self.parent, text, file))

    def log_parent(self, metrics: Mapping[str, Any] | None = None, params: Mapping[str, Any] | None = None) -> None:
        """Write metrics (once each, at step 0) and parameters of the parent run."""
        if params:
            present = self.client.get_run(self.parent).data.params
            self._note_params(self.parent, {k: v for k, v in params.items() if k not in present})
        self._note(self.parent, metrics or {}, 0, int(time.time() * 1000))
        self.flush()

    def log_data(self, data: Mapping[str, str]) -> None:
        """Name the data of the parent run, for the column `Dataset` of MLflow's table; once more does nothing.

        Args:
            data: fields of MLflow's `Dataset`.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        named = DatasetInput(Dataset(**data), [InputTag("mlflow.data.context", "training")])
        self._into(self.parent, lambda: self.client.log_inputs(self.parent, [named]))

    def with_client(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of the client, and of arguments, returns."""
        return function(self.client, *arguments)

    def end(self, status: str, logging_share: float | None = None) -> None:
        """End the parent run: FINISHED when the budget is spent, KILLED after an interruption.

        Args:
            logging_share: of this session's time that was spent writing to MLflow; a tag, since it is no metric of the user's.
        """
        self.flush()
        if logging_share is not None:
            share = f"{logging_share:.4f}"
            self._into(self.parent, lambda: self.client.set_tag(self.parent, "logging_share", share))
        self._into(self.parent, lambda: self.client.set_terminated(self.parent, status=status))


def make_tracker(uri: str, experiment: str, artifacts: str | None, *arguments: Any) -> Tracker:
    """The tracker of a sweep, for `Process.keep`.

    Args:
        uri: of the tracking store.
        experiment: its name; it is made if it is not there.
        artifacts: where those of a new one lie.
        arguments: further ones of `Tracker`.
    """
    client = connect(uri)
    return Tracker(client, open_experiment(client, experiment, artifacts), *arguments)


def ids_of(tracker: Tracker) -> tuple[str, str]:
    """Of the experiment, and of the sweep's own run."""
    return tracker.experiment, tracker.parent


def runs_of(
    client: MlflowClient, experiment: str, identity: str, condition: str, most: int = 1, deleted: bool = False
) -> list[Run]:
    """The oldest runs of a study.

    Args:
        experiment: its id.
        identity: of the study.
        condition: on one tag of theirs, such as `kind = 'trial'`.
        most: how many.
        deleted: also those that were deleted, as long as they can be restored.
    """
    from mlflow.entities import ViewType

    query = f"tags.{IDENTITY} = '{identity}' and tags.{condition}"
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    return list(client.search_runs([experiment], query, view, most, ["attributes.start_time ASC"]))


SYSTEM_METRICS = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


def _wants_system_metrics() -> bool:
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING  # takes a second

    return bool(MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get())


@contextmanager
def system_metrics(uri: str, run: str) -> Iterator[None]:
    """Measure this machine for a run meanwhile, as MLflow does where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is true."""
    monitor = None
    if os.environ.get(SYSTEM_METRICS) and _wants_system_metrics():
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        try:
            monitor = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri)
            monitor.start()
        except Exception as error:  # psutil is missing, or what it asks of the machine
            say(f"{SYSTEM_METRICS}: nothing is measured: {first_line(error)}")
    try:
        yield
    finally:
        if monitor is not None:
            monitor.finish()


def log_to_parent(uri: str, experiment: str, identity: str, files: Iterable[Path]) -> None:
    """Copy files to the parent run of a finished sweep; a server that is away is waited for."""
    logged = list(files)

    def log(uri: str) -> None:
        client = connect(uri)
        found = client.get_experiment_by_name(experiment)
        for run in runs_of(client, found.experiment_id, identity, "kind = 'sweep'") if found else []:
            while logged:
                client.log_artifact(run.info.run_id, str(logged[0]))
                del logged[0]

    reach(uri, log)


def delete_runs(uri: str, experiment: str, identity: str) -> None:
    """Delete all runs of a sweep.

    Raises:
        InputError: if the store cannot be opened.
    """
    client = open_client(uri)
    found = client.get_experiment_by_name(experiment)
    while found and (runs := client.search_runs([found.experiment_id], f"tags.{IDENTITY} = '{identity}'")):
        for run in runs:
            client.delete_run(run.info.run_id)


def _key(key: str) -> str:
    """A metric or parameter name with the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in key)
