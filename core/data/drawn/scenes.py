"""Animals painted into scenes: textured background, distractor shapes behind and in front, coat, light.

The order of the random draws, and all that they decide besides the animal's own shape, is the same for every category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from paraphrase.core.data.drawn.animals import LANDMARKS, sketch_animal
from paraphrase.core.data.drawn.sketch import RIM_TONE, Material, Sketch, Stroke, bend

SUPERSAMPLING = 3
"""The animal is drawn at this many times the image's size."""
MAX_ROTATION = 35.0
"""Degrees, either way."""
DIAGONAL = (0.84, 1.14)
"""Range of the diagonal of the animal's box, in sides of the image."""
CONTRAST = 95.0
"""Least distance of the coat's colour from the background's mean, in RGB levels."""

PALETTE = np.array(
    [
        (238, 232, 220), (205, 190, 165), (180, 140, 95), (140, 95, 60), (92, 62, 45), (55, 45, 42), (120, 118, 116),
        (170, 172, 176), (78, 86, 98), (196, 120, 60), (160, 70, 50), (214, 176, 96), (110, 120, 80), (90, 120, 130),
        (60, 84, 66), (132, 92, 112),
    ],
    float,
)  # fmt: skip
"""RGB of coats, hair, horns, backgrounds and distractors alike."""


@dataclass
class Scene:
    """A painted image and what is known of it."""

    image: np.ndarray
    """(size, size, 3) uint8."""
    landmarks: dict[str, tuple[float, float, bool]]
    """Name -> x, y in continuous pixels, visible: inside the image and not behind a distractor."""
    coverage: np.ndarray
    """(size, size) float in 0..1: share of each pixel that the animal covers, distractors disregarded."""


def draw_animal(
    category: str, rng: np.random.Generator, size: int = 112
) -> tuple[np.ndarray, dict[str, tuple[float, float, bool]]]:
    """An image (size, size, 3) uint8 of one animal, and its landmarks as `Scene` has them."""
    scene = draw_scene(category, rng, size)
    return scene.image, scene.landmarks


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A textured background (size, size, 3) uint8: the very draws that `draw_scene` begins with."""
    return _to_bytes(_background(rng, size))


def draw_scene(category: str | None, rng: np.random.Generator, size: int = 112) -> Scene:
    """Paint background, distractors, animal and light; without a category everything but the animal."""
    picture = _background(rng, size)
    behind, before, coat, pose = rng.spawn(4)
    picture, _ = _distract(picture, behind, int(behind.integers(1, 5)), (0.05, 0.14))
    coverage = np.zeros((size, size))
    landmarks: dict[str, tuple[float, float, bool]] = {}
    if category is not None:
        sketch = sketch_animal(category, pose)
        matrix, shift = _placement(sketch, coat, size)
        animal, coverage = _paint(sketch, matrix, shift, picture.mean((0, 1)), coat, size)
        picture += coverage[..., None] * (animal - picture)
    picture, hidden = _distract(picture, before, int(before.integers(0, 4)), (0.025, 0.055))
    if category is not None:
        landmarks = {name: _landmark(matrix @ sketch.landmarks[name] + shift, hidden) for name in LANDMARKS}
    picture = picture * before.uniform(0.8, 1.15) + before.uniform(-12, 12)
    picture += before.normal(0, before.uniform(0.5, 4), picture.shape)
    return Scene(_to_bytes(picture), landmarks, coverage)


def _landmark(place: np.ndarray, hidden: np.ndarray) -> tuple[float, float, bool]:
    x, y = (round(float(v), 2) for v in place)
    size = len(hidden)
    inside = 0 <= x < size and 0 <= y < size
    return x, y, bool(inside and hidden[int(y), int(x)] < 0.5)


def _placement(sketch: Sketch, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and shift from the sketch's coordinates to pixels.

    The centre and the diagonal of the animal's box are drawn without a look at the category, so they cannot tell it.
    """
    angle = np.radians(rng.triangular(-MAX_ROTATION, 0, MAX_ROTATION))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    # the animal's own side view is foreshortened as if it stood a little askew
    matrix = turn @ np.diag([mirror * rng.uniform(0.85, 1.0), -1.0])
    points = np.concatenate([o for layer in sketch.layers for o in layer.outlines]) @ matrix.T
    low, high = points.min(0), points.max(0)
    diagonal = rng.uniform(*DIAGONAL)
    scale = diagonal * size / np.hypot(*(high - low))
    # the smaller, the further it may be from the middle; Beta(0.6, 0.6) favours the far ends
    reach = 0.24 - 0.36 * (diagonal - DIAGONAL[0])
    centre = size * (0.5 + reach * (2 * rng.beta(0.6, 0.6, 2) - 1))
    return scale * matrix, centre - scale * (low + high) / 2


