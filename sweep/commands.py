"""What the `sweep` commands do, as functions and one class: for Python and for the command line alike."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from paraphrase.core.config import Config, read_yaml, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.checkpoint import EXPLAINER as WEIGHTS
from paraphrase.core.terminal.html import embedded, html_table
from paraphrase.sweep.driver.run import resume_sweep, run_sweep
from paraphrase.sweep.settings.config import SweepConfig, find_sweep_file, sweep_of
from paraphrase.sweep.settings.folder import EXPLAINER, bring_sweep, read_sweep, storage_url, sweep_folder, trial_folder
from paraphrase.sweep.settings.places import tracked
from paraphrase.sweep.settings.space import resolve
from paraphrase.sweep.store.objects import Damaged, Store
from paraphrase.sweep.study.changes import changes_since_begun
from paraphrase.sweep.study.results import Front, complete_trials, front_of, metrics_of, pick, trial_rows
from paraphrase.sweep.study.study import STORED, budget, finished_trials, open_study

if TYPE_CHECKING:
    import optuna
    import pandas

    from paraphrase.core.explainer.network import Explainer


@dataclass
class Trial:
    """One trial of a sweep."""

    number: int
    """Its number."""
    params: dict[str, Any]
    """Path of a configuration field -> the value that was searched."""
    metrics: dict[str, float]
    """After its last epoch."""
    folder: Path
    """With its `config.yaml`, its `explainer` (where the sweep has a store, once it was asked for) and, if it is on the front,
    its `filters.png`."""
    config: Config
    """Everything that determines it."""
    stored: tuple[str, str] | None = None
    """The sweep's store and the key of its explainer there."""

    @property
    def explainer(self) -> Explainer:
        """The network itself, in evaluation mode, with torch alone.

        Raises:
            InputError: if it is not there.
        """
        from paraphrase.core.explainer.checkpoint import load_explainer

        return load_explainer(self.bring())

    def bring(self) -> Path:
        """The folder of its explainer, brought here from the sweep's store if that has it.

        Raises:
            InputError: if it is not there.
        """
        folder = self.folder / EXPLAINER
        if self.stored and not (folder / WEIGHTS).exists():
            store, key = self.stored
            try:
                Store(store).get(key, folder)
            except Damaged as error:
                raise InputError(f"trial {self.number}: {error}") from None
        return folder

    def _repr_html_(self) -> str:
        rows = [["", f"trial {self.number}"], *([k, str(v)] for k, v in {**self.params, **self.metrics}.items())]
        page = self.folder / "filters.png"
        return html_table(rows) + (embedded(page) if page.exists() else "")


class Sweep:
    """A sweep, as far as it is: read again from its study at each question.

    Args:
        name: of the sweep.

    Raises:
        InputError: if there is none of this name.
    """

    def __init__(self, name: str) -> None:
        self.name, self.config = name, read_sweep(name)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study.

        Raises:
            InputError: if it has none yet.
        """
        return open_study(self.config, storage_url(self.config))

    @property
    def folder(self) -> Path:
        """Where its configuration, its trials and its report lie."""
        return sweep_folder(self.name)

    @property
    def missing(self) -> int:
        """Trials that the budget still has room for."""
        return budget(self.config) - len(finished_trials(self.study))

    @property
    def frame(self) -> pandas.DataFrame:
        """A row a trial: number, state, pareto, epochs, seconds, parameters, metrics, reason."""
        import pandas

        header, rows = trial_rows(self.name)
        frame = pandas.DataFrame(rows, columns=header)
        return frame.astype({"pareto": bool}).set_index("number")

    @property
    def front(self) -> pandas.DataFrame:
        """The rows of `frame` that no other trial dominates, best by the first objective first."""
        objective, direction = next(iter(self.config.objectives.items()))
        frame = self.frame
        return frame[frame["pareto"]].sort_values(objective, ascending=direction == "minimize")

    @property
    def tables(self) -> Front:
        """The front beneath the performer and the controls, as cells."""
        return front_of(self.study, self.config)

    def best(self, where: str | Iterable[str] = ()) -> Trial:
        """The knee of the front, or under bounds such as `p>=0.9` the best of those that keep them.

        Raises:
            InputError: if there is no such trial.
        """
        return self._trial(pick(self.name, [where] if isinstance(where, str) else list(where)))

    @property
    def trials(self) -> list[Trial]:
        """The complete trials."""
        return [self._trial(t) for t in complete_trials(self.study)]

    def _trial(self, trial: FrozenTrial) -> Trial:
        config = resolve(trial.params, self.config.space, to_mapping(self.config.base_config()))
        folder = trial_folder(self.name, trial.number)
        key = trial.user_attrs.get(STORED)
        stored = (self.config.store, key) if self.config.store and key else None
        return Trial(trial.number, dict(trial.params), metrics_of(trial), folder, config, stored)

    @property
    def explainer(self) -> Explainer:
        """That of `best()`."""
        return self.best().explainer

    @property
    def report(self) -> Path:
        """The HTML report, written if it is not there."""
        file = self.folder / "report" / "report.html"
        if not file.exists():
            from paraphrase.sweep.report.write import report_again

            return report_again(self.name)
        return file

    def __repr__(self) -> str:
        return f"<Sweep {self.name}: {len(finished_trials(self.study))} of {budget(self.config)} trials ended>"

    def _repr_html_(self) -> str:
        tables = self.tables
        return html_table(tables.metrics) + html_table(tables.params) + f"<p>{tables.note}</p>"


def run(
    config: str | Path | Mapping[str, Any] | SweepConfig, name: str | None = None, resume: bool = False, **overrides: Any
) -> Sweep:
    """Run a sweep to the end of its budget; Ctrl-C interrupts it, and `resume=True` goes on.

    Args:
        config: a YAML file, the name of one that comes with the code (`menagerie`), or fields of `SweepConfig` as plain data.
        name: of the sweep; None: the file's.
        resume: go on with the sweep if it exists already, to the budget that it has now.
        overrides: fields on top; a point in a path is written as two underscores: `base__train__epochs=5`.

    Raises:
        InputError: names the field, and what would be right; then nothing is left behind.
    """
    sweep = described(config, name, {path.replace("__", "."): value for path, value in overrides.items()})
    if resume and bring_sweep(tracked(sweep)):
        resume_sweep(sweep.name, *changes_since_begun(sweep))
    else:
        run_sweep(sweep)
    return Sweep(sweep.name)


def described(
    config: str | Path | Mapping[str, Any] | SweepConfig, name: str | None = None, changes: Mapping[str, Any] | None = None
) -> SweepConfig:
    """The checked configuration of a sweep, however it is given."""
    if isinstance(config, SweepConfig):
        config = to_mapping(config)
    if isinstance(config, Mapping):
        return sweep_of(copy.deepcopy(dict(config)), changes, name)
    file = find_sweep_file(config)
    return sweep_of(read_yaml(file), changes, name, file)
