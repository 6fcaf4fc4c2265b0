"""Runs a sweep from its start, or from wherever it was interrupted, to its budget."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import optuna

from paraphrase.core.errors import InputError, Interrupted, Stopped
from paraphrase.core.measure.verdicts import performer_verdict
from paraphrase.core.terminal.console import say, waiting
from paraphrase.sweep.driver.progress import Progress
from paraphrase.sweep.driver.session import Session
from paraphrase.sweep.patience import OPENING, PATIENCE, OutOfPatience
from paraphrase.sweep.process import Process
from paraphrase.sweep.record.client import connect, import_mlflow, opened, reach
from paraphrase.sweep.record.described import data_of, parent_tags, sweep_params, tags_of
from paraphrase.sweep.record.recorder import Recorder
from paraphrase.sweep.record.tracking import Tracker, delete_runs, make_tracker, system_metrics
from paraphrase.sweep.settings.config import SweepConfig, drop_landmark_metrics
from paraphrase.sweep.settings.folder import (
    SWEEP,
    artifact_root,
    keep_sweep,
    locked,
    read_sweep,
    shown,
    storage_url,
    store_of,
    sweep_folder,
    sweep_key,
    tracking_uri,
    without_password,
    yaml_of,
)
from paraphrase.sweep.settings.places import absolute, tracked
from paraphrase.sweep.study.changes import check_budget, with_resources
from paraphrase.sweep.study.lease import SECONDS, Lease, leased
from paraphrase.sweep.study.results import complete_trials, why_none_is_complete
from paraphrase.sweep.study.storage import PatientStorage, open_storage
from paraphrase.sweep.study.study import (
    STATE_NAMES,
    budget,
    finished_trials,
    identity_of,
    open_study,
    refuse_existing,
    refuse_lost_study,
    retry_failed,
    study_exists,
)
from paraphrase.sweep.study.warm_start import warm_start
from paraphrase.sweep.workers.cluster import (
    Places,
    address_of,
    available,
    await_nodes,
    bundle_of,
    cluster,
    concurrency,
    demand_gpus,
    gpus_of_trial,
    head_address,
    is_spread,
    nodes_with_cpus,
    quiet_ray,
)
from paraphrase.sweep.workers.head import watched
from paraphrase.sweep.workers.nodes import check_nodes, refuse_sqlite
from paraphrase.sweep.workers.tasks import Tasks

MOST_PENDING = 1000
"""Most trials that Ray is asked to find a place for at once."""


def run_sweep(sweep: SweepConfig) -> None:
    """Run a new sweep, until its budget is spent or it is interrupted.

    Raises:
        InputError: if there is a sweep of this name, or data, tracking store or warm start are bad; then nothing is left behind.
    """
    sweep = absolute(tracked(sweep))
    refuse_existing(sweep)
    with locked(sweep.name), _sigterm_like_sigint():
        try:
            refuse_existing(sweep)
            if sweep.warm_start:
                _open_source(sweep.warm_start)
            with _writing() as process:
                process.answer()
                opened(tracking_uri(sweep), lambda uri: process.keep(connect, uri), OPENING)
                with _place(sweep) as tasks:
                    _prepare(sweep, tasks)
                    keep_sweep(sweep)
                    with _held(sweep) as held:
                        _drive(sweep, tasks, process, *held)
        except BaseException:
            if not (sweep_folder(sweep.name) / SWEEP).exists():
                shutil.rmtree(sweep_folder(sweep.name))
            raise


def resume_sweep(name: str, trials: int | None = None, changes: dict[str, Any] | None = None, failed_again: bool = False) -> None:
    """Go on with a sweep to its budget, or a larger one, or until it is interrupted.

    Args:
        trials: new budget.
        changes: fields of `resources` that are different from now on.
        failed_again: try the failed trials again, each in its own place.

    Raises:
        InputError: if there is no such sweep, or it has more trials than the new budget.
    """
    sweep = read_sweep(name)
    with locked(name), _sigterm_like_sigint():
        sweep = read_sweep(name)
        if changes:
            sweep = with_resources(sweep, changes)
        if trials is not None:
            check_budget(sweep, trials)
            sweep = replace(sweep, trials=trials)
        refuse_lost_study(sweep, PATIENCE)
        if trials is not None or changes:
            keep_sweep(sweep)
        # first, since the cluster may be full of what a driver that has lost the lease, and does not know it yet, has running
        with _writing() as process, _held(sweep, SECONDS + 5) as held, _place(sweep) as tasks:
            _prepare(sweep, tasks)
            process.answer()
            _drive(sweep, tasks, process, *held, failed_again)


@contextmanager
def _writing() -> Iterator[Process]:
    """The process that writes to MLflow; its first answer says that it is ready to."""
    with closing(Process("writes to MLflow")) as process:
        process.begin(import_mlflow)
        yield process


@contextmanager
def _place(sweep: SweepConfig) -> Iterator[Tasks]:
    """Connect to the cluster, if one is named, for all that a sweep computes besides its trials; else this process does it.

    Raises:
        InputError: if the cluster has no place for a trial, or its nodes cannot run one.
    """
    if store := store_of(sweep):
        store.check()
    if not address_of(sweep.resources):
        yield Tasks(sweep)
        return
    with cluster(sweep.resources), watched(head_address()):
        elsewhere = is_spread() or bool(sweep.resources.wait_for)
        gpus = gpus_of_trial(sweep.resources, available())
        demand_gpus(sweep.resources, available(), sweep.base_config().train.device, elsewhere)
        await_nodes(sweep.resources, gpus)
        concurrency(sweep.resources, available(), budget(sweep))  # else a task would wait for ever
        if elsewhere:
            refuse_sqlite(sweep)
            check_nodes(sweep)
        yield Tasks(sweep, gpus if elsewhere else None)


def _prepare(sweep: SweepConfig, tasks: Tasks) -> None:
    """Make data, performer and cache, once; takes objectives that the data cannot give out of the sweep, in place."""
    tasks.make_cache()
    if not tasks.meta["landmarks"] and drop_landmark_metrics(sweep):
        say(f"no landmarks: optimising {' and '.join(sweep.objectives)}")


@contextmanager
def _held(sweep: SweepConfig, wait: float = 0.0) -> Iterator[tuple[PatientStorage, Lease | None]]:
    """The study's storage, and its lease; a server that is away for too long, or a driver that has taken it over, interrupt.

    Args:
        wait: seconds to wait for the lease of a driver that may have been killed.
    """
    storage = open_storage(storage_url(sweep), PATIENCE)  # it was there already
    with leased(storage.server, sweep.name, wait) as lease:
        try:
            yield storage, lease
        except OutOfPatience as error:
            raise Interrupted(f"{error}; go on with `paraphrase sweep resume {sweep.name}`") from None


def _drive(
    sweep: SweepConfig, tasks: Tasks, process: Process, storage: PatientStorage, lease: Lease | None, failed_again: bool = False
) -> None:
    """Run trials until the budget is spent, then write what belongs to the whole sweep.

    Args:
        process: writes to MLflow.
        storage, lease: of the study.
        failed_again: see `resume_sweep`.
    """
    begin = time.monotonic()
    study = open_study(sweep, storage_url(sweep), create=True, storage=storage)
    _warm_start(study, sweep)
    if failed_again:
        say(f"sweep {sweep.name}: {retry_failed(study)} failed trials are tried again")
    recorder = open_recorder(sweep, study, tasks.meta, process, lease.check if lease else lambda: None)
    try:
        _run_to_the_end(Session(sweep, study, recorder, tasks, begin, study.user_attrs.get("seconds", 0.0)))
    finally:
        recorder.close()


def _run_to_the_end(session: Session) -> None:
    sweep, study, recorder = session.sweep, session.study, session.recorder
    _record_baseline(session)
    done = len(finished_trials(study))
    if done < budget(sweep):
        where = without_password(tracking_uri(sweep))
        say(f"sweep {sweep.name}: {done} of {budget(sweep)} trials done; results in {where}")
        try:
            with system_metrics(tracking_uri(sweep), recorder.parent):
                _run_trials(session)
        except Stopped:
            recorder.now(Tracker.end, "FAILED", _logging_share(session))
            raise
    session.save_seconds()
    missing = budget(sweep) - len(finished_trials(study))
    if missing > 0:
        recorder.now(Tracker.end, "KILLED", _logging_share(session))
        say(f"interrupted, {missing} trials to go; go on with `paraphrase sweep resume {sweep.name}`")
        return
    _finish(session)


def _warm_start(study: optuna.Study, sweep: SweepConfig) -> None:
    if sweep.warm_start:
        known = study.user_attrs.get("warm_started")  # then the source need not be there any more
        if known is None:
            source, of_source = _open_source(sweep.warm_start)
            known = warm_start(study, sweep, of_source, source)
            study.set_user_attr("warm_started", known)
        say(f"warm start: {known} trials of {sweep.warm_start}")


def _open_source(name: str) -> tuple[SweepConfig, optuna.Study]:
    """The sweep that a warm start takes trials from.

    Raises:
        InputError: if there is none of this name, or it has no study.
    """
    source = read_sweep(name)
    return source, open_study(source, storage_url(source))


def open_recorder(
    sweep: SweepConfig, study: optuna.Study, meta: Mapping[str, Any], process: Process, check: Callable[[], None] = lambda: None
) -> Recorder:
    """The recorder of a sweep, once MLflow is there.

    Args:
        meta: of its cache.
        process: that is to write.
        check: see `Recorder`.
    """
    experiment = sweep.experiment, artifact_root(sweep)
    of_sweep = sweep.name, identity_of(study), tags_of(sweep, meta), parent_tags(sweep, meta)
    reach(tracking_uri(sweep), lambda uri: process.keep(make_tracker, uri, *experiment, *of_sweep))
    return Recorder(process, tracking_uri(sweep), check)


def _record_baseline(session: Session) -> None:
    """The performer's own metrics and the controls, measured once."""
    rows = session.study.user_attrs.get("baseline")
    if rows is None:
        meta = session.tasks.meta
        rows = session.tasks.baseline()
        accuracy = rows["performer"].get("accuracy")
        if verdict := performer_verdict(accuracy, len(meta["categories"]), meta["images"]["test"]):
            say(verdict)
            session.study.set_user_attr("performer_verdict", verdict)
        session.study.set_user_attr("baseline", rows)
    metrics = {f"{row}/{metric}": value for row, values in rows.items() for metric, value in values.items()}
    session.recorder.now(Tracker.log_parent, metrics, sweep_params(session.sweep))
    session.recorder.now(Tracker.log_data, data_of(session.sweep.base_config(), session.tasks.meta))
    session.recorder.now(Tracker.log_text, yaml_of(shown(session.sweep)), SWEEP)


