from __future__ import annotations

import copy
import dataclasses
import json
import math
import mmap
from pathlib import Path

import pytest
import torch

from paraphrase.core.config import Config, load_config, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.checkpoint import load_explainer
from paraphrase.core.features.cache import FeatureCache, load_cache
from paraphrase.core.measure.evaluation import baseline
from paraphrase.core.objective.terms import LOSS_KEYS
from paraphrase.core.objective.weights import weighted_terms
from paraphrase.core.train.training import CHECKPOINT, Training, TrainingEnded, batch_key, of_replicate


def configured(config: Config, **train) -> Config:
    config = copy.deepcopy(config)
    for name, value in ({"precision": "float32"} | train).items():
        setattr(config.train, name, value)
    return config


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(training: Training, epochs: int) -> Training:
    for _ in range(epochs):
        training.run_epoch()
    return training


MILD = {"lambda_r": 0.0, "lambda_m": 0.0, "kappa": 1.5, "eta": 1.4}
"""Weights at which the rounding errors of a batched product grow slowly; at the defaults, a thousandfold in six steps."""


def numbers(training: Training) -> list[dict[str, float]]:
    return [{k: v for k, v in entry.items() if k not in ("seconds", "timestamp")} for entry in training.history]


@pytest.mark.parametrize(("replicates", "precision", "epochs"), [(1, "bfloat16", 2), (2, "float32", 4)])
def test_resumed_run_ends_bit_for_bit_like_one_that_never_stopped(
    tiny: Config, tiny_cache: FeatureCache, tmp_path: Path, precision: str, replicates: int, epochs: int
) -> None:
    config = configured(tiny, precision=precision, replicates=replicates, epochs=epochs)
    whole = trained(Training(config, tiny_cache), epochs)
    trained(Training(config, tiny_cache), epochs // 2).save(tmp_path)
    resumed = trained(Training.load(tmp_path, config, tiny_cache), epochs // 2)
    assert resumed.finished and numbers(resumed) == numbers(whole)
    for (name, a), b in zip(whole.explainer.state_dict().items(), resumed.explainer.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("loss", ["exact", "category"])
def test_each_replicate_is_the_run_of_its_seed_alone(tiny: Config, tiny_cache: FeatureCache, loss: str) -> None:
    config = configured(tiny, replicates=3, seed=5)
    config.loss = dataclasses.replace(config.loss, filter_loss=loss, **MILD)  # type: ignore[arg-type]
    weights = {
        "eta": torch.tensor([0.5, 1.0, 2.0]),
        "lambda_f": torch.tensor([0.0, 1.0, 3.0]),
        "kappa": torch.tensor([5.0, 2.0, 9.0]),
    }
    together = trained(Training(config, tiny_cache, weights), 3)
    for r in range(3):
        alone = configured(tiny, replicates=1, seed=5 + r)
        alone.loss = dataclasses.replace(config.loss)
        for name, values in weights.items():
            setattr(alone.loss, name, float(values[r]))
        run = trained(Training(alone, tiny_cache), 3)
        for key in ("p", "reconstruction_error", "location_instability", "mutual_information"):
            assert together.history[-1][f"{key}_r{r}"] == pytest.approx(run.history[-1][key], rel=2e-2), key


def test_every_term_of_a_step_is_that_of_each_configuration_alone(tiny: Config, tiny_cache: FeatureCache) -> None:
    arms = [configured(tiny, seed=3 + r) for r in range(3)]
    for arm, changes in zip(arms, ({}, {"lambda_f": 0.0, "lambda_r": 3.0}, {"lambda_m": 7.0, "kappa": 4.0}), strict=True):
        arm.loss = dataclasses.replace(arm.loss, lambda_g=2.0, **changes)
    index = torch.arange(24).reshape(3, 8)
    together = Training.together(arms, tiny_cache)
    found = weighted_terms(together._step(index), together.weights)
    for r, arm in enumerate(arms):
        alone = Training(arm, tiny_cache)
        torch.testing.assert_close(
            found[:, r], weighted_terms(alone._step(index[r : r + 1]), alone.weights)[:, 0], rtol=1e-4, atol=1e-4
        )
    assert (found != 0).sum() == 3 * len(LOSS_KEYS) - 1


def test_standard_errors_are_those_of_the_replicates(tiny: Config, tiny_cache: FeatureCache) -> None:
    entry = trained(Training(configured(tiny, replicates=3), tiny_cache), 1).history[-1]
    values = torch.tensor([entry[f"p_r{r}"] for r in range(3)], dtype=torch.float64)
    assert entry["p"] == pytest.approx(float(values.mean()))
    assert entry["p_se"] == pytest.approx(float(values.std()) / math.sqrt(3))


def test_training_lowers_the_loss_and_leaves_the_cache_as_it_was(tiny: Config, tiny_cache: FeatureCache) -> None:
    before = tiny_cache.train.features.clone()
    config = configured(tiny)
    config.loss.eta = 20.0  # a few steps on a network that knows nothing yet: p rises because it is paid for
    run, seen = Training(config, tiny_cache), list[int]()
    run.run_epoch(lambda: seen.append(1))
    assert len(seen) == run.steps
    trained(run, 3)
    first, last = (sum(v for k, v in e.items() if k.startswith("loss_")) for e in (run.history[0], run.history[-1]))
    assert last < first
    assert run.history[-1]["p"] > max(run.history[0]["p"], 0.5)
    assert torch.equal(tiny_cache.train.features, before)


def test_loss_that_is_not_finite_ends_the_run_and_names_the_seed(tiny: Config, tiny_cache: FeatureCache) -> None:
    run = Training(configured(tiny, replicates=2, seed=8), tiny_cache)
    with torch.no_grad():
        run.explainer.dec1_weight[1].fill_(float("inf"))
    with pytest.raises(TrainingEnded, match=r"not finite in epoch 1 \(seed 9\)"):
        run.run_epoch()


def test_run_whose_filters_all_died_ends(tiny: Config, tiny_cache: FeatureCache) -> None:
    run = Training(configured(tiny), tiny_cache)
    with torch.no_grad():
        getattr(run.explainer, f"interp{len(run.explainer.interp_widths)}_bias").fill_(-1e6)
    with pytest.raises(TrainingEnded, match="filters died in epoch 1"):
        run.run_epoch()


def test_damaged_checkpoint_is_named(tiny: Config, tiny_cache: FeatureCache, tmp_path: Path) -> None:
    config = configured(tiny)
    Training(config, tiny_cache).save(tmp_path)
    with pytest.raises(InputError, match=r"train\.epochs=4, not 9"):
        Training.load(tmp_path, configured(tiny, epochs=9), tiny_cache)
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: is damaged"):
        Training.load(tmp_path, config, tiny_cache)


def test_without_a_track_p_is_not_defined(tiny: Config, tiny_cache: FeatureCache) -> None:
    config = configured(tiny)
    config.explainer.ordin_width = None
    assert "p" not in Training(config, tiny_cache).run_epoch()
    config.explainer.interp_widths = []
    with pytest.raises(InputError, match="interpretable or an ordinary track"):
        Training(config, tiny_cache)


def test_no_filter_loss_and_masks_train_too(tiny: Config, tiny_cache: FeatureCache) -> None:
    config = configured(tiny)
    config.loss.lambda_f, config.explainer.mask, config.loss.filter_layers = 0.0, "peak", "all"
    assert Training(config, tiny_cache).run_epoch()["loss_filter"] == 0.0
    config.loss.lambda_f = 1.0
    assert Training(config, tiny_cache).run_epoch()["loss_filter"] < 0.0


def test_baseline_has_the_performer_and_both_controls(tiny_cache: FeatureCache) -> None:
    rows = baseline(tiny_cache)
    assert rows["centre"]["part_tracking"] == 0.0
    assert rows["performer"]["accuracy"] == tiny_cache.meta["performer_accuracy"]
    assert rows["random"]["location_instability"] > 0


def test_configurations_that_share_a_batch_train_as_they_would_alone(
    tiny: Config, tiny_cache: FeatureCache, tmp_path: Path
) -> None:
    def arm(seed: int, **loss: float) -> Config:
        config = configured(tiny, seed=seed, epochs=2)
        config.explainer = dataclasses.replace(config.explainer, interp_widths=[8, 8], ordin_width=8)
        config.loss = dataclasses.replace(config.loss, **{**MILD, **loss})
        return config

    arms = [arm(3), arm(3, lambda_f=0.0), arm(5, eta=0.0, kappa=1.0)]
    assert len({batch_key(a) for a in arms}) == 1
    together = Training.together(arms, tiny_cache)
    while not together.finished:
        together.run_epoch()
    for r, config in enumerate(arms):
        alone = Training(config, tiny_cache)
        while not alone.finished:
            alone.run_epoch()
        mine = of_replicate(together.history[-1], r)
        assert mine.keys() == alone.history[-1].keys()
        for key in ("p", "reconstruction_error", "loss_filter", "mutual_information"):
            assert mine[key] == pytest.approx(alone.history[-1][key], rel=2e-2, abs=1e-4), (r, key)
        together.save_explainer(tmp_path / str(r), (r, config))
        feature = tiny_cache.test.features[:8].permute(0, 3, 1, 2).float()
        saved, own = load_explainer(tmp_path / str(r)), alone.explainer.eval()
        with torch.no_grad():
            assert torch.allclose(saved(feature).outputs[1], own(feature).outputs[1], rtol=5e-2, atol=5e-2)
        assert json.loads((tmp_path / str(r) / "explainer.json").read_text())["config"] == to_mapping(config)


def test_only_seeds_and_loss_weights_may_differ_within_a_batch() -> None:
    base = Config()
    assert batch_key(load_config(None, ["train.seed=9", "loss.reconstruction=[1.0,2.0]"])) == batch_key(base)
    for change in ("explainer.mask=peak", "train.learning_rate=1e-4", "loss.template_beta=2", "explainer.ordin_width=null"):
        assert batch_key(load_config(None, [change])) != batch_key(base)
    assert batch_key(load_config(None, ["train.replicates=2"])) is None


def test_a_cache_that_memory_cannot_hold_is_read_ahead_and_trains_alike(
    tiny: Config, tiny_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trained(Training(configured(tiny), tiny_cache), 1)
    monkeypatch.setattr("paraphrase.core.features.cache.LARGE", 0.0)
    cache, asked = load_cache(tiny_cache.folder), []

    class Pages:
        """Notes what is asked of real pages."""

        def __init__(self, pages: mmap.mmap):
            self.pages = pages

        def __len__(self) -> int:
            return len(self.pages)

        def madvise(self, advice: int, *place: int) -> None:
            self.pages.madvise(advice, *place)
            asked.append((advice, *place))

    cache.outgrown = {split: Pages(pages) for split, pages in cache.outgrown.items()}
    after = trained(Training(configured(tiny), cache), 1)
    assert numbers(after) == numbers(before)
    size = cache.train.features[0].nbytes
    begins = [image * size // mmap.PAGESIZE * mmap.PAGESIZE for image in range(len(cache.train.labels))]
    every = [(mmap.MADV_WILLNEED, begin, (image + 1) * size - begin) for image, begin in enumerate(begins)]
    assert sorted(asked[2:-2]) == sorted(2 * every)  # of the images and of their mirror images
    assert [advice for advice, *_ in asked[:2] + asked[-2:]] == 2 * [mmap.MADV_RANDOM] + 2 * [mmap.MADV_NORMAL]