def _paint(
    sketch: Sketch, matrix: np.ndarray, shift: np.ndarray, backdrop: np.ndarray, rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The animal's colours (size, size, 3) float and its coverage (size, size)."""
    fine = size * SUPERSAMPLING
    # one byte per pixel: material * 16 + tone
    drawing = Image.new("L", (fine, fine))
    pen = ImageDraw.Draw(drawing)
    matrix, shift = matrix * SUPERSAMPLING, shift * SUPERSAMPLING
    for layer in sketch.layers:
        for polygons, tone in ((layer.rims, RIM_TONE), (layer.outlines, layer.tone)):
            for polygon in polygons:
                pen.polygon((polygon @ matrix.T + shift).ravel().tolist(), fill=layer.material * 16 + tone)
    index = np.asarray(drawing)
    marked = _coat_pattern(rng, fine) & (index >> 4 == Material.COAT)
    index = index + marked * np.uint8(16 * (Material.MARK - Material.COAT))
    colours = _colour_table(backdrop, rng)[index]
    painted = Image.fromarray(colours, "RGBA").reduce(SUPERSAMPLING)
    rgba = np.asarray(painted, np.float32)
    coverage = rgba[..., 3] / 255
    light = _shading(coverage, rng) * (1 + 0.1 * _noise(rng, size, int(rng.integers(14, 40))))
    return rgba[..., :3] * light[..., None], coverage


def _colour_table(backdrop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RGBA (256, 4) uint8 of every material and tone."""
    colours = _pick(rng, 12)
    far = np.linalg.norm(colours - backdrop, axis=1)
    coat = colours[int(np.argmax(far > CONTRAST)) if (far > CONTRAST).any() else int(far.argmax())]
    mark, bare, hair, horn = _pick(rng, 4)
    base = np.zeros((16, 3))
    base[Material.COAT], base[Material.MARK] = coat, 0.7 * mark + 0.3 * coat
    base[Material.BARE] = 0.5 * bare + 0.5 * coat
    base[Material.HAIR] = 0.55 * hair + 0.45 * coat
    base[Material.HORN] = horn
    base[Material.DARK], base[Material.WHITE] = (22, 20, 20), (240, 238, 232)
    tones = np.linspace(0.12, 1.41, 16)
    table = np.zeros((16, 16, 4))
    table[..., :3] = base[:, None] * tones[:, None]
    table[1:, :, 3] = 255
    return table.clip(0, 255).astype(np.uint8).reshape(256, 4)


def _coat_pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """Where the coat has its second colour, (size, size) bool: nowhere, blotches, spots, stripes or one end."""
    kind = rng.integers(6)
    if kind < 2:
        return np.zeros((size, size), bool)
    if kind == 5:
        return _noise(rng, size, int(rng.integers(5, 9))) > rng.uniform(0.15, 0.5)
    if kind == 2:
        return _noise(rng, size, int(rng.integers(14, 26))) > rng.uniform(0.5, 0.8)
    along = _ramp(rng, size)
    if kind == 3:
        wave = 2 * np.pi * rng.uniform(5, 11) * along + 2.2 * _noise(rng, size, 6)
        return np.sin(wave) > rng.uniform(0.0, 0.6)
    return along + 0.12 * _noise(rng, size, 7) > rng.uniform(-0.2, 0.2)


def _shading(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from somewhere above on a body that is as round as its blurred silhouette."""
    small = Image.fromarray((coverage * 255).astype(np.uint8))
    bulge = np.asarray(small.resize((28, 28), Image.Resampling.BOX).resize(small.size, Image.Resampling.BICUBIC), np.float32)
    down, right = np.gradient(bulge / 255)
    side = rng.uniform(-1, 1)
    return 1 + 2.2 * (down + side * right).clip(-0.15, 0.15)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float: two or three colours of the palette in one of six kinds of texture."""
    first, second, third = _pick(rng, 3)
    second = first + rng.uniform(0.2, 0.6) * (second - first)
    kind = rng.integers(6)
    along = _ramp(rng, size)
    if kind == 0:
        share = _noise(rng, size, int(rng.integers(3, 8))) + 0.6 * _noise(rng, size, int(rng.integers(10, 30)))
    elif kind == 1:
        share = np.sin(2 * np.pi * rng.uniform(2, 14) * along + rng.uniform(0, 2.5) * _noise(rng, size, 5))
    elif kind == 2:
        across = _ramp(rng, size)
        cells = rng.uniform(2, 9)
        share = 0.9 * np.sign(np.sin(2 * np.pi * cells * along) * np.sin(2 * np.pi * cells * across))
    elif kind == 3:
        share = 2 * along + 0.3 * _noise(rng, size, int(rng.integers(8, 40)))
    elif kind == 4:
        share = np.sign(_noise(rng, size, int(rng.integers(6, 20))) - rng.uniform(-0.2, 0.4)) * 0.8
    else:
        tile = _noise(rng, size, int(rng.integers(30, 60)))
        share = tile + np.where(along > rng.uniform(-0.3, 0.3), 0.8, -0.8)
    weight = (0.5 + 0.5 * share).clip(0, 1)[..., None]
    picture = first + weight * (second - first)
    return picture + 0.25 * (third - picture) * _noise(rng, size, 4).clip(0, 1)[..., None]


def _distract(
    picture: np.ndarray, rng: np.random.Generator, count: int, radius: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Shapes on top of a picture: blobs, bars, bows, rings and polygons, of the palette.

    Args:
        picture: (size, size, 3) float.
        rng: what is drawn.
        count: number of shapes.
        radius: range of their half width, in sides of the image.

    Returns:
        The picture and how far the shapes hide it, (size, size) in 0..1.
    """
    size = len(picture)
    fine = 2 * size
    layer = Image.new("RGBA", (fine, fine))
    pen = ImageDraw.Draw(layer)
    for colour in _pick(rng, count):
        centre, r = rng.uniform(-0.02, 1.02, 2) * fine, rng.uniform(*radius) * fine
        fill, dark = (tuple((colour * f).clip(0, 255).astype(int)) + (255,) for f in (1.0, 0.8))
        for outline, ink in zip(_shape(rng, centre, r), (dark, fill, dark), strict=False):
            pen.polygon(outline.ravel().tolist(), fill=ink)
    rgba = np.asarray(layer.reduce(2), np.float32)
    hidden = rgba[..., 3:] / 255
    return picture + hidden * (rgba[..., :3] - picture), hidden[..., 0]


def _shape(rng: np.random.Generator, centre: np.ndarray, r: float) -> list[np.ndarray]:
    """A rim, the shape in it and perhaps a mark inside, as polygons."""
    kind = rng.integers(5)
    angle = rng.uniform(0, 360)
    rim = 1.5
    if kind == 0:
        stroke = Stroke([centre], [r])
    elif kind == 1:
        stroke = Stroke(bend(centre, angle, (0, 0), 1.1 * r), [0.35 * r] * 3)
    elif kind == 2:
        stroke = Stroke(bend(centre, angle, (0, 50, 50), 0.8 * r), [0.3 * r] * 4)
    elif kind == 3:
        stroke = Stroke(bend(centre, angle, (0, rng.uniform(-30, 30)), r), [0.7 * r, 0.5 * r, 0.3 * r])
    else:
        corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 6))))
        star = np.stack([np.cos(corners), np.sin(corners)], 1)
        return [centre + (1.1 * r + rim) * star, centre + 1.1 * r * star]
    outline, grown = stroke.outlines(rim)
    inner = [Stroke([centre], [0.4 * r]).outlines(0)[0]] if kind == 0 and rng.random() < 0.5 else []
    return [grown, outline, *inner]


def _pick(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colours (count, 3) of the palette, each a little changed."""
    colours = PALETTE[rng.integers(len(PALETTE), size=count)]
    return (colours * rng.uniform(0.85, 1.12, (count, 1)) + rng.normal(0, 8, (count, 3))).clip(8, 250)


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise (size, size) float32 in about -1..1, with `cells` independent values along a side."""
    grid = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rises linearly in a random direction, (size, size) in about -0.5..0.5."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    return np.float32(np.cos(angle)) * axis + np.float32(np.sin(angle)) * axis[:, None]


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    return picture.clip(0, 255).astype(np.uint8)
