from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from paraphrase.core.config import Config
from paraphrase.core.data import load_dataset
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.pictures.filters_page import view_explainer
from paraphrase.core.pictures.gallery import IMAGES, draw_gallery
from paraphrase.core.train.training import Training


def test_a_gallery_has_every_filter_on_the_images_that_fire_it_most_and_needs_no_network(
    tiny: Config, tiny_cache: FeatureCache, tmp_path: Path
) -> None:
    tiny.explainer.interp_widths = [8]
    training = Training(tiny, tiny_cache)
    training.run_epoch()
    training.save_explainer(tmp_path)
    seen = view_explainer(tmp_path, tiny_cache), load_dataset(tiny.data).test, tiny_cache
    page = draw_gallery(*seen, tmp_path / "gallery.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("</script>") == 1
    found = re.search(r"^const data = (.*);$", page, re.MULTILINE)
    assert found
    data = json.loads(found[1])
    view, n = view_explainer(tmp_path, tiny_cache), tiny_cache.meta["map_size"]
    assert [f["filter"] for f in data["filters"]] == list(range(8)) and data["parts"] == tiny_cache.meta["landmarks"]
    assert any(f["tiles"] for f in data["filters"])
    assert sum(f["alike"] + 1 for f in data["filters"] if f.get("first")) == sum("alike" in f for f in data["filters"])
    for f in data["filters"]:
        values = view.peaks.values[:, f["filter"]]
        strongest = [i for i in values.argsort(descending=True, stable=True)[:IMAGES].tolist() if values[i] > 0]
        assert [tile["image"] for tile in f["tiles"]] == strongest
        for tile in f["tiles"]:
            cells = base64.b64decode(tile["map"])
            assert len(cells) == n * n and max(cells) == 255
            field = tiny_cache.meta["receptive_field"]
            peaks = [field["start"] + field["stride"] * (i % n) for i, value in enumerate(cells) if value == 255]
            assert min(abs(x - tile["peak"][0]) for x in peaks) < 0.1  # a byte cannot part cells that are nearly alike
            assert str(tile["image"]) in data["images"] and data["labels"][str(tile["image"])] in tiny_cache.meta["categories"]


def test_names_that_look_like_html_stay_text(tiny: Config, tiny_cache: FeatureCache, tmp_path: Path) -> None:
    tiny.explainer.interp_widths = [4]
    training = Training(tiny, tiny_cache)
    training.run_epoch()
    training.save_explainer(tmp_path)
    tiny_cache.meta["landmarks"][0] = "</script><script>alert(1)</script>"
    seen = view_explainer(tmp_path, tiny_cache), load_dataset(tiny.data).test, tiny_cache
    page = draw_gallery(*seen, tmp_path / "gallery.html").read_text()
    assert page.count("</script>") == 1 and "<\\/script>" in page