def _run_trials(session: Session) -> None:
    quiet_ray()
    from ray import tune

    from paraphrase.sweep.driver.scheduler import Plain, ResumableASHA, recorded_rungs
    from paraphrase.sweep.driver.searcher import StudySearcher, drop_leftovers
    from paraphrase.sweep.driver.strikes import Strikes
    from paraphrase.sweep.driver.watch import Watch
    from paraphrase.sweep.workers.batches import trials_per_batch
    from paraphrase.sweep.workers.trainable import ExplainerTrial

    sweep, study = session.sweep, session.study
    progress = _progress(session)
    drop_leftovers(study, sweep)
    scratch = sweep_folder(sweep.name) / "ray"
    shutil.rmtree(scratch, ignore_errors=True)
    with cluster(sweep.resources):
        gpus = gpus_of_trial(sweep.resources, available())
        at_once = concurrency(sweep.resources, available(), budget(sweep), gpus)
        cache = session.tasks.meta["key"]
        batch = trials_per_batch(study, sweep, cache, gpus, at_once)
        places = Places(sweep.resources, budget(sweep), gpus)
        strikes = Strikes(bundle_of(sweep.resources, gpus), nodes_with_cpus)
        if stopping := sweep.early_stopping:
            scheduler: Any = ResumableASHA(stopping, _most_epochs(sweep), recorded_rungs(study), strikes.apply)
        else:
            scheduler = Plain(strikes.apply)
        searcher = StudySearcher(study, sweep, session.recorder, progress, cache, places, batch)
        # else actors start one after another, and clusters grow by one
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(budget(sweep), MOST_PENDING))
        try:
            tune.run(
                ExplainerTrial,
                name="tune",
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                storage_path=str(scratch),
                resources_per_trial=tune.PlacementGroupFactory([strikes.bundle]),
                max_failures=sweep.max_retries,
                reuse_actors=True,
                raise_on_failed_trial=False,
                verbose=0,
                callbacks=[Watch(searcher, progress, strikes, session.save_seconds)],
                trial_name_creator=lambda trial: f"{trial.config['number']:03d}",
                trial_dirname_creator=lambda trial: f"{trial.config['number']:03d}_{trial.trial_id}",
            )
        finally:
            searcher.finish()
            progress.close()
    shutil.rmtree(scratch, ignore_errors=True)
    if searcher.failure:
        raise searcher.failure
    drop_leftovers(study, sweep)  # what a worker still sent to the store while its trial was stopped


