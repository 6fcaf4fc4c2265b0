"""Hands Optuna's proposals to Ray Tune, and the trials' ends back: the study and MLflow stay the only record."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from paraphrase.core.config import Config, to_mapping
from paraphrase.core.errors import InputError, Stopped
from paraphrase.core.explainer.checkpoint import ABOUT
from paraphrase.core.features.cache import read_meta
from paraphrase.core.features.obtain import built_cache, request_of
from paraphrase.core.files import replace_file
from paraphrase.core.measure.filter_table import FILTERS
from paraphrase.core.measure.metrics import KEYS
from paraphrase.core.train.training import batch_key
from paraphrase.sweep.driver.failures import InARow, is_lost, last_error, last_failure
from paraphrase.sweep.driver.progress import Progress
from paraphrase.sweep.driver.scheduler import rung_epochs
from paraphrase.sweep.patience import OutOfPatience
from paraphrase.sweep.record.described import hash_tags, readable, seed_tags
from paraphrase.sweep.record.recorder import Recorder
from paraphrase.sweep.settings.config import ALL, SweepConfig
from paraphrase.sweep.settings.folder import (
    CHECKPOINT,
    EXPLAINER,
    checkpoints_of,
    store_of,
    sweep_folder,
    sweep_key,
    trial_folder,
    write_yaml,
)
from paraphrase.sweep.settings.space import resolve, run_name, suggest
from paraphrase.sweep.store.checkpoints import Checkpoints
from paraphrase.sweep.study.storage import PatientStorage
from paraphrase.sweep.study.study import (
    BLIND,
    FINISHED,
    STATE_NAMES,
    STORED,
    budget,
    finished_trials,
    make_sampler,
    unfinished_trials,
    violations,
)
from paraphrase.sweep.workers.cluster import is_spread, worker_settings
from paraphrase.sweep.workers.trainable import epochs_of

BATCH = "batch"
"""User attribute of a trial: numbers of all trials that train as one batch with it."""
MOST_LOST = 20
"""How often a trial begins anew because its node was lost, which is no fault of its own, until it counts as failed."""
SETTLE, LONGEST = 0.05, 2.0
"""Seconds between two looks at whether the record is written, and until a trial is proposed without knowing of the last ends."""


class Closing(NamedTuple):
    """A trial that has ended and waits for its record to be written; the study is told last."""

    trial: Trial
    state: TrialState
    values: list[float] | None
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    reason: str | None
    stored: str | None
    """Key of its explainer in the store."""
    outside: bool
    """Whether it failed for a cause outside of its training."""


class StudySearcher(Searcher):
    """Proposes unfinished trials first, then new ones, until the budget of ended trials is reached.

    A trial's end is written in this order: MLflow metrics, artifacts, run status, and last the study. So whatever a
    killed driver left behind, a trial that the study calls ended is whole, and any other is gone through again from its
    checkpoint. The record is written on a thread; while MLflow is away, trials go on and their ends wait.

    The study is read once, here: its only writer knows what has changed since.

    Args:
        study: the study.
        sweep: its configuration.
        recorder: writes to MLflow.
        progress: told of everything that happens.
        cache: key of the base configuration's cache.
        concurrency: most trials, or batches of them, at once, asked for again and again: nodes come and go.
        batch: most trials that train as one batch; they differ only in their seeds and loss weights.
    """

    def __init__(
        self,
        study: optuna.Study,
        sweep: SweepConfig,
        recorder: Recorder,
        progress: Progress,
        cache: str,
        concurrency: Callable[[], int],
        batch: int = 1,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self.study, self.sweep, self.recorder, self.progress = study, sweep, recorder, progress
        self.concurrency, self.batch = concurrency, batch
        self.storage: PatientStorage = study._storage._backend  # type: ignore[attr-defined]
        self.store = store_of(sweep)
        self.base = to_mapping(sweep.base_config())
        self.cache, self.request = cache, request_of(sweep.base_config())
        self.built: dict[str, Path | None] = {}
        trials = study.get_trials(deepcopy=False)
        self.ids = {t.number: t._trial_id for t in trials}
        self.batch_of: dict[int, list[int]] = {t.number: t.user_attrs[BATCH] for t in trials if BATCH in t.user_attrs}
        self.queued = {t.number for t in trials if t.state == TrialState.WAITING}
        self.earlier = {t.number for t in trials if t.state == TrialState.RUNNING}
        self.over = {t.number for t in trials if t.state in FINISHED}
        self.waiting = [t.number for t in unfinished_trials(study)]
        self.live: dict[str, list[Trial]] = {}
        self.first_of: dict[str, int] = {}
        self.tune_trials: dict[str, Any] = {}
        self.history: dict[int, dict[int, dict[str, Any]]] = {}
        self.stored: dict[int, str] = {}
        self.lost: dict[int, int] = {}
        self.closing: dict[int, Closing] = {}
        self.ended_with: dict[int, tuple[int, set[int]]] = {}
        self.failure: BaseException | None = None
        self.finished = len(finished_trials(study))
        self.in_a_row = InARow(any(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials))

    def suggest(self, trial_id: str) -> Any:
        self.settle(patient=self.sweep.sampler not in BLIND)
        if self.failure:
            return Searcher.FINISHED
        if not self._room():  # the trials of a batch may yet come back, to begin anew
            return None if any(len(trials) > 1 for trials in self.live.values()) else Searcher.FINISHED
        if len(self.live) >= self.concurrency():
            return None
        try:
            return self._begin(trial_id)
        except Exception as error:
            self.failure = error
            return Searcher.FINISHED

    def _room(self) -> int:
        """Trials that the budget still has room for."""
        return budget(self.sweep) - self.finished - len(self.closing) - sum(map(len, self.live.values()))

    def _begin(self, trial_id: str) -> dict[str, Any] | str:
        first = self._next_trial()
        config = self._resolve(first)
        if config is None:
            return self.suggest(trial_id)
        if bound := self._bound(first.number):
            members = self._earlier_batch(first, bound)
        else:
            members = [(first, config), *self._companions(config)]
            if len(members) > 1 or first.number in self.batch_of:
                for trial, _ in members:
                    self._set_batch(trial, [t.number for t, _ in members])
        running = [(t, c) for t, c in members if t.number not in self.over]
        for trial, its_config in running:
            self._begin_record(trial, trial.params, its_config)
            self.progress.started(trial.number)
        self.live[trial_id] = [trial for trial, _ in running]
        self.first_of[trial_id] = members[0][0].number
        return {
            "number": members[0][0].number,
            "members": [{"number": t.number, "config": to_mapping(c)} for t, c in members],
            "sweep": self.sweep.name,
            "rungs": rung_epochs(self.sweep.early_stopping, members[0][1].train.epochs) if self.sweep.early_stopping else [],
            "cache": self._key(members[0][1]),
            **worker_settings(self.sweep),
        }

    def _set_batch(self, trial: Trial, numbers: list[int]) -> None:
        trial.set_user_attr(BATCH, numbers)
        self.batch_of[trial.number] = numbers

    def _checkpoints(self, number: int) -> Checkpoints:
        return checkpoints_of(self.sweep.name, number, self.store)

    def _key(self, config: Config) -> str | None:
        """Key of the cache of a configuration; None where the worker must find or build it."""
        if request_of(config) == self.request:
            return self.cache
        folder = None if self.store else self._built(config)  # only the base's is in the store for sure
        return folder.name if folder else None

    def _built(self, config: Config) -> Path | None:
        """The folder of a configuration's cache in this home, if it is there."""
        request = request_of(config)
        if not self.built.get(request):
            self.built[request] = built_cache(config)
        return self.built[request]

    def _resolve(self, trial: Trial) -> Config | None:
        """A trial's configuration; where its values are possible but not their combination, the trial is ended."""
        with self.storage.together():
            params = suggest(trial, self.sweep.space, self.base)
        try:
            return resolve(params, self.sweep.space, self.base)
        except InputError as error:
            self._begin_record(trial, params, None)
            self._end(trial, str(error))
            return None

    def _bound(self, number: int) -> list[int]:
        """Numbers of the batch that an unfinished trial must go on in; itself alone; or none, where it is free."""
        batch = self.batch_of.get(number)
        if batch is None:  # it began alone, or not at all
            return [number] if number in self.earlier and self._checkpoints(number).any() else []
        if any(self.batch_of.get(n, batch) != batch for n in batch):  # killed while it was separated
            return [number]
        fits = len(batch) <= max(1, self.batch)
        return batch if fits or self._checkpoints(batch[0]).any() else []

    def _earlier_batch(self, first: Trial, numbers: list[int]) -> list[tuple[Trial, Config]]:
        """All trials of a batch, also those that have ended, since its checkpoint holds them."""
        self.waiting = [n for n in self.waiting if n not in numbers]
        members = [first if n == first.number else Trial(self.study, self.ids[n]) for n in numbers]
        return [(t, resolve(t.params, self.sweep.space, self.base)) for t in members]

    def _companions(self, config: Config) -> list[tuple[Trial, Config]]:
        """Further trials that can train in one batch with this configuration; a trial that cannot waits for its turn.

        A grid is looked through until the batch is full, since its order does not matter; others propose as few as can be.
        """
        key, others = batch_key(config), list[tuple[Trial, Config]]()
        if self.batch == 1 or key is None:
            return []
        room = self._room() - 1
        candidates, later = self.waiting[:room], self.waiting[room:]  # what is opened must have room in the budget
        fresh = (room if self.sweep.sampler == "grid" else min(self.batch - 1, room)) - len(candidates)
        self.waiting = []
        for i in range(len(candidates) + max(0, fresh)):
            if len(others) == min(self.batch - 1, room):
                later = candidates[i:] + later
                break
            trial = self._reopen(candidates[i]) if i < len(candidates) else self._ask()
            if self._bound(trial.number):
                self.waiting.append(trial.number)
            elif other := self._resolve(trial):
                if batch_key(other) == key:
                    others.append((trial, other))
                else:
                    self.waiting.append(trial.number)
        self.waiting += later
        return others

    def _next_trial(self) -> Trial:
        return self._reopen(self.waiting.pop(0)) if self.waiting else self._ask()

    def _reopen(self, number: int) -> Trial:
        """An unfinished trial; one that waited in the queue of a killed driver is asked for anew."""
        self.study.sampler = make_sampler(self.sweep, number)
        if number in self.queued:
            self.queued.discard(number)
            return self._known(self.study.ask())
        return Trial(self.study, self.ids[number])

    def _ask(self) -> Trial:
        self.study.sampler = make_sampler(self.sweep, len(self.ids))
        return self._known(self.study.ask())

    def _known(self, trial: Trial) -> Trial:
        self.ids[trial.number] = trial._trial_id
        return trial

    def _begin_record(self, trial: Trial, params: Mapping[str, Any], config: Config | None) -> None:
        flat = readable(to_mapping(config) if config else dict(params))
        name, earlier = run_name(trial.number, params), trial.number in self.earlier
        self.recorder.start_trial(trial.number, name, flat, self._tags(params, config), earlier)
        self.history[trial.number] = {}
        if config:
            write_yaml(trial_folder(self.sweep.name, trial.number) / "config.yaml", config)

    def _tags(self, params: Mapping[str, Any], config: Config | None) -> dict[str, str]:
        """What runs are grouped by in MLflow's pages."""
        if config is None:
            return {}
        tags = {
            "performer": config.performer.arch,
            "category": config.data.single_category or ALL,
            "seed": str(config.train.seed),
            **seed_tags(config),
        }
        tags |= self._made_of(config)
        for path, dimension in self.sweep.space.items():
            if dimension.type == "preset" and path in params:
                tags[path] = str(params[path])
                if {} in dimension.presets.values():  # a preset that changes nothing is the base of the others
                    tags["arm"] = "ablated" if dimension.presets[params[path]] else "base"
        return tags

    def _made_of(self, config: Config) -> dict[str, str]:
        """Hashes of the data and performer that a trial is of, if their cache is there; else the tags stay those of the base."""
        folder = self._built(config)
        return hash_tags(read_meta(folder)) if folder else {}

    def _note(self, trial: Trial, result: Mapping[str, Any]) -> None:
        new = [e for e in epochs_of(result, trial.number) if e["epoch"] not in self.history[trial.number]]
        self.history[trial.number] |= {e["epoch"]: e for e in new}
        self.recorder.log(trial.number, new)
        self.progress.epochs(trial.number, len(new))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        for trial in self.live[trial_id]:
            self._note(trial, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self.failure or trial_id not in self.live:
            return
        trials = self.live[trial_id]
        try:  # Ray Tune would log what is raised here and go on
            result = result or {}
            if result.get("halted"):
                raise OutOfPatience(result["halted"])
            ended = result.get("ended")
            self.stored |= dict(result.get("explainers") or [])
            for trial in trials:
                self._note(trial, result)
            if (ended or error) and len(trials) > 1:
                self._separate(trials, self.first_of[trial_id])
            elif error and (self.forgiven(trial_id) or self.ended_early(trial_id)):
                self._again(trials[0])
                trials.clear()
            elif error:
                why = last_error(self.tune_trials.get(trial_id))
                ended = f"failed {self.sweep.max_retries + 1} times, the last time: {why}"
            together = self.first_of.pop(trial_id), {t.number for t in trials}
            for trial in list(trials):
                self.ended_with[trial.number] = together
                self._end(trial, ended, bool(error or result.get("outside")))
                trials.remove(trial)
            del self.live[trial_id]
        except Exception as failure:
            self.failure = failure

    def forgiven(self, trial_id: str) -> bool:
        """Whether a trial's failure counts for nothing: its node was lost, which `MOST_LOST` times is none of its own."""
        return is_lost(last_failure(self.tune_trials.get(trial_id))) and self._once_more(trial_id)

    def ended_early(self, trial_id: str) -> bool:
        """Whether Ray Tune ended a trial that has retries left: where a worker dies while it is handed to the next trial, it
        counts that twice, and the second time the trial does not run any more.
        """
        tune_trial = self.tune_trials.get(trial_id)
        return tune_trial is not None and tune_trial.should_recover() and self._once_more(trial_id)

    def _once_more(self, trial_id: str) -> bool:
        """Count that it is no fault of its own; whether that was so few times that it goes on."""
        for trial in self.live[trial_id]:
            self.lost[trial.number] = self.lost.get(trial.number, 0) + 1
        return all(self.lost[trial.number] <= MOST_LOST for trial in self.live[trial_id])

    def _again(self, trial: Trial) -> None:
        """Let a trial wait for its turn to go on from its checkpoint."""
        self.progress.waits(trial.number)
        self.earlier.add(trial.number)
        self.waiting.append(trial.number)

    def _separate(self, trials: list[Trial], first: int) -> None:
        """Let the trials of a batch that cannot go on begin anew, each alone, since it may be the fault of one; in place."""
        self._checkpoints(first).delete()  # first: no trial may go on alone from that of its batch
        for trial in trials:
            self._set_batch(trial, [trial.number])
            self._again(trial)
        trials.clear()

    def _end(self, trial: Trial, reason: str | None, outside: bool = False) -> None:
        """Hand a trial's end to the record; `reason` is given for a failed one. The study is told when it is written."""
        number = trial.number
        history = [self.history[number][e] for e in sorted(self.history[number])]
        last = history[-1] if history else {}
        metrics = {k: v for k, v in last.items() if k not in ("epoch", "timestamp")}
        state, values = self._verdict(trial, metrics, last.get("epoch", 0), reason)
        if state == TrialState.COMPLETE and values is None:
            missing = ", ".join(m for m in self.sweep.objectives if metrics.get(m) is None)
            state, reason = TrialState.FAIL, f"{missing} could not be measured"
        if state == TrialState.PRUNED:
            reason = f"stopped early after epoch {last['epoch']}"
        folder, stored = trial_folder(self.sweep.name, number), self.stored.pop(number, None)
        artifacts = [folder / "config.yaml"]
        tags = {}
        if state == TrialState.COMPLETE:
            if self.store and stored:  # the weights stay where they are
                for name in (ABOUT, FILTERS):
                    replace_file(folder / EXPLAINER / name, self.store.read(f"{stored}/{name}"))
                    artifacts.append(folder / EXPLAINER / name)
                tags["explainer_uri"] = f"{self.sweep.store}/{stored}"
            else:
                artifacts.append(folder / EXPLAINER)
        ended = int(last.get("timestamp", time.time() * 1000))
        self.closing[number] = Closing(trial, state, values, metrics, history, reason, stored, outside)
        self.recorder.end_trial(number, STATE_NAMES[state], reason, [a for a in artifacts if a.exists()], ended, tags)

    def settle(self, patient: bool = True) -> None:
        """Tell the study of the trials whose record is written.

        Args:
            patient: wait for those that are being written, unless MLflow is away: what is proposed next should know of them.
        """
        deadline = time.monotonic() + (LONGEST if self.concurrency() > 1 else math.inf)  # where trials run meanwhile
        while self.closing and not self.failure:
            try:
                self._close(self.recorder.written.get(timeout=SETTLE if patient else 0.0))
            except queue.Empty:
                self.failure = self.recorder.failure
                if not patient or self.recorder.behind or time.monotonic() > deadline:
                    break
            except Exception as failure:
                self.failure = failure
        self.failure = self.failure or self.recorder.failure

    def finish(self) -> None:
        """Wait for the record of the last trials; after an interruption for no longer than MLflow takes if it is there."""
        self.settle()
        while self.finished + len(self.closing) >= budget(self.sweep) and self.closing and not self.failure:
            self.settle()

    def _close(self, number: int) -> None:
        """Write a trial's end into the study, and delete the checkpoint once all trials that it is of are there."""
        closing = self.closing.pop(number)
        self._tell(closing)
        self.history.pop(number, None)
        self.over.add(number)
        self.finished += 1
        self.progress.ended(number, STATE_NAMES[closing.state], closing.metrics)
        first, numbers = self.ended_with.pop(number, (number, {number}))
        if numbers <= self.over:
            self._checkpoints(first).delete()  # three times the size of the explainers
        outside = closing.reason if closing.outside else None
        if self.in_a_row.ended(closing.state != TrialState.FAIL, outside, spread=bool(outside) and is_spread()):
            why = f"{self.in_a_row.count} trials in a row failed, and none went well: {closing.reason}"
            again = f"`paraphrase sweep resume {self.sweep.name} --retry-failed`"
            raise Stopped(f"sweep {self.sweep.name}: {why}; mend that, then {again}")

    def _verdict(
        self, trial: Trial, metrics: Mapping[str, Any], epochs: int, reason: str | None
    ) -> tuple[TrialState, list[float] | None]:
        if reason:
            return TrialState.FAIL, None
        wanted = resolve(trial.params, self.sweep.space, self.base).train.epochs
        if epochs < wanted:
            return TrialState.PRUNED, None
        values = [metrics.get(m) for m in self.sweep.objectives]
        return TrialState.COMPLETE, None if None in values else values  # type: ignore[return-value]

    def _tell(self, closing: Closing) -> None:
        trial, metrics, history = closing.trial, closing.metrics, closing.history
        attributes = {
            # a column each in Optuna Dashboard
            **{k: metrics[k] for k in KEYS if metrics.get(k) is not None and k not in self.sweep.objectives},
            "metrics": metrics,
            "epochs": len(history),
            "seconds": sum(e.get("seconds", 0.0) for e in history),
            "mlflow_run": self.recorder.runs.get(trial.number),
        }
        if closing.stored:
            attributes[STORED] = closing.stored
        if closing.reason:
            attributes["reason"] = closing.reason[:2000]
        if stopping := self.sweep.early_stopping:
            attributes["rungs"] = {str(e["epoch"]): e.get(stopping.metric) for e in history}
        self.storage.set_trial_user_attrs(trial._trial_id, attributes)
        if closing.state == TrialState.COMPLETE and self.sweep.constraints and not trial.constraints:
            for name, value in violations(metrics, self.sweep.constraints).items():
                trial.set_constraint(name, value)
        self.study.tell(trial, closing.values if closing.state == TrialState.COMPLETE else None, state=closing.state)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the state."""


def drop_leftovers(study: optuna.Study, sweep: SweepConfig) -> None:
    """Delete the checkpoints of trials that have ended, which a killed driver may not have come to."""
    needed = {n for t in unfinished_trials(study) for n in (t.number, *t.user_attrs.get(BATCH, []))}
    store = store_of(sweep)
    here = {int(folder.parent.name) for folder in (sweep_folder(sweep.name) / "trials").glob(f"*/{CHECKPOINT}")}
    keys = store.keys(f"{sweep_key(sweep.name)}/trials") if store else []
    there = {int(key.split("/")[3]) for key in keys if key.split("/")[4] == CHECKPOINT}
    for number in (here | there) - needed:
        checkpoints_of(sweep.name, number, store).delete()
