from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paraphrase.cli import main
from paraphrase.core.config import Config, to_mapping
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.train.training import Training


@pytest.fixture
def file(tiny: Config, tmp_path: Path) -> Path:
    """The tiny configuration on disk."""
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(to_mapping(tiny)))  # JSON is YAML
    return path


def ended(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that `train` tells of a run that cannot go on."""
    capsys.readouterr()
    assert main(["train", *map(str, arguments)]) == 1
    told = capsys.readouterr()
    assert not told.out
    (line,) = [line for line in told.err.splitlines() if line.startswith("paraphrase: ")]
    assert "Traceback" not in told.err
    return line


def test_train_that_ends_in_its_first_epoch_promises_no_epoch(
    file: Path, tiny: Config, tiny_cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ended(capsys, file, "train.learning_rate=1e30", "--out", tmp_path / "new")
    assert line == "paraphrase: the run ended: the loss is not finite in epoch 1 (seed 0)"
    assert not (tmp_path / "new").exists()
    training = Training(tiny, tiny_cache)
    with torch.no_grad():
        getattr(training.explainer, f"interp{len(training.explainer.interp_widths)}_bias").fill_(-1e6)
    training.save(tmp_path / "dead")
    line = ended(capsys, file, "--resume", "--out", tmp_path / "dead")
    assert line == "paraphrase: the run ended: all filters died in epoch 1"


def test_train_that_ends_keeps_the_checkpoint_of_the_last_good_epoch(
    file: Path, tiny: Config, tiny_cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ended(capsys, file, "train.learning_rate=1e4", "--out", out)
    tiny.train.learning_rate = 1e4
    kept = Training.load(out, tiny, tiny_cache)
    assert f"the loss is not finite in epoch {kept.epoch + 1} " in line
    assert line.endswith(f"; the checkpoint in {out} is of epoch {kept.epoch}") and kept.history[-1]["epoch"] == kept.epoch


@pytest.mark.parametrize("command", ["train", "explain"])
def test_a_folder_that_cannot_be_one_is_named_before_anything_is_done(
    command: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").touch()
    given = [str(file)] if command == "train" else [str(file), "--explainer", str(tmp_path)]
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        assert main([command, *given, "--out", str(out)]) == 2
        assert capsys.readouterr().err == f"paraphrase: --out {out}: {tmp_path / 'out'} is a file; name a folder\n"
