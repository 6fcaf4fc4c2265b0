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

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from paraphrase.core.home import name_the_user

if TYPE_CHECKING:
    from paraphrase.ablations.commands import Suite, ablate, load
    from paraphrase.core.commands import Explained, Trained, explain, train
    from paraphrase.core.errors import InputError
    from paraphrase.core.explainer.checkpoint import load_explainer
    from paraphrase.sweep.commands import Sweep, Trial, run

__all__ = [
    "Explained",
    "InputError",
    "Suite",
    "Sweep",
    "Trained",
    "Trial",
    "ablate",
    "explain",
    "load",
    "load_explainer",
    "run",
    "train",
]

_PLACES = {
    "paraphrase.ablations.commands": ("Suite", "ablate", "load"),
    "paraphrase.core.commands": ("Explained", "Trained", "explain", "train"),
    "paraphrase.core.errors": ("InputError",),
    "paraphrase.core.explainer.checkpoint": ("load_explainer",),
    "paraphrase.sweep.commands": ("Sweep", "Trial", "run"),
}
"""Module -> its public names."""

try:
    __version__ = version("paraphrase")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"


name_the_user()


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: what it needs takes seconds."""
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
