from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from paraphrase.core.config import Config
from paraphrase.core.data import load_dataset
from paraphrase.core.errors import InputError
from paraphrase.core.features import cache as store
from paraphrase.core.features.build import build_cache, cache_key
from paraphrase.core.features.cache import FeatureCache, find_cache, list_caches, load_cache, remove_cache, verify_cache
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.performer import load_crops, obtain_performer

BUILD = """
import sys
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.config import load_config
print(open_cache(load_config(None, sys.argv[1:]), progress=False).meta["key"])
"""


def overrides(config: Config) -> list[str]:
    data, fit = config.data, config.performer.fit
    return [
        f"data.train_images={data.train_images}",
        f"data.test_images={data.test_images}",
        f"performer.fit.epochs={fit.epochs}",
        f"performer.fit.batch_size={fit.batch_size}",
        f"cache.dtype={config.cache.dtype}",
    ]


@pytest.fixture
def copied(tiny: Config, tiny_cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    """The tiny cache in a home of the test's own, to damage."""
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path))
    target = tmp_path / "caches" / tiny_cache.folder.name
    shutil.copytree(tiny_cache.folder, target)
    return load_cache(target)


def test_cache_holds_what_the_performer_gives(tiny: Config, tiny_cache: FeatureCache) -> None:
    dataset = load_dataset(tiny.data)
    performer, _ = obtain_performer(tiny, dataset)
    images, landmarks = load_crops(dataset.test, performer.spec)
    seen = performer.features(images.float() / 255)
    assert torch.allclose(tiny_cache.test.features.permute(0, 3, 1, 2), seen.feature, atol=1e-5)
    for stored, target in zip(tiny_cache.test.targets, seen.targets, strict=True):
        assert torch.allclose(stored, target, atol=1e-5)
    assert torch.equal(tiny_cache.test.landmarks, landmarks)
    assert torch.equal(tiny_cache.test.performer_labels, seen.logits.argmax(1))
    assert tiny_cache.test.labels.tolist() == [r.label for r in dataset.test]
    pooled = tiny_cache.pool(seen.feature)
    assert torch.equal(pooled, performer.pool()(seen.feature))
    assert torch.allclose(tiny_cache.head(seen.targets[1]), seen.logits, atol=1e-5)
    for energy, target in zip(tiny_cache.meta["target_energy"], tiny_cache.train.targets, strict=True):
        assert energy == pytest.approx(float(target.double().square().sum(1).mean()))


def test_features_are_memory_mapped_channels_last(tiny_cache: FeatureCache) -> None:
    features = tiny_cache.train.features
    assert features.shape[-1] == tiny_cache.meta["channels"] and features.is_contiguous()
    maps = Path("/proc/self/maps").read_text()
    assert str(tiny_cache.folder / "train.features.bin") in maps


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_smaller_types_keep_the_values_within_their_precision(tiny: Config, tiny_cache: FeatureCache, dtype: str) -> None:
    config = copy.deepcopy(tiny)
    config.cache.dtype = dtype  # type: ignore[assignment]
    small = open_cache(config, progress=False)
    assert small.train.features.dtype == store.DTYPES[dtype]
    assert torch.allclose(small.train.features.float(), tiny_cache.train.features, rtol=1e-2, atol=1e-3)


def test_key_follows_everything_that_determines_the_cache(tiny: Config) -> None:
    dataset = load_dataset(tiny.data)
    performer, _ = obtain_performer(tiny, dataset)
    key = cache_key(dataset, performer, "float32")
    assert cache_key(dataset, performer, "float32") == key
    keys = {key, cache_key(dataset, performer, "float16")}
    dataset.fingerprint = "other"
    keys.add(cache_key(dataset, performer, "float32"))
    with torch.no_grad():
        next(performer.network.parameters()).view(-1)[0] += 1e-3
    keys.add(cache_key(dataset, performer, "float32"))
    assert len(keys) == 4


def test_opening_again_reads_no_image_and_a_changed_image_is_seen(tiny: Config, tiny_cache: FeatureCache, monkeypatch) -> None:
    from paraphrase.core.features import build

    def fail(*_: object) -> None:
        raise AssertionError("read the data again")

    with monkeypatch.context() as patch:
        patch.setattr(build, "load_dataset", fail)
        assert open_cache(tiny).meta["key"] == tiny_cache.meta["key"]
        image = load_dataset(tiny.data).test[0].image
        os.utime(image, (1, 1))
        with pytest.raises(AssertionError, match="read the data again"):
            open_cache(tiny)
    assert open_cache(tiny, progress=False).meta["key"] == tiny_cache.meta["key"]


def test_flipped_byte_is_found_and_named(copied: FeatureCache) -> None:
    verify_cache(copied.folder)
    file = copied.folder / "test.target1.bin"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"test\.target1\.bin"):
        verify_cache(copied.folder)


def test_file_that_was_cut_short_is_found_on_opening(copied: FeatureCache) -> None:
    file = copied.folder / "train.features.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"train\.features\.bin: has"):
        load_cache(copied.folder)


def test_disk_that_is_too_small_is_told_before_anything_is_built(tiny: Config, monkeypatch) -> None:
    config = copy.deepcopy(tiny)
    config.data.seed = 5
    usage = shutil.disk_usage("/")
    before = {info.folder for info in list_caches()}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs .* GiB"):
        build_cache(config, progress=False)
    assert {info.folder for info in list_caches()} == before
    assert not list(store.caches().glob(".*.part"))


def test_list_find_and_remove(copied: FeatureCache) -> None:
    (info,) = list_caches()
    assert info.bytes > 1000 and "menagerie" in info.description
    key = copied.folder.name
    assert find_cache(key[:6]) == copied.folder
    with pytest.raises(InputError, match="0 caches"):
        find_cache("no such")
    assert remove_cache(key[:6]) == copied.folder
    assert list_caches() == [] and not copied.folder.exists()


def test_two_builders_make_one_cache_and_a_killed_one_leaves_nothing_finished(tiny: Config, tmp_path: Path) -> None:
    source = Path(os.environ["PARAPHRASE_HOME"])
    open_cache(tiny, progress=False)
    for folder in ("data", "performers"):
        shutil.copytree(source / folder, tmp_path / folder)
    environment = os.environ | {"PARAPHRASE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BUILD, *overrides(tiny)]
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "caches").glob(".*.part/*")) and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    whole = list((tmp_path / "caches").glob("[!.]*/meta.json"))
    assert all((tmp_path / "caches" / f.parent.name / name).exists() for f in whole for name in ("small.safetensors",))
    builders = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    keys = {b.communicate(timeout=120)[0].strip() for b in builders}
    assert [b.returncode for b in builders] == [0, 0]
    assert len(keys) == 1
    assert not list((tmp_path / "caches").glob(".*.part"))
    verify_cache(tmp_path / "caches" / keys.pop())


def test_a_home_in_a_working_folder_is_left_alone_by_git_and_by_uploads(
    tiny: Config, tiny_cache: FeatureCache, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(tiny_cache.folder.parents[1], tmp_path / ".paraphrase")
    shutil.rmtree(tmp_path / ".paraphrase" / "caches")
    monkeypatch.delenv("PARAPHRASE_HOME")
    monkeypatch.chdir(tmp_path)
    open_cache(tiny, progress=False)
    subprocess.run(["git", "init", "-q"], check=True)
    assert subprocess.run(["git", "status", "--short"], capture_output=True, text=True, check=True).stdout == ""
