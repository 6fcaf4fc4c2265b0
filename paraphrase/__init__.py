"""Explainer networks: hyperparameter sweeps and ablations.

    import paraphrase

    sweep = paraphrase.run("mine.yaml", trials=60, base__train__epochs=30)   # or paraphrase.load("mine"), of one that ran
    sweep.front                                      # pandas: a row for each Pareto-optimal trial
    best = sweep.best(where="p>=0.9")                # number, params, metrics, config, explainer
    paraphrase.explain("bird.jpg", best.folder / "explainer")
    paraphrase.ablate(best.config, seeds=8).table    # what each ingredient is worth

Everything here is imported when it is first used; the command line is written on top of the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraphrase.core.errors import InputError

if TYPE_CHECKING:
    from paraphrase.ablations.commands import Suite
    from paraphrase.core.commands import Explained, Trained
    from paraphrase.core.config import Config
    from paraphrase.core.explainer.network import Explainer
    from paraphrase.sweep.commands import Sweep
    from paraphrase.sweep.settings.config import SweepConfig

__all__ = ["InputError", "ablate", "explain", "load", "load_explainer", "run", "train"]

try:
    __version__ = version("paraphrase")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"


def run(
    config: str | Path | Mapping[str, Any] | SweepConfig, name: str | None = None, resume: bool = False, **overrides: Any
) -> Sweep:
    """Run a sweep to the end of its budget; Ctrl-C interrupts it, and `resume=True` goes on.

    Args:
        config: a YAML file, the name of a sweep that comes with the code (`menagerie`), or fields of a sweep as plain data.
        name: of the sweep; None: the file's.
        resume: go on with the sweep if it exists already, to the budget that it has now.
        overrides: fields on top; a point in a path is written as two underscores: `base__train__epochs=5`.

    Raises:
        InputError: names the field, and what would be right; then nothing is left behind.
    """
    from paraphrase.sweep.commands import run

    return run(config, name, resume, **overrides)


def load(name: str) -> Sweep:
    """A sweep, or a suite of ablations, that was begun before, finished or not.

    Raises:
        InputError: if there is none of this name.
    """
    from paraphrase.ablations.commands import load

    return load(name)


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
    """Run a suite of ablations: the base and every arm, each with several seeds, and write its report.

    Args:
        base: what the arms differ from: a YAML file, plain data, or a trial's `config`; None: the menagerie's defaults.
        name: of the suite.
        seeds: runs of each arm, performer and category; None: 8.
        ablations: names, as `paraphrase ablate --list` has them; empty: all; `base`: the base alone.
        performers: architectures, or folders of fitted performers; empty: the base's.
        categories: of the single-category protocol, or `all`; empty: the base's.
        aa: only the base, against itself with other seeds.
        resume: go on with the suite if it exists already; it stays as it was begun.
        overrides: fields on top; a point in a path is written as two underscores: `train__epochs=5`.

    Raises:
        InputError: if anything is bad; then nothing is left behind.
    """
    from paraphrase.ablations import commands

    if resume and commands.exists(name):
        return commands.go_on(name)
    return commands.ablate(base, name, seeds, ablations, performers, categories, aa, **overrides)


def train(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    **overrides: Any,
) -> Trained:
    """Train one explainer.

    Args:
        config: a YAML file of a configuration or a sweep, plain data, or a trial's `config`; None: the menagerie's defaults.
        out: folder of the explainer; None: under the home folder.
        resume: go on from the checkpoint in the folder.
        overrides: fields on top; a point in a path is written as two underscores: `loss__eta=0.5`.

    Raises:
        InputError: if anything is bad, or the folder holds an explainer already.
        TrainingEnded: if the run cannot go on; the message is the reason.
    """
    from paraphrase.core.commands import train_explainer
    from paraphrase.core.config import config_of

    return train_explainer(config_of(config, overrides), None if out is None else Path(out), resume)


def explain(
    image: str | Path | None,
    explainer: str | Path,
    box: Sequence[float] | None = None,
    out: str | Path | None = None,
) -> Explained:
    """Which parts a prediction came from, in the explainer and in the performer (figure 4 of the paper).

    Args:
        image: a picture; None: averages over the test images of each category.
        explainer: folder of a trained explainer.
        box: x, y, w, h of the object in the picture, in pixels; None: all of it.
        out: folder of the pictures; None: `explained` in the explainer's.

    Raises:
        InputError: names the file or value that is bad.
    """
    from paraphrase.core.commands import explain_picture, explain_test_split

    folder = None if out is None else Path(out)
    if image is None:
        return explain_test_split(Path(explainer), None, folder)
    return explain_picture(Path(explainer), Path(image), box, folder)


def load_explainer(folder: str | Path) -> Explainer:
    """A saved explainer in evaluation mode, without gradients, with torch alone.

    Raises:
        InputError: names the file that is missing or damaged.
    """
    from paraphrase.core.explainer.checkpoint import load_explainer

    return load_explainer(folder)
