"""Trials as a Ray Tune trainable: one step is one epoch, saved before it is reported."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune

from paraphrase.sweep.patience import OutOfPatience
from paraphrase.sweep.settings.folder import EXPLAINER, checkpoints_of, trial_folder, trial_key
from paraphrase.sweep.store.objects import Store
from paraphrase.sweep.workers.cluster import enter, is_leaving
from paraphrase.sweep.workers.tasks import open_by_key, open_published


def epochs_of(result: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """The epochs that a step's result reports of a trial."""
    return next((entries for n, entries in result.get("history") or [] if n == number), [])


class ExplainerTrial(tune.Trainable):
    """Trains one explainer, or several as one batch. Its state is the checkpoint folder alone, so any process can go on.

    Its configuration: `number` of the first trial, `members` (of each trial its `number` and its resolved `config` as plain
    data), `sweep`, `rungs` (epochs at which early stopping decides), `cache` (its key; None where the worker must find or build
    it) and `worker_settings`. A step returns `epoch` (counted by the training), `history` (pairs of a trial's number and every
    epoch that this process has not reported yet; Ray Tune would flatten a mapping), for a single trial the metrics of the last
    epoch, `done`, `explainers` (pairs of a trial's number and where it lies in the store), `ended` with a reason if the
    training cannot go on (`outside`: not because of its own figures), and `halted` with a reason if the whole sweep cannot. The
    first step after a resume trains nothing: it reports what was there, so that whoever records can fill gaps and a scheduler
    can decide again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._leave()
        self._begin(new_config)
        return True

    def node(self) -> str:
        """Id of the node that it runs on."""
        return ray.get_runtime_context().get_node_id()

    def _leave(self) -> None:
        """Where there is a store, leave nothing of a trial that has ended on this node."""
        self.checkpoints.close()
        if self.store:
            for member in self.members:
                shutil.rmtree(trial_folder(self.settings["sweep"], member["number"]), ignore_errors=True)

    def _begin(self, config: dict[str, Any]) -> None:
        enter(config)
        self.settings = config
        self.members: list[dict[str, Any]] = config["members"]
        self.store = Store(config["store"]) if config["store"] else None
        self.checkpoints = checkpoints_of(config["sweep"], self.members[0]["number"], self.store)
        self.training: Any = None
        self.reported = 0

    def _open(self) -> None:
        """Open the cache and the checkpoint; a worker that is used again keeps its memory-mapped cache."""
        from paraphrase.core.config import Config, from_mapping
        from paraphrase.core.train.training import Training

        self.configs = [from_mapping(Config, member["config"]) for member in self.members]
        config = self.configs[0]
        sections = (config.data, config.performer, config.cache)
        if getattr(self, "cache_of", None) != sections:
            key, store = self.settings["cache"], self.settings["store"]
            self.cache, self.cache_of = open_by_key(key, store) if key else open_published(config, store), sections
        if saved := self.checkpoints.open():
            self.training = Training.load(saved, config, self.cache)
        elif len(self.configs) > 1:
            self.training = Training.together(self.configs, self.cache)
        else:
            self.training = Training(config, self.cache)

    def step(self) -> dict[str, Any]:
        from paraphrase.core.errors import InputError
        from paraphrase.core.train.training import TrainingEnded

        try:
            if self.training is None:
                self._open()
            if self.training.epoch == self.reported and not self.training.finished:
                self.training.run_epoch()
                urgent = self.training.epoch in self.settings["rungs"] or (self.store is not None and is_leaving())
                self.checkpoints.save(self.training.epoch, self.training.save, urgent)
            explainers = self._save_explainers() if self.training.finished else []
        except (TrainingEnded, InputError) as error:
            return self._result() | {"ended": str(error), "outside": isinstance(error, InputError), "done": True}
        except OutOfPatience as error:
            return self._result() | {"halted": str(error), "done": True}
        return self._result() | {"explainers": explainers}

    def _save_explainers(self) -> list[tuple[int, str]]:
        """Write the explainers; where there is a store, each under a key that no other attempt writes."""
        keys = []
        for r, (member, config) in enumerate(zip(self.members, self.configs, strict=True)):
            folder = trial_folder(self.settings["sweep"], member["number"]) / EXPLAINER
            self.training.save_explainer(folder, None if len(self.members) == 1 else (r, config))
            if self.store:
                key = f"{trial_key(self.settings['sweep'], member['number'])}/{EXPLAINER}-{self.checkpoints.attempt:04d}"
                self.store.put(folder, key)
                keys.append((member["number"], key))
        self._leave()
        return keys

    def _result(self) -> dict[str, Any]:
        from paraphrase.core.train.training import of_replicate

        if self.training is None:
            return {"epoch": 0, "history": [], "done": True}
        new = [entry for entry in self.training.history if entry["epoch"] > self.reported]
        self.reported = self.training.epoch
        single = len(self.members) == 1
        history = [(m["number"], new if single else [of_replicate(e, r) for e in new]) for r, m in enumerate(self.members)]
        last = self.training.history[-1] if single and self.training.history else {}
        return last | {"epoch": self.training.epoch, "history": history, "done": self.training.finished}
