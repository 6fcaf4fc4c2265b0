"""Explainers as models of MLflow, for its pages, its `load_model` (pytorch and pyfunc) and `mlflow models serve`.

They are kept as graphs of torch.export, which need no code of ours and are not pickled. Exporting patches torch's modules for all
threads and may end the process that it is done in, so it has one of its own: `python -m paraphrase.sweep.record.models`.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from paraphrase.core.errors import first_line
from paraphrase.core.explainer.checkpoint import load_explainer
from paraphrase.sweep.process import start_python
from paraphrase.sweep.record.logged_models import ON_FEATURE, ON_IMAGE

if TYPE_CHECKING:
    from paraphrase.core.explainer.network import Explainer
    from paraphrase.core.performer import Performer

IMAGES = 2
"""Of an example: a graph that is made of one image takes one image only."""


class Wanted(NamedTuple):
    """An explainer that is to become a model."""

    explainer: str
    """Its folder."""
    channels: int
    """Of the performer's feature."""
    side: int
    """Of the performer's feature, in cells."""
    out: str
    """Folder for the models, each in one of its own."""
    performer: str | None = None
    """Folder of the performer, if there is to be a model of images, too."""


class OfFeature(nn.Module):
    """Feature (B, C, n, n) of the performer -> maps (B, W, n, n) of the first replicate's last interpretable conv-layer."""

    def __init__(self, explainer: Explainer) -> None:
        super().__init__()
        self.explainer = explainer

    def forward(self, feature: Tensor) -> Tensor:
        replicates = self.explainer.replicates
        return self.explainer.interpret(feature.repeat(1, replicates, 1, 1))[-1].unflatten(1, (replicates, -1))[:, 0]


class OfImage(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> the same maps."""

    def __init__(self, performer: Performer, explainer: Explainer) -> None:
        super().__init__()
        self.network, self._performer, self.maps = performer.network, performer, OfFeature(explainer)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(self._performer.features(images).feature)


def example_of(*shape: int) -> Tensor:
    """Inputs of the right shape, with few digits, since MLflow keeps them as text."""
    return (torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0)) * 100).round() / 100


class Export:
    """Makes models in a process of its own, meanwhile.

    Args:
        wanted: number of the trial -> what is to become a model.
    """

    def __init__(self, wanted: Mapping[int, Wanted]) -> None:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = start_python("paraphrase.sweep.record.models", text=True, **pipes)
        self._numbers = list(wanted)
        assert self._process.stdin is not None
        with suppress(OSError), self._process.stdin as asking:  # it may have ended, which is seen when it is waited for
            asking.write(json.dumps(list(wanted.values())))
        self._process.stdin = None

    def problems(self) -> dict[int, str]:
        """Wait for the models; number of each trial that has none -> why."""
        said, _ = self._process.communicate()
        answers = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        found = {self._numbers[answer["index"]]: answer["problem"] for answer in answers}
        ended = f"exporting ended with {self._process.returncode}"
        return {number: problem for number in self._numbers if (problem := found.get(number, ended))}


def _save(model: nn.Module, example: Tensor, folder: Path) -> None:
    """Write a model Tensor -> Tensor with its signature and an input example."""
    import numpy as np
    from mlflow.models import infer_signature
    from mlflow.pytorch import save_model

    with torch.no_grad():
        signature = infer_signature(example.numpy(), model.eval()(example).numpy())
    requirements = [f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"]  # else MLflow looks for them
    save_model(
        model,
        folder,
        signature=signature,
        input_example=example.numpy(),
        pip_requirements=requirements,
        serialization_format="pt2",
    )


def _export(wanted: Wanted) -> None:
    explainer, out = load_explainer(wanted.explainer), Path(wanted.out)
    out.mkdir(parents=True)
    if not explainer.interp_widths:  # it sees no parts
        return
    _save(OfFeature(explainer), example_of(wanted.channels, wanted.side, wanted.side), out / ON_FEATURE)
    if wanted.performer:
        from paraphrase.core.performer import load_performer  # torchvision, for which the driver does not wait

        performer, _ = load_performer(Path(wanted.performer))
        size = performer.spec.input_size
        _save(OfImage(performer, explainer), example_of(3, size, size), out / ON_IMAGE)


def main(asked: Sequence[Sequence[Any]]) -> None:
    """Make all models, and print a line of JSON for each."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for index, fields in enumerate(asked):
        try:
            _export(Wanted(*fields))
            problem = ""
        except Exception as error:  # of the user's network, or of exporting it
            problem = first_line(error) or type(error).__name__
        print("\n" + json.dumps({"index": index, "problem": problem}), flush=True)


if __name__ == "__main__":
    main(json.load(sys.stdin))
