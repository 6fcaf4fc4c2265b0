from __future__ import annotations

import warnings
from pathlib import Path

from paraphrase.core.pictures.drawing import pyplot, save


def test_names_in_other_scripts_draw_without_a_word(tmp_path: Path) -> None:
    figure = pyplot().figure()
    figure.suptitle("\u732b \u72ac \u0915 \u0628")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pyplot()  # it sets its own filter on top
        save(figure, tmp_path / "names.png")
    assert not said and (tmp_path / "names.png").stat().st_size > 1000
