"""Performers on disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from paraphrase.core.config import PerformerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.performer import Performer, build_performer, load_performer, performer_fingerprint, save_performer
from paraphrase.core.performer.performer import build_network
from paraphrase.core.performer.weights import ABOUT, WEIGHTS, load_state


@pytest.fixture
def performer() -> Performer:
    built = build_performer(PerformerConfig(input_size=32), 3)
    built.categories = ["a", "b", "c"]
    return built


def test_a_saved_performer_comes_back_bit_for_bit(performer: Performer, tmp_path: Path) -> None:
    save_performer(performer, tmp_path / "kept", {"accuracy": 0.5})
    back, about = load_performer(tmp_path / "kept")
    state = back.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in performer.network.state_dict().items())
    assert back.spec == performer.spec and back.categories == performer.categories
    assert performer_fingerprint(back) == performer_fingerprint(performer) == about["fingerprint"]
    assert about["accuracy"] == 0.5 and about["versions"]["torch"] == torch.__version__
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept"]


def test_the_fingerprint_sees_one_weight_and_the_layers(performer: Performer) -> None:
    before = performer_fingerprint(performer)
    performer.network.classifier[6].bias[0] += 1e-6
    changed = performer_fingerprint(performer)
    other = build_performer(PerformerConfig(input_size=32, feature="features.13", pool=["features.16", "features.17"]), 3)
    other.network.load_state_dict(performer.network.state_dict())
    assert len({before, changed, performer_fingerprint(other)}) == 3


def test_a_folder_that_is_there_is_kept(performer: Performer, tmp_path: Path) -> None:
    save_performer(performer, tmp_path / "kept", {"accuracy": 1})
    save_performer(performer, tmp_path / "kept", {"accuracy": 2})
    assert load_performer(tmp_path / "kept")[1]["accuracy"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept"]


@pytest.mark.parametrize("damage", ["cut", "json", "spec", "gone"])
def test_damaged_folders_are_named(performer: Performer, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "kept"
    save_performer(performer, folder, {})
    about = json.loads((folder / ABOUT).read_text())
    if damage == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    elif damage == "json":
        (folder / ABOUT).write_text("{")
    elif damage == "spec":
        (folder / ABOUT).write_text(json.dumps(about | {"spec": {"arch": "small"}}))
    else:
        (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="kept") as caught:
        load_performer(folder)
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("plain", [True, False])
def test_a_file_of_weights_runs_no_code(tmp_path: Path, plain: bool) -> None:
    file, sprung = tmp_path / "weights.pth", tmp_path / "sprung"
    if plain:
        file.write_bytes(pickle.dumps({"classifier.0.weight": Trap(sprung)}))
    else:
        torch.save({"classifier.0.weight": Trap(sprung)}, file)
    with pytest.raises(InputError, match=r"weights.pth cannot be read as weights") as caught:
        load_state(file, build_network("small", 3))
    assert not sprung.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_state_dict_of_other_classes_loads_but_for_the_last_layer(tmp_path: Path, suffix: str) -> None:
    source, target = build_network("small", 10), build_network("small", 3)
    file = tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(source.state_dict(), file)
    assert set(load_state(file, target)[0]) == {"classifier.6.weight", "classifier.6.bias"}
    assert torch.equal(target.features[0].weight, source.features[0].weight)
    assert target.classifier[6].out_features == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("features.0.weight"), "does not fit performer.arch: features.0.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "does not fit performer.arch: extra"),
        (lambda state: state.update({"classifier.0.bias": torch.ones(5)}), "does not fit performer.arch: classifier.0.bias"),
    ],
)
def test_state_dicts_that_do_not_fit_are_named_by_their_keys(tmp_path: Path, change: object, message: str) -> None:
    state = build_network("small", 3).state_dict()
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message):
        load_state(tmp_path / "weights.pth", build_network("small", 3))


def test_missing_files_and_foreign_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pth does not exist"):
        load_state(tmp_path / "nowhere.pth", build_network("small", 3))
    with pytest.raises(InputError, match=r"is a folder without performer.json"):
        load_state(tmp_path, build_network("small", 3))


def wrapped(state: dict[str, Tensor], kind: str) -> object:
    """A network's state as training scripts save it."""
    if kind == "parallel":
        return {f"module.{k}": v for k, v in state.items()}
    if kind == "lightning":  # with the weights of its loss
        inside = {f"model._orig_mod.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(3)}
        return {"state_dict": inside, "epoch": 3, "hyper_parameters": {"lr": 0.1}, "callbacks": {}}
    if kind == "timm":
        return {"model": state, "args": {"lr": 0.1}, "epoch": 7}
    if kind == "half":
        return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("parallel", "without the prefix module."),
        ("lightning", "took state_dict, without the prefix model._orig_mod., without the 1 entries that lack it"),
        ("timm", "took model"),
        ("half", "half precision made single"),
        ("old", ""),
    ],
)
def test_checkpoints_as_people_have_them_are_read_and_what_was_taken_off_is_said(tmp_path: Path, kind: str, said: str) -> None:
    torch.manual_seed(0)
    source, target = build_network("small", 3), build_network("small", 3)
    torch.save(wrapped(source.state_dict(), kind), tmp_path / "mine.ckpt")
    assert load_state(tmp_path / "mine.ckpt", target) == ([], said)
    tolerance = 1e-3 if kind == "half" else 0.0
    for (name, value), loaded in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
        torch.testing.assert_close(loaded, value, rtol=tolerance, atol=tolerance, msg=name)


def test_a_whole_network_that_was_pickled_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(build_network("small", 3), tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"whole.pt cannot be read as weights .*torch.save\(network.state_dict\(\), FILE\)"):
        load_state(tmp_path / "whole.pt", build_network("small", 3))


@pytest.mark.parametrize("arch", ["regnet_x_400mf", "googlenet", "mobilenet_v3_small"])
def test_performers_of_any_kind_come_back(arch: str, tmp_path: Path) -> None:
    performer = build_performer(PerformerConfig(arch=arch, input_size=64), 3)
    performer.categories = ["a", "b", "c"]
    save_performer(performer, tmp_path / "kept", {})
    back, _ = load_performer(tmp_path / "kept")
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(back.features(images).logits, performer.features(images).logits)
    assert back.spec == performer.spec
