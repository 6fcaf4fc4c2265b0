"""Early stopping that survives a resume: ASHA over epochs that the training counts itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from paraphrase.sweep.settings.config import EarlyStopping
from paraphrase.sweep.study.study import finished_trials
from paraphrase.sweep.workers.trainable import epochs_of


def rung_epochs(settings: EarlyStopping, max_epochs: int) -> list[int]:
    """The epochs at which early stopping decides whether a trial goes on."""
    rungs, epoch = [], float(settings.grace_epochs)
    while epoch <= max_epochs:
        rungs.append(math.ceil(epoch))
        epoch *= settings.reduction_factor
    return rungs


def recorded_rungs(study: optuna.Study) -> dict[int, dict[int, float]]:
    """Trial number -> {epoch: value} of what early stopping decided on in the trials that ended."""
    return {
        t.number: {int(epoch): value for epoch, value in t.user_attrs["rungs"].items()}
        for t in finished_trials(study)
        if "rungs" in t.user_attrs
    }


class Plain(FIFOScheduler):
    """No early stopping.

    Args:
        added: told of each new trial before a place is looked for.
    """

    def __init__(self, added: Callable[[Any], None]) -> None:
        super().__init__()
        self.added = added

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.added(trial)


class ResumableASHA(ASHAScheduler):
    """Asynchronous successive halving [Li et al. 2020] with its rungs keyed by trial number.

    Args:
        settings: metric, mode, grace and reduction factor.
        max_epochs: epochs of a trial that is not stopped.
        recorded: trial number -> {epoch: value} of the trials that ended in earlier sessions.
        added: told of each new trial before a place is looked for.
    """

    def __init__(
        self,
        settings: EarlyStopping,
        max_epochs: int,
        recorded: Mapping[int, Mapping[int, float]] | None = None,
        added: Callable[[Any], None] = lambda trial: None,
    ) -> None:
        self.added = added
        self.metric_name, self.sign = settings.metric, 1.0 if settings.mode == "max" else -1.0
        super().__init__(
            time_attr="epoch",
            metric=settings.metric,
            mode=settings.mode,
            max_t=max_epochs,
            grace_period=min(settings.grace_epochs, max_epochs),
            reduction_factor=settings.reduction_factor,
            stop_last_trials=False,  # a trial that reaches its last epoch is complete, not stopped
        )
        for number, values in sorted((recorded or {}).items()):
            for epoch, value in sorted(values.items()):
                self._enter(number, epoch, value)

    def _enter(self, number: int, epoch: int, value: float | None) -> str:
        """Enter a result into its rung, once; returns the decision. Trials keep their number across sessions."""
        if value is None:
            return str(TrialScheduler.CONTINUE)
        key: Any = SimpleNamespace(trial_id=number)
        return str(self._brackets[0].on_result(key, epoch, self.sign * value))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.added(trial)
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number, epoch = trial.config["number"], result["epoch"]
        earlier: Iterable[Mapping[str, Any]] = [e for e in epochs_of(result, number) if e["epoch"] < epoch]
        for entry in earlier:
            self._enter(number, entry["epoch"], entry.get(self.metric_name))
        if result.get("ended"):
            return str(TrialScheduler.CONTINUE)
        action = self._enter(number, epoch, result.get(self.metric_name))
        self._num_stopped += action == TrialScheduler.STOP
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        for entry in epochs_of(result, trial.config["number"]):  # the last step is not shown to on_trial_result
            self._enter(trial.config["number"], entry["epoch"], entry.get(self.metric_name))
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)
