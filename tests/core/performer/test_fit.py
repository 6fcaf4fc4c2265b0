"""Fitting: learns, repeats itself, is kept, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paraphrase.core.config import Config, FitConfig, load_config
from paraphrase.core.data import Dataset
from paraphrase.core.data.records import Record, crop
from paraphrase.core.errors import InputError
from paraphrase.core.performer import load_crops, obtain_performer, performer_fingerprint
from paraphrase.core.performer.fit import augment
from paraphrase.core.performer.obtain import fit_folder
from paraphrase.core.performer.performer import build_network
from paraphrase.core.performer.spec import Spec


def crops_of(size: int, **more: str) -> Spec:
    """What is asked of crops; the layers do not matter."""
    return Spec("small", size, "", [], [], [], **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Horizontal against vertical stripes of random width, phase and colour, 40 px."""
    folder, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    records = []
    for i in range(96):
        wave = np.sin(np.arange(40) * rng.uniform(0.5, 1.2) + rng.uniform(0, 6))[None].repeat(40, 0)
        wave = wave if i % 2 else wave.T
        picture = 128 + 100 * wave[..., None] * rng.uniform(0.4, 1, 3) + rng.normal(0, 10, (40, 40, 3))
        file = folder / f"{i}.png"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file)
        records.append(Record(file, (0, 0, 40, 40), i % 2, {"middle": (20.0, 10.0, True)}))
    return Dataset("stripes", ["across", "down"], ["middle"], records[:64], records[64:], fingerprint="stripes")


def configuration(*overrides: str) -> Config:
    quick = ["performer.input_size=32", "performer.fit.epochs=5", "performer.fit.batch_size=16", "train.device=cpu"]
    return load_config(None, [*quick, "performer.fit.crop_scale=0.9", "train.precision=float32", *overrides])


def test_the_small_network_learns_and_is_kept(stripes: Dataset) -> None:
    config = configuration()
    performer, about = obtain_performer(config, stripes, progress=False)
    assert about["accuracy"] >= 0.9
    assert Path(about["folder"]) == fit_folder(config, stripes)
    assert not any(p.requires_grad for p in performer.parameters())
    kept = (fit_folder(config, stripes) / "performer.json").stat().st_mtime_ns
    again, _ = obtain_performer(config, stripes, progress=False)
    assert performer_fingerprint(again) == performer_fingerprint(performer)
    assert (fit_folder(config, stripes) / "performer.json").stat().st_mtime_ns == kept
    images, _ = load_crops(stripes.test, crops_of(32))
    answers = performer.features(images.float() / 255).logits.argmax(1)
    share = (answers == torch.tensor([r.label for r in stripes.test])).float().mean()
    assert float(share) == pytest.approx(about["accuracy"])


def test_a_seed_determines_the_fit_and_nothing_else_is_drawn(
    stripes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = []
    for home, seed in (("one", 0), ("two", 0), ("three", 1)):
        monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / home))
        torch.manual_seed(len(prints))
        before = torch.get_rng_state()
        config = configuration("performer.fit.epochs=1", f"performer.fit.seed={seed}")
        prints.append(performer_fingerprint(obtain_performer(config, stripes, progress=False)[0]))
        assert torch.equal(torch.get_rng_state(), before)
    assert prints[0] == prints[1] != prints[2]


def test_a_fitted_folder_serves_as_weights(stripes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    performer, about = obtain_performer(configuration("performer.fit.epochs=1"), stripes, progress=False)
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "elsewhere"))
    read, _ = obtain_performer(configuration(f"performer.weights={about['folder']}"), stripes, progress=False)
    assert performer_fingerprint(read) == performer_fingerprint(performer)
    assert not (tmp_path / "elsewhere").exists()
    other = Dataset("stripes", ["across", "up"], [], stripes.train, stripes.test, fingerprint="x")
    for overrides, message in (
        (["performer.arch=alexnet"], "performer.arch: alexnet, but .* holds small"),
        (["performer.input_size=64"], "performer.input_size: 64, but .* was fitted at 32"),
    ):
        with pytest.raises(InputError, match=message):
            obtain_performer(configuration(f"performer.weights={about['folder']}", *overrides), stripes, progress=False)
    with pytest.raises(InputError, match=r"performer.weights: .* knows .*'down'.* the data .*'up'"):
        obtain_performer(configuration(f"performer.weights={about['folder']}"), other, progress=False)


def test_another_layer_of_a_fitted_network_needs_no_fit(stripes: Dataset) -> None:
    first, about = obtain_performer(configuration("performer.fit.epochs=1"), stripes, progress=False)
    overrides = ["performer.feature=features.13", "performer.pool=[features.14,features.15,features.16,features.17,avgpool]"]
    other, again = obtain_performer(configuration("performer.fit.epochs=1", *overrides), stripes, progress=False)
    assert again["folder"] == about["folder"]
    assert other.spec.feature == "features.13"
    assert performer_fingerprint(other) != performer_fingerprint(first)


