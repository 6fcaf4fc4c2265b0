"""`import paraphrase`: what Python users get, over real training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import SMALL

import paraphrase

SPACE = {"loss.eta": {"type": "float", "low": 0.3, "high": 3.0, "log": True}}
BASE = SMALL | {"train": {"epochs": 2, "batch_size": 32}}


@pytest.fixture(autouse=True)
def home(furnished: Path) -> Path:
    return furnished


@pytest.mark.cluster
def test_a_sweep_is_run_read_and_explained(home: Path, tmp_path: Path, ray_here: str) -> None:
    mine = {"base": BASE, "space": SPACE, "objectives": {"location_instability": "minimize"}}
    sweep = paraphrase.run(mine, name="api", trials=2, base__train__epochs=1, resources__concurrency=1)
    assert (sweep.name, sweep.missing, len(sweep.trials)) == ("api", 0, 2)
    assert list(sweep.frame.index) == [0, 1] and set(sweep.frame["state"]) == {"complete"} and (sweep.frame["epochs"] == 1).all()
    assert sweep.front["pareto"].all() and sweep.front["location_instability"].is_monotonic_increasing
    best = sweep.best(where="p>=0")
    assert best.config.train.epochs == 1 and best.metrics["p"] == sweep.frame.loc[best.number, "p"]
    assert sweep.report.read_text().startswith("<!DOCTYPE html>")
    maps = sweep.explainer.interpret(torch.rand(2, sweep.explainer.shape.channels, 7, 7))[-1]
    assert maps.shape[:2] == (2, sweep.explainer.width)
    for shown in (sweep, best):
        assert "<table>" in shown._repr_html_()
    assert paraphrase.load("api").front.equals(sweep.front)
    with pytest.raises(paraphrase.InputError, match="exists already"):
        paraphrase.run(mine, name="api")
    longer = paraphrase.run(sweep.config, resume=True, trials=3)
    assert len(longer.trials) == 3

    explained = paraphrase.explain(None, best.folder / "explainer", out=tmp_path, categories=["cat"])
    assert [page.stem for page in explained.pages] == ["explain", "faithfulness", "explain-cat"] and all(
        page.exists() for page in explained.pages
    )
    assert "data:image/png" in explained._repr_html_()
    picture = next((home / "data").rglob("*.png"))
    shares = paraphrase.explain(picture, best.folder / "explainer", out=tmp_path).found["shares"]["performer"]
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.cluster
def test_a_suite_is_run_and_read(ray_here: str) -> None:
    suite = paraphrase.ablate(BASE, "parts", seeds=2, ablations=["no_filter_loss"], train__epochs=1, resources__concurrency=2)
    assert suite.arms == ["base", "no_filter_loss"] and len(suite.trials) == 4
    assert set(suite.table["arm"]) == {"no_filter_loss"} and "p" in set(suite.table["metric"])
    assert suite.comparisons["p"]["no_filter_loss"].pairs == 2
    assert type(paraphrase.load("parts")) is type(suite)
    assert "no_filter_loss" in suite._repr_html_()


def test_an_explainer_is_trained_and_loaded(tmp_path: Path) -> None:
    trained = paraphrase.train(BASE, tmp_path / "one", train__epochs=1, explainer__interp_widths__0=8)
    assert trained.explainer.interp_widths[0] == 8 and 0 < trained.metrics["p"] < 1
    assert set(trained.rows) == {"performer", "random", "centre", "mean", "ceiling", "explainer"} and trained.filters.exists()
    assert "<table>" in trained._repr_html_()
    same = paraphrase.load_explainer(tmp_path / "one")
    assert torch.equal(same.dec1_weight, trained.explainer.dec1_weight)
    with pytest.raises(paraphrase.InputError, match="holds an explainer already"):
        paraphrase.train(BASE, tmp_path / "one")


def test_a_wrong_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(paraphrase.InputError, match=r"loss\.etta: unknown key"):
        paraphrase.train(BASE, tmp_path, loss__etta=1)
    with pytest.raises(paraphrase.InputError, match=r"sweep nothing: not found"):
        paraphrase.load("nothing")


def test_every_public_name_is_there_and_documented() -> None:
    assert set(paraphrase.__all__) <= set(dir(paraphrase))
    for name in paraphrase.__all__:
        assert getattr(paraphrase, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = paraphrase.nothing
