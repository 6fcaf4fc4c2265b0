"""Hands Optuna's proposals to Ray Tune, and the trials' ends back: the study and MLflow stay the only record."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from paraphrase.core.config import Config, flatten, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.features.cache import read_meta
from paraphrase.core.features.obtain import built_cache
from paraphrase.core.train.training import Training, batch_key
from paraphrase.sweep.driver.progress import Progress
from paraphrase.sweep.record.tracking import Tracker, hash_tags, seed_tags
from paraphrase.sweep.settings.config import ALL, SweepConfig
from paraphrase.sweep.settings.folder import CHECKPOINT, checkpoint_folder, sweep_folder, trial_folder, write_yaml
from paraphrase.sweep.settings.space import resolve, run_name, suggest
from paraphrase.sweep.study.study import budget, finished_trials, make_sampler, unfinished_trials, violations
from paraphrase.sweep.workers.cluster import worker_settings
from paraphrase.sweep.workers.trainable import epochs_of

BATCH = "batch"
"""User attribute of a trial: numbers of all trials that train as one batch with it."""


def last_error(tune_trial: Any) -> str:
    """Why a trial of Ray Tune failed last, in a line."""
    from ray import cloudpickle
    from ray.exceptions import RayActorError

    file = Path(tune_trial.pickled_error_file) if tune_trial and tune_trial.pickled_error_file else None
    if file is None or not file.exists():
        return "no message"
    error = cloudpickle.loads(file.read_bytes())
    if isinstance(error, RayActorError):
        return "its worker died"
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


class StudySearcher(Searcher):
    """Proposes unfinished trials first, then new ones, until the budget of ended trials is reached.

    A trial's end is written in this order: MLflow metrics, artifacts, run status, and last the study. So whatever a
    killed driver left behind, a trial that the study calls ended is whole, and any other is gone through again from its
    checkpoint.

    Args:
        study: the study.
        sweep: its configuration.
        tracker: writes to MLflow.
        progress: told of everything that happens.
        concurrency: most trials, or batches of them, at once.
        batch: most trials that train as one batch; they differ only in their seeds and loss weights.
    """

    def __init__(
        self,
        study: optuna.Study,
        sweep: SweepConfig,
        tracker: Tracker,
        progress: Progress,
        concurrency: int,
        batch: int = 1,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self.study, self.sweep, self.tracker, self.progress = study, sweep, tracker, progress
        self.concurrency, self.batch = concurrency, batch
        self.base = to_mapping(sweep.base_config())
        self.waiting = [t.number for t in unfinished_trials(study)]
        self.live: dict[str, list[Trial]] = {}
        self.checkpoints: dict[str, Path] = {}
        self.tune_trials: dict[str, Any] = {}
        self.history: dict[int, dict[int, dict[str, Any]]] = {}
        self.made_of: dict[str, dict[str, str]] = {}
        self.failure: BaseException | None = None
        self.finished = len(finished_trials(study))

    def suggest(self, trial_id: str) -> Any:
        if self.failure:
            return Searcher.FINISHED
        if not self._room():  # the trials of a batch may yet come back, to begin anew
            return None if any(len(trials) > 1 for trials in self.live.values()) else Searcher.FINISHED
        if len(self.live) >= self.concurrency:
            return None
        try:
            return self._begin(trial_id)
        except Exception as error:
            self.failure = error
            return Searcher.FINISHED

    def _room(self) -> int:
        """Trials that the budget still has room for."""
        return budget(self.sweep) - self.finished - sum(map(len, self.live.values()))

    def _begin(self, trial_id: str) -> dict[str, Any] | str:
        first = self._next_trial()
        config = self._resolve(first)
        if config is None:
            return self.suggest(trial_id)
        if bound := self._bound(first.number):
            members = self._earlier_batch(first, bound)
        else:
            members = [(first, config), *self._companions(config)]
            if len(members) > 1 or BATCH in first.user_attrs:
                for trial, _ in members:
                    trial.set_user_attr(BATCH, [t.number for t, _ in members])
        running = [(t, c) for t, c in members if self.study.get_trials(deepcopy=False)[t.number].state == TrialState.RUNNING]
        for trial, its_config in running:
            self._begin_record(trial, trial.params, its_config)
            self.progress.started(trial.number)
        self.live[trial_id] = [trial for trial, _ in running]
        self.checkpoints[trial_id] = checkpoint_folder(self.sweep.name, members[0][0].number)
        return {
            "number": members[0][0].number,
            "members": [
                {"number": t.number, "config": to_mapping(c), "folder": str(trial_folder(self.sweep.name, t.number))}
                for t, c in members
            ],
            **worker_settings(self.sweep.resources),
        }

    def _resolve(self, trial: Trial) -> Config | None:
        """A trial's configuration; where its values are possible but not their combination, the trial is ended."""
        params = suggest(trial, self.sweep.space, self.base)
        try:
            return resolve(params, self.sweep.space, self.base)
        except InputError as error:
            self._begin_record(trial, params, None)
            self._end(trial, str(error))
            return None

    def _bound(self, number: int) -> list[int]:
        """Numbers of the batch that an unfinished trial must go on in; itself alone; or none, where it is free."""
        trials = self.study.get_trials(deepcopy=False)
        batch: list[int] | None = trials[number].user_attrs.get(BATCH)
        if batch is None:  # it began alone, or not at all
            return [number] if Training.saved(checkpoint_folder(self.sweep.name, number)) else []
        if any(trials[n].user_attrs.get(BATCH, batch) != batch for n in batch):  # killed while it was separated
            return [number]
        fits = len(batch) <= max(1, self.batch)
        return batch if fits or Training.saved(checkpoint_folder(self.sweep.name, batch[0])) else []

    def _earlier_batch(self, first: Trial, numbers: list[int]) -> list[tuple[Trial, Config]]:
        """All trials of a batch, also those that have ended, since its checkpoint holds them."""
        self.waiting = [n for n in self.waiting if n not in numbers]
        trials = self.study.get_trials(deepcopy=False)
        members = [first if n == first.number else Trial(self.study, trials[n]._trial_id) for n in numbers]
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
        frozen = self.study.get_trials(deepcopy=False)[number]
        return Trial(self.study, frozen._trial_id) if frozen.state == TrialState.RUNNING else self.study.ask()

    def _ask(self) -> Trial:
        self.study.sampler = make_sampler(self.sweep, len(self.study.get_trials(deepcopy=False)))
        return self.study.ask()

    def _begin_record(self, trial: Trial, params: Mapping[str, Any], config: Config | None) -> None:
        flat = flatten(to_mapping(config)) if config else dict(params)
        run = self.tracker.start_trial(trial.number, run_name(trial.number, params), flat, self._tags(params, config))
        trial.set_user_attr("mlflow_run", run)
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
        sections = json.dumps([to_mapping(c) for c in (config.data, config.performer, config.cache)], sort_keys=True)
        if sections not in self.made_of:
            folder = built_cache(config)
            self.made_of[sections] = hash_tags(read_meta(folder)) if folder else {}
        return self.made_of[sections]

    def _note(self, trial: Trial, result: Mapping[str, Any]) -> None:
        new = [e for e in epochs_of(result, trial.number) if e["epoch"] not in self.history[trial.number]]
        self.history[trial.number] |= {e["epoch"]: e for e in new}
        self.tracker.log(trial.number, new)
        self.progress.epochs(trial.number, len(new))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        for trial in self.live[trial_id]:
            self._note(trial, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self.failure or trial_id not in self.live:
            return
        trials = self.live[trial_id]
        try:  # Ray Tune would log what is raised here and go on
            ended = (result or {}).get("ended")
            for trial in trials:
                self._note(trial, result or {})
            if (ended or error) and len(trials) > 1:
                self._separate(trials, self.checkpoints[trial_id])
            elif error:
                why = last_error(self.tune_trials.get(trial_id))
                ended = f"failed {self.sweep.max_retries + 1} times, the last time: {why}"
            for trial in list(trials):
                self._end(trial, ended)
                trials.remove(trial)
            del self.live[trial_id]
            shutil.rmtree(self.checkpoints.pop(trial_id), ignore_errors=True)  # three times the size of the explainers
        except Exception as failure:
            self.failure = failure

    def _separate(self, trials: list[Trial], checkpoint: Path) -> None:
        """Let the trials of a batch that cannot go on begin anew, each alone, since it may be the fault of one; in place."""
        shutil.rmtree(checkpoint, ignore_errors=True)  # first: no trial may go on alone from that of its batch
        for trial in trials:
            trial.set_user_attr(BATCH, [trial.number])
            self.progress.waits(trial.number)
            self.waiting.append(trial.number)
        trials.clear()

    def _end(self, trial: Trial, reason: str | None) -> None:
        """Write a trial's end everywhere; `reason` is given for a failed one."""
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
        folder = trial_folder(self.sweep.name, number)
        name = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}[state]
        artifacts = [folder / "config.yaml", *([folder / "explainer"] if state == TrialState.COMPLETE else [])]
        ended = int(last.get("timestamp", time.time() * 1000))
        self.tracker.end_trial(number, name, reason, [a for a in artifacts if a.exists()], ended)
        self._tell(trial, state, values, metrics, history, reason)
        self.finished += 1
        self.progress.ended(number, name, metrics)

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

    def _tell(
        self,
        trial: Trial,
        state: TrialState,
        values: list[float] | None,
        metrics: dict[str, Any],
        history: list[dict[str, Any]],
        reason: str | None,
    ) -> None:
        trial.set_user_attr("metrics", metrics)
        trial.set_user_attr("epochs", len(history))
        trial.set_user_attr("seconds", sum(e.get("seconds", 0.0) for e in history))
        if reason:
            trial.set_user_attr("reason", reason[:2000])
        if stopping := self.sweep.early_stopping:
            trial.set_user_attr("rungs", {str(e["epoch"]): e.get(stopping.metric) for e in history})
        if state == TrialState.COMPLETE and not trial.constraints:
            for name, value in violations(metrics, self.sweep.constraints).items():
                trial.set_constraint(name, value)
        self.study.tell(trial, values if state == TrialState.COMPLETE else None, state=state)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the state."""


def drop_leftovers(study: optuna.Study, name: str) -> None:
    """Delete the checkpoints of trials that have ended, which a killed driver may not have come to."""
    needed = {n for t in unfinished_trials(study) for n in (t.number, *t.user_attrs.get(BATCH, []))}
    for folder in (sweep_folder(name) / "trials").glob(f"*/{CHECKPOINT}"):
        if int(folder.parent.name) not in needed:
            shutil.rmtree(folder)


def recorded_rungs(study: optuna.Study) -> dict[int, dict[int, float]]:
    """Trial number -> {epoch: value} of what early stopping decided on in the trials that ended."""
    return {
        t.number: {int(epoch): value for epoch, value in t.user_attrs["rungs"].items()}
        for t in finished_trials(study)
        if "rungs" in t.user_attrs
    }
