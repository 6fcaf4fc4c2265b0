"""One trial as a Ray Tune trainable: one step is one epoch, saved before it is reported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray import tune


class ExplainerTrial(tune.Trainable):
    """Trains one explainer. Its state is the checkpoint folder alone, so any process can go on with it.

    Its configuration: `number` of the trial, `config` (the resolved configuration as plain data), `folder` of the
    trial, `home`, `cwd` of the driver, and `threads`. A step returns `epoch` (counted by the training), `history`
    (every epoch that this process has not reported yet), the metrics of the last epoch, `done`, and `ended` with a
    reason if the training cannot go on. The first step after a resume trains nothing: it reports what was there, so
    that whoever records can fill gaps and a scheduler can decide again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        import torch

        os.environ["PARAPHRASE_HOME"] = config["home"]
        if os.path.isdir(config["cwd"]):  # relative paths of the configuration are the driver's
            os.chdir(config["cwd"])
        torch.set_num_threads(config["threads"])
        self.settings = config
        self.training: Any = None
        self.reported = 0

    def _open(self) -> None:
        """Open the cache and the checkpoint; a worker that is used again keeps its memory-mapped cache."""
        from core.cache import open_cache
        from core.config import Config, from_mapping
        from core.training import Training

        config = from_mapping(Config, self.settings["config"])
        sections = (config.data, config.performer, config.cache)
        if getattr(self, "cache_of", None) != sections:
            self.cache, self.cache_of = open_cache(config, progress=False), sections
        checkpoint = Path(self.settings["folder"]) / "checkpoint"
        if checkpoint.exists():
            self.training = Training.load(checkpoint, config, self.cache)
        else:
            self.training = Training(config, self.cache)

    def step(self) -> dict[str, Any]:
        from core.errors import InputError
        from core.training import TrainingEnded

        folder = Path(self.settings["folder"])
        try:
            if self.training is None:
                self._open()
            if self.training.epoch == self.reported and not self.training.finished:
                self.training.run_epoch()
                self.training.save(folder / "checkpoint")
        except (TrainingEnded, InputError) as error:
            return self._result() | {"ended": str(error), "done": True}
        if self.training.finished:
            self.training.save_explainer(folder / "explainer")
        return self._result()

    def _result(self) -> dict[str, Any]:
        if self.training is None:
            return {"epoch": 0, "history": [], "done": True}
        new = [entry for entry in self.training.history if entry["epoch"] > self.reported]
        self.reported = self.training.epoch
        last = self.training.history[-1] if self.training.history else {}
        return last | {"epoch": self.training.epoch, "history": new, "done": self.training.finished}