def test_a_state_dict_is_where_the_fit_starts_and_its_content_names_the_result(
    stripes: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "start.pth"
    config = configuration("performer.fit.epochs=1", "performer.fit.learning_rate=1e-9", f"performer.weights={file}")
    folders = []
    for classes in (2, 7):
        start = build_network("small", classes)
        torch.save(start.state_dict(), file)
        performer, about = obtain_performer(config, stripes, progress=False)
        torch.testing.assert_close(performer.network.features[0].weight, start.features[0].weight, rtol=0, atol=1e-6)
        folders.append(about["folder"])
    assert folders[0] != folders[1]
    assert "classifier.6.weight" in capsys.readouterr().err


def test_a_fit_that_diverges_is_an_error_and_leaves_nothing(stripes: Dataset) -> None:
    config = configuration("performer.fit.learning_rate=1e30", "performer.fit.epochs=2")
    with pytest.raises(InputError, match=r"performer.fit.learning_rate: the loss is no number after epoch"):
        obtain_performer(config, stripes, progress=False)
    assert not fit_folder(config, stripes).exists()


def test_fewer_images_than_a_batch_are_one_step(stripes: Dataset) -> None:
    few = Dataset("few", stripes.categories, [], stripes.train[:6], stripes.test[:2], fingerprint="few")
    config = configuration("performer.fit.epochs=1", "performer.fit.batch_size=64")
    assert 0 <= obtain_performer(config, few, progress=False)[1]["train_accuracy"] <= 1


def test_crops_come_with_their_landmarks(stripes: Dataset) -> None:
    images, landmarks = load_crops(stripes.test, crops_of(20))
    assert images.dtype == torch.uint8 and images.shape == (32, 3, 20, 20)
    assert torch.equal(landmarks, torch.tensor([10.0, 5.0, 1.0]).expand(32, 1, 3))


def test_augmentation_that_is_off_changes_nothing() -> None:
    images = torch.rand(4, 3, 24, 24)
    off = FitConfig(crop_scale=1.0, flip=False, colour_jitter=0.0, rotation=0.0, hide=0.0)
    torch.testing.assert_close(augment(images, off, torch.Generator()), images)


def test_augmentation_mirrors_about_half_of_the_images() -> None:
    images = torch.rand(200, 3, 8, 8)
    settings = FitConfig(crop_scale=1.0, flip=True, colour_jitter=0.0, rotation=0.0, hide=0.0)
    seen = augment(images, settings, torch.Generator().manual_seed(0))
    mirrored = [torch.allclose(a, b.flip(2), atol=1e-4) for a, b in zip(seen, images, strict=True)]
    kept = [torch.allclose(a, b, atol=1e-4) for a, b in zip(seen, images, strict=True)]
    assert sum(mirrored) + sum(kept) == 200
    assert 70 < sum(mirrored) < 130


def test_augmented_images_stay_images() -> None:
    settings = FitConfig(crop_scale=0.5, flip=True, colour_jitter=0.8, rotation=30.0, hide=0.3)
    seen = augment(torch.rand(32, 3, 24, 24), settings, torch.Generator().manual_seed(0))
    assert seen.shape == (32, 3, 24, 24) and float(seen.min()) >= 0 and float(seen.max()) <= 1


def test_a_share_of_the_patches_is_hidden_by_the_mean_colour() -> None:
    images = torch.rand(100, 3, 24, 24)
    settings = FitConfig(crop_scale=1.0, flip=False, hide=0.25)
    seen = augment(images, settings, torch.Generator().manual_seed(0))
    patches = (seen - images).abs().amax(1).unfold(1, 6, 6).unfold(2, 6, 6)  # (100, 4, 4, 6, 6)
    kept = (patches < 1e-4).all(-1).all(-1)
    assert 0.7 < float(kept.double().mean()) < 0.8
    means = images.mean((2, 3), keepdim=True).expand_as(images)
    hidden = ((seen - means).abs().amax(1) < 1e-4).unfold(1, 6, 6).unfold(2, 6, 6).all(-1).all(-1)
    assert bool((hidden ^ kept).all())


def test_weights_that_torchvision_does_not_have_are_an_error(stripes: Dataset) -> None:
    with pytest.raises(InputError, match=r"performer.weights: torchvision has none for small"):
        obtain_performer(configuration("performer.weights=torchvision"), stripes, progress=False)


def test_weights_that_cannot_be_fetched_name_the_file_and_its_place(
    stripes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"cannot fetch https://\S+alexnet\S+; put that file into .*hub"):
        obtain_performer(configuration("performer.weights=torchvision", "performer.arch=alexnet"), stripes, progress=False)


def test_crops_are_resized_as_is_asked(stripes: Dataset) -> None:
    smooth, sharp = (load_crops(stripes.test, crops_of(20, interpolation=how))[0] for how in ("bicubic", "nearest"))
    assert not torch.equal(smooth, sharp)
    expected = np.asarray(crop(stripes.test[0], 20, "bicubic")[0])
    assert np.array_equal(smooth[0].permute(1, 2, 0).numpy(), expected)