@contextmanager
def _sigterm_like_sigint() -> Iterator[None]:
    """Let SIGTERM end the sweep as Ctrl-C does, which Ray Tune turns into an orderly end."""
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return

    def interrupt(_: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # Ray Tune's, while it runs
        if not callable(handler):  # a shell has its children in the background ignore SIGINT
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _most_epochs(sweep: SweepConfig) -> int:
    dimension = sweep.space.get("train.epochs")
    if dimension is None:
        return sweep.base_config().train.epochs
    return int(max(dimension.choices) if dimension.choices else dimension.high or 1)


def _progress(session: Session) -> Progress:
    sweep, finished = session.sweep, finished_trials(session.study)
    states: dict[str, int] = {}
    best: dict[str, float | None] = {metric: None for metric in sweep.objectives}
    for trial in finished:
        states[STATE_NAMES[trial.state]] = states.get(STATE_NAMES[trial.state], 0) + 1
        if trial.state == optuna.trial.TrialState.COMPLETE:
            for (metric, direction), value in zip(sweep.objectives.items(), trial.values, strict=True):
                choose = min if direction == "minimize" else max
                known = best[metric]
                best[metric] = value if known is None else choose(known, value)
    return Progress(budget(sweep), states, best, sweep.objectives, _most_epochs(sweep))


def _logging_share(session: Session) -> float:
    """Share of this session's time that was spent writing to MLflow, beside the trials."""
    return session.recorder.seconds / max(time.monotonic() - session.begin, 1e-9)


def _finish(session: Session) -> None:
    """Figures, filter pages and the report, once for every budget."""
    share, ended, recorder = _logging_share(session), len(finished_trials(session.study)), session.recorder
    if session.study.user_attrs.get("reported") == ended:
        recorder.now(Tracker.end, "FINISHED")
        say(f"sweep {session.sweep.name}: finished already; `--trials N` raises its budget")
    else:
        with waiting("drawing the report"):
            from paraphrase.sweep.report.write import write_report

            write_report(session.sweep, session.study, recorder, session.tasks)
        session.save_seconds()
        recorder.now(Tracker.end, "FINISHED", share)
        session.study.set_user_attr("reported", ended)
    if not complete_trials(session.study):
        say(f"sweep {session.sweep.name}: no trial is complete: {why_none_is_complete(session.study)}")


def delete_sweep(name: str) -> None:
    """Delete a sweep: its study, its folder and its MLflow runs.

    Raises:
        InputError: if there is none of that name, or it is being run.
    """
    sweep = read_sweep(name)
    with locked(name):
        if study_exists(storage_url(sweep), name):
            storage = open_storage(storage_url(sweep))
            with leased(storage.server, name):
                study = open_study(sweep, storage_url(sweep), storage=storage)
                try:  # before the study, which knows which runs are its own
                    delete_runs(tracking_uri(sweep), sweep.experiment, identity_of(study))
                except InputError as error:
                    say(f"sweep {name}: its runs were not deleted: {error}")
                optuna.delete_study(study_name=name, storage=storage)
        if store := store_of(sweep):
            store.delete(sweep_key(name))
        shutil.rmtree(sweep_folder(name))
