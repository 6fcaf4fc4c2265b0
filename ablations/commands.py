"""What `paraphrase ablate` does, as a function and a class: for Python and for the command line alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraphrase.ablations.paired import Comparison
from paraphrase.ablations.report.write import write_suite_report
from paraphrase.ablations.results import DIMENSION, HEADER, comparisons, rows_of, task_configs
from paraphrase.ablations.suite import SETTINGS, suite_of
from paraphrase.core.config import Config, config_of, set_path
from paraphrase.core.errors import InputError
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.terminal.html import html_table
from paraphrase.sweep.commands import Sweep
from paraphrase.sweep.driver.run import resume_sweep, run_sweep
from paraphrase.sweep.report.page import format_cell
from paraphrase.sweep.settings.config import SweepConfig, check_name
from paraphrase.sweep.settings.folder import read_sweep, sweep_names
from paraphrase.sweep.settings.space import resolve
from paraphrase.sweep.study.results import complete_trials, pick
from paraphrase.sweep.study.results import load as load_study

if TYPE_CHECKING:
    import pandas


class Suite(Sweep):
    """An ablation suite: a sweep over arms and seeds, and every arm compared with the base.

    Raises:
        InputError: if there is none of this name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if DIMENSION not in self.config.space:
            raise InputError(f"{name}: is a sweep, not a suite; see `paraphrase ablate`")

    @classmethod
    def named(cls, name: str) -> Suite:
        """The suite that a command is to go on with.

        Raises:
            InputError: with what to do if there is none.
        """
        try:
            return cls(name)
        except InputError:
            raise InputError(f"--resume: there is no suite {name}; start it without the flag, or see --name") from None

    @property
    def arms(self) -> list[str]:
        """Names of its arms, the base first."""
        return list(self.config.space[DIMENSION].presets)

    @property
    def comparisons(self) -> dict[str, dict[str, Comparison | None]]:
        """Metric -> arm -> comparison with the base, paired by seed; None where the metric is not defined for the arm."""
        return comparisons(self.name)

    @property
    def table(self) -> pandas.DataFrame:
        """The comparisons: a row for each metric and arm, p-values corrected over the arms of a metric."""
        import pandas

        return pandas.DataFrame(rows_of(self.comparisons), columns=HEADER)

    def _repr_html_(self) -> str:
        return html_table([HEADER, *([format_cell(v) for v in row] for row in rows_of(self.comparisons))])


def ablate(
    base: Config | str | Path | Mapping[str, Any] | None = None,
    name: str = "ablations",
    seeds: int | None = None,
    ablations: Sequence[str] = (),
    performers: Sequence[str] = (),
    categories: Sequence[str] = (),
    aa: bool = False,
    resume: bool = False,
    **overrides: Any,
) -> Suite:
    """Run a suite: the base and every arm, each with several seeds, and write its report.

    Args:
        base: what the arms differ from: a YAML file, plain data, or a trial's `config`; None: the menagerie's defaults.
        name: of the suite.
        seeds: runs of each arm, performer and category; None: 8.
        ablations: of `paraphrase ablate --list`; empty: all; `base`: the base alone.
        performers: architectures, or folders of fitted performers; empty: the base's.
        categories: of the single-category protocol, or `all`; empty: the base's.
        aa: only the base, against itself with other seeds.
        resume: go on with the suite if it exists already; it stays as it was begun.
        overrides: fields of the base, or `resources`, `max_retries`, `storage`, `tracking_uri` and `experiment` of the suite, on
            top; a point in a path is written as two underscores: `train__epochs=5`.

    Raises:
        InputError: if anything is bad; then nothing is left behind.
    """
    if resume and name in sweep_names():
        return go_on(name)
    sweep = planned(base, name, seeds, ablations, performers, categories, aa, overrides)
    for config in task_configs(sweep).values():
        open_cache(config)
    run_sweep(sweep)
    return finished(name)


def planned(
    base: Any, name: str, seeds: int | None, names: Sequence[str], performers: Any, categories: Any, aa: bool, overrides: Any
) -> SweepConfig:
    """The sweep that `ablate` runs, of the same arguments.

    Raises:
        InputError: if anything is bad.
    """
    check_name(name)
    if name in sweep_names():
        raise InputError(f"--name {name}: exists already; add --resume to go on, or choose another name")
    if aa and names:
        raise InputError("--aa: compares the base with itself; leave out --ablations")
    changes = {path.replace("__", "."): value for path, value in overrides.items()}
    own = {path for path in changes if path.partition(".")[0] in SETTINGS}
    settings: dict[str, Any] = {}
    for path in own:
        set_path(settings, path, changes[path])
    config = config_of(base, {path: value for path, value in changes.items() if path not in own})
    return suite_of(config, name, seeds, list(names), list(performers), list(categories), aa, settings)


def go_on(name: str, resources: dict[str, Any] | None = None) -> Suite:
    """Go on with a suite, perhaps on other resources.

    Raises:
        InputError: if there is none of this name.
    """
    Suite.named(name)
    resume_sweep(name, changes=resources)
    return finished(name)


def finished(name: str) -> Suite:
    """A suite whose report is written if its budget is spent and it has anything to say."""
    suite = Suite(name)
    if suite.missing <= 0 and suite.trials:
        write_suite_report(name)
    return suite


def config_of_trial(name: str, number: str) -> Config:
    """The configuration of a complete trial of a sweep: of its number, or the `best`.

    Raises:
        InputError: if it has no such trial.
    """
    sweep, study = load_study(name)
    if number == "best":
        return resolve(pick(name).params, sweep.space, sweep.base)
    for trial in complete_trials(study) if study else []:
        if str(trial.number) == number:
            return resolve(trial.params, sweep.space, sweep.base)
    raise InputError(f"--trial {number}: {name} has no complete trial of this number; or say best")


def load(name: str) -> Sweep:
    """A sweep, or a `Suite`, that was begun before, finished or not.

    Raises:
        InputError: if there is none of this name.
    """
    return Suite(name) if DIMENSION in read_sweep(name).space else Sweep(name)
