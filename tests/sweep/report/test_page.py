from __future__ import annotations

import itertools
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paraphrase.sweep.report import page as pages
from paraphrase.sweep.report.page import Figure, Folded, Section, Table, format_cell, write_page
from paraphrase.sweep.report.pictures import Picture, embed

CSS = (Path(pages.__file__).parent / "templates" / "page.css").read_text()
VOID = {"meta", "link", "img", "wbr", "br"}


class Page(HTMLParser):
    """A parsed page: every element with its attributes and text; tags must be balanced."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.open: list[tuple[str, int]] = []
        self.feed(file.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, index in self.open:
            self.texts[index] = self.texts.get(index, "") + data

    def all(self, *tags: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of every element of these tags."""
        return [(a, self.texts.get(i, "").strip()) for i, (tag, a) in enumerate(self.elements) if tag in tags]


def noise(file: Path, width: int = 700, height: int = 500, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, compress_level=0)
    return file


def drawing(file: Path, width: int = 640, height: int = 480) -> Path:
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    image.paste((200, 30, 30, 255), (20, 20, 300, 200))
    image.save(file)
    return file


@pytest.fixture
def page(tmp_path: Path) -> Page:
    """A page with one of everything."""
    wide = Table(["arm", "p", "state", "n", "error"], [["base", 0.5, "done", 3, None], ["other", 1e-7, "", 12, 0.25]], "Arms")
    sections = [
        Section("First & best", ["A paragraph.", "x < y & z"], [wide, Table(["what", "value"], [["loss.eta", "2.11.0"]])]),
        Section("Second", figures=[Figure(drawing(tmp_path / "a.png"), "a red box", "A caption.")]),
        Section("Third", folded=[Folded("config.yaml", "a: <script>alert(1)</script>\nb: 1")]),
    ]
    return Page(write_page("Sweep <i>x</i>", "A & B", sections, tmp_path / "deep" / "page.html"))


def test_page_needs_no_other_file(page: Page) -> None:
    targets = [a[key] for _, a in page.elements for key in ("src", "href", "srcset", "data", "action", "poster") if key in a]
    assert targets and all(target and target.startswith(("#", "data:")) for target in targets)
    assert not page.all("script", "iframe", "object") and "url(" not in CSS and "@import" not in CSS
    policy = next(a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_texts_are_plain_whatever_is_in_them(page: Page) -> None:
    assert page.all("h1") == [({}, "Sweep <i>x</i>")] and page.all("title")[0][1] == "Sweep <i>x</i>"
    assert "x < y & z" in [text for _, text in page.all("p")] and not page.all("i")
    assert page.all("pre")[0][1] == "a: <script>alert(1)</script>\nb: 1"


def test_headings_are_in_order_and_the_contents_lead_to_them(page: Page) -> None:
    assert [tag for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)] == ["h1", "h2", "h2", "h2", "h2"]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"]: text for a, text in page.all("a")}
    assert {href.removeprefix("#") for href in links} <= set(ids)
    assert links == {"#content": "Skip to the content", "#part-1": "First & best", "#part-2": "Second", "#part-3": "Third"}


def test_page_can_be_read_by_those_who_do_not_see_it(page: Page) -> None:
    assert page.all("html")[0][0]["lang"] == "en" and page.all("main")[0][0]["id"] == "content"
    assert len(page.all("header")) == len(page.all("nav")) == len(page.all("main")) == len(page.all("footer")) == 1
    assert any(a.get("name") == "viewport" and "maximum-scale" not in str(a) for a, _ in page.all("meta"))
    image = page.all("img")[0][0]
    assert image["alt"] == "a red box" and (image["width"], image["height"]) == ("640", "480")
    for attributes, _ in page.all("th"):
        assert attributes["scope"] in ("col", "row")
    regions = [a for _, a in page.elements if a.get("role") == "region"]
    assert [a["aria-label"] for a in regions] == ["Table: Arms", "Figure: A caption.", "config.yaml"]
    assert all(a["tabindex"] == "0" for a in regions)


def test_columns_of_numbers_are_set_to_the_right(page: Page) -> None:
    header = {text: a.get("class") for a, text in page.all("th") if a["scope"] == "col"}
    assert header == {"arm": None, "p": "number", "state": None, "n": "number", "error": "number", "what": None, "value": None}
    cells = [text for _, text in page.all("td")]
    assert cells == ["0.5000", "done", "3", "-", "1e-07", "", "12", "0.2500", "2.11.0"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [(None, "-"), (float("nan"), "-"), (0.0, "0.0000"), (-0.12345, "-0.1235"), (3, "3"), ("0.1 ±0.2", "0.1 ±0.2")],
)
def test_cells(cell: str | float | None, text: str) -> None:
    assert format_cell(cell) == text


