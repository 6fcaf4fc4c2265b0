"""Trials as a Ray Tune trainable: one step is one epoch, saved before it is reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from paraphrase.sweep.settings.folder import CHECKPOINT
from paraphrase.sweep.workers.cluster import enter


def epochs_of(result: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """The epochs that a step's result reports of a trial."""
    return next((entries for n, entries in result.get("history") or [] if n == number), [])


class ExplainerTrial(tune.Trainable):
    """Trains one explainer, or several as one batch. Its state is the checkpoint folder alone, so any process can go on.

    Its configuration: `number` of the first trial, `members` (of each trial its `number`, its resolved `config` as plain data
    and its `folder`; the checkpoint lies in the first one's), and what `enter` takes. A step returns
    `epoch` (counted by the training), `history` (pairs of a trial's number and every epoch that this process has not reported
    yet; Ray Tune would flatten a mapping), for a single trial the metrics of the last epoch, `done`, and `ended` with a reason
    if the training cannot go on. The first step after a resume trains nothing: it reports what was there, so that whoever
    records can fill gaps and a scheduler can decide again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        enter(config)
        self.settings = config
        self.members: list[dict[str, Any]] = config["members"]
        self.training: Any = None
        self.reported = 0

    def _open(self) -> None:
        """Open the cache and the checkpoint; a worker that is used again keeps its memory-mapped cache."""
        from paraphrase.core.config import Config, from_mapping
        from paraphrase.core.features.obtain import open_cache
        from paraphrase.core.train.training import Training

        self.configs = [from_mapping(Config, member["config"]) for member in self.members]
        config = self.configs[0]
        sections = (config.data, config.performer, config.cache)
        if getattr(self, "cache_of", None) != sections:
            self.cache, self.cache_of = open_cache(config, progress=False), sections
        if Training.saved(self._checkpoint()):
            self.training = Training.load(self._checkpoint(), config, self.cache)
        elif len(self.configs) > 1:
            self.training = Training.together(self.configs, self.cache)
        else:
            self.training = Training(config, self.cache)

    def _checkpoint(self) -> Path:
        return Path(self.members[0]["folder"]) / CHECKPOINT

    def step(self) -> dict[str, Any]:
        from paraphrase.core.errors import InputError
        from paraphrase.core.train.training import TrainingEnded

        try:
            if self.training is None:
                self._open()
            if self.training.epoch == self.reported and not self.training.finished:
                self.training.run_epoch()
                self.training.save(self._checkpoint())
        except (TrainingEnded, InputError) as error:
            return self._result() | {"ended": str(error), "done": True}
        if self.training.finished:
            for r, (member, config) in enumerate(zip(self.members, self.configs, strict=True)):
                alone = None if len(self.members) == 1 else (r, config)
                self.training.save_explainer(Path(member["folder"]) / "explainer", alone)
        return self._result()

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
