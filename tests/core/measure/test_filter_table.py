from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import torch

from paraphrase.core.config import Config
from paraphrase.core.device import autocast_for
from paraphrase.core.explainer.checkpoint import load_explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.evaluation import filter_scores, test_peaks
from paraphrase.core.measure.filter_table import FILTERS
from paraphrase.core.measure.filters import Peaks
from paraphrase.core.train.training import Training

test_peaks.__test__ = False  # type: ignore[attr-defined]  # not a test


@pytest.mark.parametrize("widths", [[8], []])
def test_every_filter_of_every_replicate_has_its_row(
    widths: list[int], tiny: Config, tiny_cache: FeatureCache, tmp_path: Path
) -> None:
    config = copy.deepcopy(tiny)
    config.explainer.interp_widths, config.explainer.ordin_width, config.train.replicates = widths, 8, 2
    config.train.precision = "float32"
    training = Training(config, tiny_cache)
    training.run_epoch()
    training.save_explainer(tmp_path)
    rows = list(csv.DictReader((tmp_path / FILTERS).open()))
    assert [(r["replicate"], r["filter"]) for r in rows] == [(str(r), str(f)) for r in range(2) for f in range(8)]
    every = test_peaks(load_explainer(tmp_path), tiny_cache, autocast_for("float32", torch.device("cpu")))
    names, categories = tiny_cache.meta["landmarks"], tiny_cache.meta["categories"]
    for r in range(2):
        peaks = Peaks(*(t.chunk(2, 1)[r] for t in every))
        scores, mine = filter_scores(tiny_cache, peaks), rows[8 * r : 8 * r + 8]
        assert scores is not None
        for f, row in enumerate(mine):
            part = int(scores.part[f])
            assert row["part"] == (names[part] if part >= 0 else "-") and row["category"] == categories[int(scores.category[f])]
            if not scores.dead[f]:
                assert float(row["instability"]) == pytest.approx(float(scores.instability[f]), rel=1e-4)
                assert float(row[f"tracking_{names[2]}"]) == pytest.approx(float(scores.explained[f, 2]), rel=1e-3, abs=1e-4)
            strong = [v for v in peaks.values[:, f].tolist() if v >= float(peaks.values[:, f].max()) / 2 > 0]
            assert float(row["images"]) == pytest.approx(len(strong) / len(peaks.values), rel=1e-4)
        shares = [row["contribution"] for row in mine]
        if widths:
            assert sum(map(float, shares)) == pytest.approx(1, abs=1e-4)
        else:
            assert shares == [""] * 8  # no interpretable track: no way from its filters to an answer