def test_page_stays_small_whatever_is_put_in(tmp_path: Path, home: Path) -> None:
    figures = [Figure(noise(home / f"{i}.png", seed=i), f"noise {i}", f"Noise {i}.") for i in range(40)]
    long = [Folded("long", "x" * 3_000_000), Folded("also", "<" * 50_000)]
    rows: list[list[str]] = [[str(i), "y" * 20] for i in range(5000)]
    sections = [Section("Figures", figures=figures), Section("Texts", [], [Table(["a", "b"], rows)], folded=long)]
    file = write_page("Much", "", sections, tmp_path / "page.html")
    assert 3_000_000 < file.stat().st_size < 5_000_000
    page = Page(file)
    shown = [a["alt"] for a, _ in page.all("img")]
    assert 5 <= len(shown) <= 40 and shown == [f"noise {i}" for i in range(len(shown))]
    notes = [text for a, text in page.all("p") if a.get("class") == "note"]
    left_out = [f"A figure left out, to keep the page small: {i}.png" for i in range(len(shown), 40)]
    assert notes == [*left_out, "4600 more rows are left out, to keep the page small."]
    assert page.all("pre")[0][1].endswith("2900000 more characters are left out, to keep the page small")


def test_last_figures_are_reduced_first(tmp_path: Path) -> None:
    files = [noise(tmp_path / f"{i}.png", 1100, 300, seed=i) for i in range(3)]
    whole = embed(files, 10**9)
    assert all(isinstance(p, Picture) and p.width == 1100 for p in whole)
    sizes = [len(p.uri) for p in whole if isinstance(p, Picture)]
    reduced = embed(files, sum(sizes) - 1000)
    assert [p.width for p in reduced if isinstance(p, Picture)] == [1100, 1100, 1000]
    few = embed(files, sizes[0] // 8)
    assert isinstance(few[0], Picture) and few[0].width == 600 and isinstance(few[2], str)


def test_drawings_are_kept_without_loss_and_on_white(tmp_path: Path) -> None:
    (picture,) = embed([drawing(tmp_path / "a.png")], 10**6)
    assert isinstance(picture, Picture)
    shown = np.asarray(Image.open(BytesIO(b64decode(picture.uri.partition(",")[2]))).convert("RGBA"))
    assert tuple(shown[100, 100]) == (200, 30, 30, 255) and shown[0, 0, 3] in (0, 255)
    assert len(np.unique(shown.reshape(-1, 4), axis=0)) == 2


def test_figures_that_are_not_there_are_said_to_be_missing(tmp_path: Path, home: Path) -> None:
    (home / "sweeps").mkdir()
    (home / "sweeps" / "bad.png").write_text("no image")
    figures = [Figure(home / "sweeps" / "bad.png", "bad"), Figure(tmp_path / "gone.png", "gone")]
    file = write_page("Missing", "", [Section("Figures", figures=figures)], tmp_path / "page.html")
    notes = [text for a, text in Page(file).all("p") if a.get("class") == "note"]
    assert notes == ["A figure cannot be read: sweeps/bad.png", "A figure is not there: gone.png"]
    assert str(tmp_path) not in file.read_text()


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def palettes() -> dict[str, dict[str, str]]:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    found = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), found, strict=True))


def test_contrast_formula_gives_the_known_extremes() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_stands_out_from_every_ground(scheme: str) -> None:
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb|hsl", rules), "colours stand in the :root blocks only"
    texts = set(re.findall(r"(?<![-\w])color: var\(--([a-z]+)\)", rules))
    grounds = set(re.findall(r"background: var\(--([a-z]+)\)", rules)) - {"paper"}  # under figures, not text
    lines = set(re.findall(r"(?:outline|border[-a-z]*): [^;]*var\(--([a-z]+)\)", rules)) - {"hair"}  # hair lines only decorate
    assert texts >= {"text", "quiet", "link"} and grounds >= {"ground", "panel"} and lines >= {"focus", "line"}
    palette = palettes()[scheme]
    assert palette["paper"] == "#ffffff"
    for text, ground in itertools.product(texts, grounds):
        assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    for line, ground in itertools.product(lines, grounds):
        assert contrast(palette[line], palette[ground]) >= 3, (line, ground)


def test_print_is_black_on_white_with_everything_open() -> None:
    palette = palettes()["print"]
    assert palette["text"] == palette["quiet"] == palette["link"] == "#000000"
    assert palette["ground"] == palette["panel"] == "#ffffff"
    rules = CSS[CSS.index("@media print") :]
    assert "details::details-content { display: block; content-visibility: visible" in rules
    assert ".scroll, .paper { overflow: visible; }" in rules
