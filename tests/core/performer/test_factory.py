"""Classifiers of the user's own, as `module:factory`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paraphrase.core.config import Config, load_config
from paraphrase.core.data import Dataset
from paraphrase.core.data.records import Record
from paraphrase.core.errors import InputError
from paraphrase.core.performer import load_performer, obtain_performer, performer_fingerprint
from paraphrase.core.performer.obtain import fit_folder
from paraphrase.core.performer.performer import build_network

SOURCE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.trunk.requires_grad_(False)
        self.pool, self.fc6, self.relu = nn.MaxPool2d(4), nn.Linear(width * 16, 12), nn.ReLU()
        self.fc7, self.last = nn.Sequential(nn.Linear(12, 12), nn.ReLU()), nn.Linear(12, 1000)

    def forward(self, images):
        return self.last(self.fc7(self.relu(self.fc6(self.pool(self.trunk(images)).flatten(1)))))

    def train(self, mode=True):
        super().train(mode)
        self.trunk.eval()
        return self


def net(width=8):
    return Net(width)


def fails():
    raise RuntimeError("the disk of weights is not there")


def frozen():
    network = Net(8)
    network.last = nn.Linear(12, 2)  # of another number of classes it would be a new one, and trained
    return network.requires_grad_(False)


def number():
    return 7
"""
LAYERS = {"feature": "trunk", "pool": "[pool]", "targets": "[relu,fc7]", "decoder_init": "[fc6,fc7.0]"}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a module in the working folder; another one for each test, since Python imports a name once."""
    name = f"mine_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return name


def configuration(arch: str, *overrides: str) -> Config:
    quick = ["performer.input_size=32", "performer.fit.epochs=2", "performer.fit.batch_size=8", "train.device=cpu"]
    layers = [f"performer.{k}={v}" for k, v in LAYERS.items()]
    return load_config(None, [f"performer.arch={arch}", *quick, *layers, *overrides])


@pytest.fixture
def noise(tmp_path: Path) -> Dataset:
    rng, records = np.random.default_rng(0), []
    for i in range(24):
        pixels = rng.integers(0, 128, (32, 32, 3)) + 127 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(file := tmp_path / f"{i}.png")
        records.append(Record(file, (0, 0, 32, 32), i % 2))
    return Dataset("noise", ["a", "b"], [], records[:16], records[16:], fingerprint="noise")


def test_a_network_of_ones_own_is_fitted_but_for_what_it_froze_and_loaded_back(mine: str, noise: Dataset) -> None:
    config = configuration(f"{mine}:net", "performer.arguments={width: 6}", "performer.mean=[0.5,0.5,0.5]")
    performer, about = obtain_performer(config, noise, progress=False)
    assert performer.feature_shape == (6, 16, 16) and performer.network.last.out_features == 2
    assert performer.spec.mean == (0.5, 0.5, 0.5) and performer.spec.std[0] == pytest.approx(0.229)
    assert mine in Path(about["folder"]).name and ":" not in Path(about["folder"]).name
    again, _ = load_performer(Path(about["folder"]))
    assert performer_fingerprint(again) == performer_fingerprint(performer)
    with torch.random.fork_rng():
        torch.manual_seed(config.performer.fit.seed)
        start = type(performer.network)(6)
    assert torch.equal(performer.network.trunk[0].weight, start.trunk[0].weight)
    assert torch.equal(performer.network.trunk[1].running_mean, torch.zeros(6))
    assert not torch.equal(performer.network.fc6.weight, start.fc6.weight)


def test_other_arguments_and_other_code_are_another_performer(mine: str, noise: Dataset, tmp_path: Path) -> None:
    folders = [fit_folder(configuration(f"{mine}:net", f"performer.arguments={{width: {w}}}"), noise) for w in (6, 6, 7)]
    assert folders[0] == folders[1] != folders[2]
    (tmp_path / f"{mine}.py").write_text(SOURCE + "# changed")
    assert fit_folder(configuration(f"{mine}:net", "performer.arguments={width: 6}"), noise) != folders[0]


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("net", "{depth: 3}", "unexpected keyword argument 'depth'"),
        ("nothing", "{}", "has no function nothing"),
        ("fails", "{}", "the disk of weights is not there"),
        ("number", "{}", "gives int, not a torch.nn.Module"),
        ("frozen", "{}", "is frozen; use it as it is, performer.fit.epochs: 0"),
    ],
)
def test_a_factory_that_gives_no_network_is_named(mine: str, noise: Dataset, factory: str, arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        obtain_performer(configuration(f"{mine}:{factory}", f"performer.arguments={arguments}"), noise, progress=False)
    assert (
        str(caught.value).startswith("performer.arch: ")
        and f"{mine}:{factory}" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_network_that_is_used_as_it_is_keeps_its_weights_and_classes(
    mine: str, noise: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(f"{mine}:net", "performer.fit.epochs=0")
    performer, about = obtain_performer(config, noise, progress=False)
    with torch.random.fork_rng():
        torch.manual_seed(config.performer.fit.seed)
        start = type(performer.network)(8)
    for (name, value), kept in zip(start.state_dict().items(), performer.network.state_dict().values(), strict=True):
        assert torch.equal(value, kept), name
    assert (about["classes"], about["class_of"], about["accuracy"]) == (1000, None, None)
    assert "which of its 1000 classes are the data's categories is not known" in capsys.readouterr().err
    config.performer.classes = [7, 900]
    other, about = obtain_performer(config, noise, progress=False)
    assert about["class_of"] == [7, 900] and about["accuracy"] == 0.0  # of random weights, in 1000 classes
    assert performer_fingerprint(other) == performer_fingerprint(performer)
    for classes, message in (
        ([7], "expected one for each of the 2"),
        ([7, 1000], "there is no number 1000"),
        ([7, "b"], "names no"),
    ):
        config.performer.classes = classes  # type: ignore[assignment]
        with pytest.raises(InputError, match=f"performer.classes.*{message}"):
            obtain_performer(config, noise, progress=False)


def test_random_weights_are_not_used_as_they_are(noise: Dataset) -> None:
    config = load_config(None, ["performer.input_size=32", "performer.fit.epochs=0"])
    with pytest.raises(InputError, match=r"performer.fit.epochs: 0 leaves the weights at random; give performer.weights"):
        obtain_performer(config, noise, progress=False)


def test_a_checkpoint_is_used_with_its_own_number_of_classes(mine: str, noise: Dataset, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = build_network("resnet18", 7)
    torch.save({"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "mine.ckpt")
    file = f"performer.weights={tmp_path / 'mine.ckpt'}"
    config = load_config(None, ["performer.arch=resnet18", "performer.input_size=64", "performer.fit.epochs=0", file])
    performer, about = obtain_performer(config, noise, progress=False)
    assert about["classes"] == 7 and performer.network.fc.out_features == 7
    assert all(torch.equal(v, performer.network.state_dict()[k]) for k, v in network.state_dict().items())


def test_a_head_of_fc6_and_fc7_is_fitted_on_a_frozen_trunk(mine: str, noise: Dataset) -> None:
    config = load_config(
        None, ["performer.arch=resnet18", "performer.input_size=64", "performer.head=[24,16]", "performer.head_dropout=0.1"]
    )
    config.performer.fit.epochs, config.performer.fit.batch_size, config.performer.fit.learning_rate = 40, 8, 0.01
    config.train.device = "cpu"
    performer, about = obtain_performer(config, noise, progress=False)
    assert performer.spec.targets == ["fc.1", "fc.4"] and performer.spec.decoder_init == ["fc.0", "fc.3"]
    assert [layer.out_features for layer in performer.network.fc if isinstance(layer, torch.nn.Linear)] == [24, 16, 2]
    with torch.random.fork_rng():
        torch.manual_seed(config.performer.fit.seed)
        start = build_network("resnet18", 2, head=[24, 16])
    changed = {k for k, v in start.state_dict().items() if not torch.equal(v, performer.network.state_dict()[k])}
    assert changed == {f"fc.{i}.{k}" for i in (0, 3, 6) for k in ("weight", "bias")}  # no averages of batch norms either
    assert about["train_accuracy"] > 0.9  # dark and bright noise
    again, _ = load_performer(Path(about["folder"]))
    assert performer_fingerprint(again) == performer_fingerprint(performer)


def test_a_module_that_cannot_be_imported_is_named(mine: str, noise: Dataset, tmp_path: Path) -> None:
    (tmp_path / f"bad_{mine}.py").write_text("1 / 0")
    for module, message in ((f"no_{mine}", f"there is no module no_{mine} in "), (f"bad_{mine}", "division by zero")):
        with pytest.raises(InputError, match=message):
            obtain_performer(configuration(f"{module}:net"), noise, progress=False)
