"""The pen of the drawn animals: smooth tapered strokes, collected in layers, each with a material and a tone.

Local coordinates: x forwards, y up, the animal's body about one unit long. `paraphrase.core.data.drawn.scenes` paints a sketch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

RIM = 0.032
"""Width of the dark rim around the strokes of a layer, in units of the body."""
RIM_TONE = 2
"""Tone of the rim."""
STEPS = 7
"""Samples per segment of a stroke."""
CAP = np.linspace(np.pi / 2, -np.pi / 2, 7)[1:-1]
"""Angles of the samples of a stroke's round ends."""
CIRCLE = np.linspace(0, 2 * np.pi, 28, endpoint=False)

Point = tuple[float, float] | np.ndarray


class Material(IntEnum):
    """What a stroke is made of; the painter gives each a colour."""

    NONE = 0
    COAT = 1
    """Fur, wool or feathers."""
    MARK = 2
    """The second colour of a patterned coat; the painter puts it in place of COAT."""
    BARE = 3
    """Face and legs of the sheep, inner ears, muzzle pads."""
    HAIR = 4
    """Mane, tuft, wing and tail feathers."""
    HORN = 5
    """Beak, horns, hooves."""
    DARK = 6
    """Nose, nostril, pupil, mouth."""
    WHITE = 7
    """White of the eye."""


@dataclass
class Stroke:
    """A smooth line through points, with a width at each of them; one point makes a disc."""

    points: Sequence[Point]
    radii: list[float]

    def outlines(self, rim: float) -> tuple[np.ndarray, np.ndarray]:
        """Closed polygons (n, 2) of the stroke and of the stroke grown by `rim`."""
        if len(self.points) == 1:
            circle = np.stack([np.cos(CIRCLE), np.sin(CIRCLE)], 1)
            return self.points[0] + self.radii[0] * circle, self.points[0] + (self.radii[0] + rim) * circle
        value, slope = _spline(len(self.points))
        control = np.column_stack([np.asarray(self.points, float), self.radii])
        line, along = value @ control, (slope @ control)[:, :2]
        along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
        centre, radius = line[:, :2], np.maximum(line[:, 2:], 0.002)
        return _offset(centre, along, radius), _offset(centre, along, radius + rim)


def _offset(centre: np.ndarray, along: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Both sides of a line at a distance of `radius`, joined by round ends."""
    aside = along[:, ::-1] * (-1, 1)
    cos, sin = np.cos(CAP)[:, None], np.sin(CAP)[:, None]
    front = centre[-1] + radius[-1] * (cos * along[-1] + sin * aside[-1])
    back = centre[0] - radius[0] * (cos * along[0] + sin * aside[0])
    return np.concatenate([centre + radius * aside, front, (centre - radius * aside)[::-1], back])


@functools.cache
def _spline(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (samples, count) that take control points to a Catmull-Rom spline's points and to its tangents."""
    steps = STEPS * (count - 1) + 1
    value, slope = np.zeros((steps, count)), np.zeros((steps, count))
    for row in range(steps):
        segment = min(row // STEPS, count - 2)
        t = row / STEPS - segment
        weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
        slopes = (-1 + 4 * t - 3 * t**2, -10 * t + 9 * t**2, 1 + 8 * t - 9 * t**2, -2 * t + 3 * t**2)
        for offset, weight, gradient in zip((-1, 0, 1, 2), weights, slopes, strict=True):
            # beyond its ends the line goes straight on: p[-1] = 2 p[0] - p[1]
            for index, share in _extended(segment + offset, count):
                value[row, index] += share * weight / 2
                slope[row, index] += share * gradient / 2
    return value, slope


def _extended(index: int, count: int) -> list[tuple[int, float]]:
    if index < 0:
        return [(0, 2.0), (1, -1.0)]
    if index >= count:
        return [(count - 1, 2.0), (count - 2, -1.0)]
    return [(index, 1.0)]


@dataclass
class Layer:
    """Strokes of one colour; their rims are painted first, so that no line shows where they meet."""

    outlines: list[np.ndarray]
    rims: list[np.ndarray]
    material: Material
    tone: int


@dataclass
class Sketch:
    """An animal: its layers from back to front, and its landmarks."""

    layers: list[Layer] = field(default_factory=list)
    landmarks: dict[str, np.ndarray] = field(default_factory=dict)
    """Name -> (x, y)."""

    def add(self, strokes: Stroke | Iterable[Stroke], material: Material, tone: int = 10, rim: float = RIM) -> None:
        """Lay strokes on top.

        Args:
            strokes: painted as one shape.
            material: what they are made of.
            tone: 0 (dark) to 15 (light); 10 is the material's own colour.
            rim: width of the dark rim; 0: none.
        """
        pairs = [s.outlines(rim) for s in ([strokes] if isinstance(strokes, Stroke) else strokes)]
        self.layers.append(Layer([p[0] for p in pairs], [p[1] for p in pairs] if rim else [], material, tone))

    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """All points of all outlines: lowest (x, y) and highest (x, y)."""
        points = np.concatenate([outline for layer in self.layers for outline in layer.outlines])
        return points.min(0), points.max(0)


def towards(angle: float) -> np.ndarray:
    """The unit vector at an angle in degrees, 0 forwards, 90 up."""
    return np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])


def bend(start: Point, angle: float, turns: Iterable[float], step: float) -> list[np.ndarray]:
    """Points of a chain that starts at `start` in direction `angle` and turns by some degrees before each next step."""
    points = [np.asarray(start, float)]
    for turn in turns:
        angle += turn
        points.append(points[-1] + step * towards(angle))
    return points
