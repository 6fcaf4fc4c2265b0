"""`import paraphrase`: what Python users get, over real training."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import torch
from commands import SMALL
from house import ROOT
from nbclient import NotebookClient

import paraphrase

BASE = SMALL | {"train": {"epochs": 2, "batch_size": 32}}


@pytest.fixture(autouse=True)
def home(furnished: Path) -> Path:
    return furnished


@pytest.mark.cluster
def test_the_notebook_runs_and_what_it_made_is_read_explained_and_taken_further(
    home: Path, tmp_path: Path, ray_here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_here)
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("text/html") >= 4 and kinds.count("image/png") == 1
    assert not [output for output in shown if output.output_type == "error"]

    sweep = paraphrase.load("notebook")
    assert (sweep.name, sweep.missing, len(sweep.trials)) == ("notebook", 0, 2)
    assert list(sweep.frame.index) == [0, 1] and set(sweep.frame["state"]) == {"complete"} and (sweep.frame["epochs"] == 2).all()
    assert sweep.front["pareto"].all()
    best = sweep.best(where="p>=0")
    assert best.config.train.epochs == 2 and best.metrics["p"] == sweep.frame.loc[best.number, "p"]
    assert sweep.report.read_text().startswith("<!DOCTYPE html>")
    maps = sweep.explainer.interpret(torch.rand(2, sweep.explainer.shape.channels, 7, 7))[-1]
    assert maps.shape[:2] == (2, sweep.explainer.width)
    for result in (sweep, best):
        assert "<table>" in result._repr_html_()
    assert paraphrase.load("notebook").front.equals(sweep.front)
    with pytest.raises(paraphrase.InputError, match="exists already"):
        paraphrase.run(sweep.config)
    assert len(paraphrase.run(sweep.config, resume=True, trials=3, resources__concurrency=1).trials) == 3

    explained = paraphrase.explain(None, best.folder / "explainer", out=tmp_path, categories=["cat"])
    assert [page.stem for page in explained.pages] == ["explain", "faithfulness", "explain-cat"] and all(
        page.exists() for page in explained.pages
    )
    assert "data:image/png" in explained._repr_html_()
    picture = next((home / "data").rglob("*.png"))
    shares = paraphrase.explain(picture, best.folder / "explainer", out=tmp_path).found["shares"]["performer"]
    assert sum(shares.values()) == pytest.approx(1)

    suite = paraphrase.load("notebook-parts")
    assert suite.arms == ["base", "no_filter_loss"] and len(suite.trials) == 4
    assert set(suite.table["arm"]) == {"no_filter_loss"} and "p" in set(suite.table["metric"])
    assert suite.comparisons["p"]["no_filter_loss"].pairs == 2
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


def test_explainers_that_are_given_no_folder_get_one_each(tmp_path: Path) -> None:
    quick = {"train__epochs": 1, "explainer__interp_widths__0": 8}
    first, other = paraphrase.train(BASE, **quick).folder, paraphrase.train(BASE, loss__eta=0.7, **quick).folder
    again = paraphrase.train(BASE, **quick).folder
    assert len({first, other, again}) == 3 and again.name == f"{first.name}-2"
    assert paraphrase.train(BASE, resume=True, **quick).folder == again


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
