"""Six articulated animals, each sketched in a random pose; the category shows in the shape, not in colour or place.

Lengths are in units of the body (hip to chest of a quadruped), angles in degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from paraphrase.core.data.drawn.sketch import Material, Point, Sketch, Stroke, bend, towards

CATEGORIES = ["bird", "cat", "cow", "dog", "horse", "sheep"]
LANDMARKS = ["head", "neck", "torso", "tail"]

FAR = 6
"""Tone of limbs on the far side."""


@dataclass(frozen=True)
class Build:
    """Proportions of a quadruped."""

    trunk: tuple[float, float, float]
    """Half thickness at hip, belly and chest."""
    leg: float
    """Length from the trunk's axis to the ground."""
    leg_width: tuple[float, float]
    """Half width at the thigh and at the ankle."""
    neck: float
    """Length from the chest's top to the skull's centre."""
    neck_width: tuple[float, float]
    """Half width at the chest and at the skull."""
    neck_angle: tuple[float, float]
    """Range of its direction."""
    skull: float
    """Radius; lengths of the head are in units of it."""
    muzzle: tuple[float, float, float]
    """Length from the skull's centre, half width at its root and at its tip."""
    pitch: tuple[float, float]
    """Range of the muzzle's direction."""
    hoof: bool
    """Hooves, or paws."""


BUILDS = {
    "cat": Build((0.2, 0.2, 0.19), 0.52, (0.12, 0.062), 0.36, (0.16, 0.14), (-5, 75), 0.285, (0.72, 0.75, 0.42), (-30, 5), False),
    "dog": Build(
        (0.17, 0.15, 0.25), 0.68, (0.13, 0.058), 0.5, (0.18, 0.13), (0, 75), 0.235, (2.05, 0.72, 0.46), (-35, 10), False
    ),
    "cow": Build(
        (0.31, 0.36, 0.32), 0.66, (0.15, 0.075), 0.46, (0.26, 0.18), (-35, 40), 0.225, (1.95, 0.85, 0.66), (-65, -20), True
    ),
    "horse": Build(
        (0.25, 0.23, 0.26), 0.95, (0.14, 0.048), 0.72, (0.24, 0.13), (-15, 68), 0.185, (2.7, 0.9, 0.5), (-70, -20), True
    ),
    "sheep": Build(
        (0.33, 0.36, 0.33), 0.55, (0.09, 0.05), 0.34, (0.22, 0.16), (-20, 50), 0.2, (1.75, 0.82, 0.48), (-60, -15), True
    ),
}


def sketch_animal(category: str, rng: np.random.Generator) -> Sketch:
    """An animal of one of `CATEGORIES` in a random pose, facing right, with all of `LANDMARKS`."""
    return _bird(rng) if category == "bird" else _quadruped(category, rng)


@dataclass
class Head:
    """The frame in which a head is drawn: skull radii along the muzzle and towards the crown."""

    centre: np.ndarray
    forward: np.ndarray
    up: np.ndarray
    radius: float
    turn: float
    """0: profile; 1: turned towards the viewer by as much as is ever drawn."""

    def at(self, forward: float, up: float) -> np.ndarray:
        """A point of the frame in the sketch's coordinates."""
        return self.centre + self.radius * (forward * self.forward + up * self.up)

    def stroke(self, points: list[tuple[float, float]], radii: list[float]) -> Stroke:
        """A stroke given in the head's frame."""
        return Stroke([self.at(*p) for p in points], [self.radius * r for r in radii])


def _quadruped(category: str, rng: np.random.Generator) -> Sketch:
    build, sketch = BUILDS[category], Sketch()
    length = rng.uniform(0.84, 1.12)
    hip = np.zeros(2)
    chest = np.array([length, rng.uniform(-0.08, 0.08)])
    middle = (hip + chest) / 2 + (0, rng.uniform(-0.05, 0.03))
    thick = rng.uniform(0.92, 1.08)
    trunk = Stroke([hip, middle, chest], [thick * r for r in build.trunk])

    far, near = _legs(build, hip, chest, rng)
    for leg, foot in far:
        sketch.add([leg], Material.BARE if category == "sheep" else Material.COAT, FAR)
        sketch.add(foot, Material.HORN if build.hoof else Material.COAT, FAR)

    root = hip + (-0.75 * build.trunk[0], 0.55 * build.trunk[0])
    sketch.landmarks["tail"] = TAILS[category](sketch, root, rng)

    base = chest + (-0.12, 0.3 * build.trunk[2])
    angle = rng.uniform(*build.neck_angle)
    points = bend(base, angle, (rng.uniform(-14, 14), rng.uniform(-14, 14)), build.neck * rng.uniform(0.9, 1.1) / 2)
    neck = Stroke(points, [build.neck_width[0], sum(build.neck_width) / 2, build.neck_width[1]])
    head = _head_frame(build, points[-1], angle, rng)

    if category == "horse":
        _mane(sketch, points, build, rng)
    EARS[category](sketch, head, rng, far=True)
    legs = [leg for leg, _ in near]
    if category == "sheep":
        sketch.add(legs, Material.BARE)
        _wool(sketch, trunk, neck, rng)
    else:
        sketch.add([*legs, trunk, neck], Material.COAT)
    for _, foot in near:
        sketch.add(foot, Material.HORN if build.hoof else Material.COAT)
    if category == "cow":
        sketch.add([Stroke([hip + (0.24, -0.32), hip + (0.27, -0.4)], [0.11, 0.07])], Material.BARE)
    if category == "horse":
        _forelock(sketch, points, head, build)

    _face(sketch, category, build, head, rng)
    EARS[category](sketch, head, rng, far=False)
    # the middle of the neck's visible stretch, between the trunk and the skull
    sketch.landmarks["neck"] = points[1] + 0.1 * (points[2] - points[0])
    sketch.landmarks["torso"] = middle
    return sketch


def _legs(build: Build, hip: np.ndarray, chest: np.ndarray, rng: np.random.Generator) -> tuple[list, list]:
    """(leg, foot) of the far and of the near legs, in a random phase of a walk or gallop."""
    swing, phase, gallop = rng.uniform(4, 34), rng.uniform(0, 2 * np.pi), rng.random() < 0.3
    far: list = []
    near: list = []
    for side, shift in ((far, 0.07), (near, 0.0)):
        for joint, hind in ((hip, True), (chest, False)):
            own = phase + (0.6 if side is far else 0) + (np.pi if hind else 0) if gallop else phase
            own += 0 if gallop else np.pi * ((side is far) != hind)
            lead = swing * np.sin(own)
            lift = max(0.0, np.cos(own)) * swing * 1.1
            top = joint + ((0.06 if hind else -0.1) + shift, -0.05)
            knee = top + 0.52 * build.leg * towards(-90 + lead + (6 if hind else -2))
            # the hind leg's hock folds forwards, the foreleg's wrist backwards
            ankle = knee + 0.48 * build.leg * towards(-90 + lead - lift * (1 if hind else 1.2) - (10 if hind else 0))
            thigh, wrist = build.leg_width
            leg = Stroke([top, knee, ankle], [thigh * 1.25 if hind else thigh, (thigh + 2 * wrist) / 3, wrist])
            toe = ankle + ((0.03, -0.02) if build.hoof else (0.06, -0.01))
            foot = Stroke([ankle, toe], [wrist * 1.1, wrist * (1.35 if build.hoof else 1.0)])
            side.append((leg, foot))
    return far, near


def _head_frame(build: Build, centre: np.ndarray, neck_angle: float, rng: np.random.Generator) -> Head:
    """The head at the end of the neck; now and then it looks back."""
    pitch = rng.uniform(*build.pitch) + min(0.0, 0.6 * neck_angle)
    back = rng.random() < 0.07 and neck_angle > 25
    forward = towards(180 - pitch if back else pitch)
    up = towards(90 - pitch if back else 90 + pitch)
    return Head(centre, forward, up, build.skull * rng.uniform(0.95, 1.12), rng.random())


def _face(sketch: Sketch, category: str, build: Build, head: Head, rng: np.random.Generator) -> None:
    """Skull, muzzle, eyes, nose and mouth."""
    long, root, tip = build.muzzle
    long *= 1 - 0.3 * head.turn
    skull = head.stroke([(-0.12, 0.05), (0.12, 0.0)], [1.0, 0.97])
    muzzle = head.stroke([(0.1, -0.1), (0.5 * long, -0.2), (long, -0.32)], [root, (root + tip) / 2, tip])
    sketch.add([skull, muzzle], Material.BARE if category == "sheep" else Material.COAT, 11)
    if category == "cow":
        sketch.add(head.stroke([(long - 0.1, -0.2), (long + 0.05, -0.5)], [0.62, 0.55]), Material.BARE, 12)
    if category == "sheep":
        curls = [head.stroke([(x, y)], [0.5]) for x, y in ((-0.75, 0.35), (-0.3, 0.8), (0.3, 0.85))]
        sketch.add(curls, Material.COAT, 12)
    if category in ("cat", "dog"):
        sketch.add(head.stroke([(long + tip - 0.12, -0.12)], [0.17 if category == "cat" else 0.27]), Material.DARK, rim=0)
    else:
        sketch.add(head.stroke([(long + 0.55 * tip, -0.15)], [0.15]), Material.DARK, rim=0)
    mouth = head.stroke([(0.65 * long, -0.3 - 0.45 * tip), (long + 0.6 * tip, -0.3 - 0.45 * tip)], [0.05, 0.06])
    sketch.add(mouth, Material.DARK, rim=0)
    if category == "cat":
        for drop in (0.1, 0.45, 0.8):
            whisker = head.stroke([(long - 0.15, -0.4), (-0.75, -0.3 - drop)], [0.03, 0.02])
            sketch.add(whisker, Material.WHITE, rim=0)
    large = {"cat": 0.3, "dog": 0.25, "cow": 0.24, "horse": 0.25, "sheep": 0.26}[category]
    _eyes(sketch, head, (0.42, 0.3), large)
    sketch.landmarks["head"] = head.at(0.4 * long, -0.1)


def _eyes(sketch: Sketch, head: Head, place: tuple[float, float], size: float) -> None:
    """The near eye, and the far one too if the head is turned towards the viewer."""
    x, y = place
    spots = [(x - 0.35 * head.turn, y)] + ([(x + 0.45, y + 0.08)] if head.turn > 0.5 else [])
    for spot in spots:
        sketch.add(head.stroke([spot], [size]), Material.WHITE, rim=0)
        sketch.add(head.stroke([(spot[0] + 0.07, spot[1])], [0.68 * size]), Material.DARK, rim=0)


def _ears_cat(sketch: Sketch, head: Head, rng: np.random.Generator, far: bool) -> None:
    x = 0.5 + 0.12 * head.turn if far else -0.45 - 0.1 * head.turn
    lean = 0.25 if far else -0.2
    sketch.add(head.stroke([(x, 0.55), (x + lean, 1.75)], [0.5, 0.02]), Material.COAT, 8 if far else 10)
    if not far:
        sketch.add(head.stroke([(x, 0.75), (x + 0.8 * lean, 1.45)], [0.27, 0.02]), Material.BARE, 12, rim=0)


def _ears_dog(sketch: Sketch, head: Head, rng: np.random.Generator, far: bool) -> None:
    swing = rng.uniform(-0.35, 0.35)
    if far:
        if head.turn > 0.4:
            sketch.add(head.stroke([(0.5, 0.6), (0.95, 0.2), (1.0, -0.5)], [0.25, 0.4, 0.25]), Material.HAIR, FAR)
        return
    points = [(-0.35, 0.75), (-0.85 + 0.3 * swing, 0.25), (-0.85 + swing, -1.15)]
    sketch.add(head.stroke(points, [0.3, 0.56, 0.36]), Material.HAIR, 8)


def _ears_cow(sketch: Sketch, head: Head, rng: np.random.Generator, far: bool) -> None:
    droop = rng.uniform(-0.3, 0.35)
    x = 0.45 if far else -0.25
    horn = [(x, 0.75), (x - 0.35 if not far else x + 0.25, 1.45), (x + 0.15 if not far else x + 0.1, 2.15)]
    if far:
        sketch.add(head.stroke(horn, [0.24, 0.2, 0.04]), Material.HORN, 8)
        return
    ear = [(-0.6, 0.45), (-1.2, 0.4 + 0.5 * droop), (-1.85, 0.35 + droop)]
    sketch.add(head.stroke(ear, [0.2, 0.4, 0.08]), Material.COAT, 9)
    sketch.add(head.stroke(horn, [0.26, 0.22, 0.04]), Material.HORN, 11)


def _ears_horse(sketch: Sketch, head: Head, rng: np.random.Generator, far: bool) -> None:
    x = 0.0 if far else -0.45
    lean = rng.uniform(-0.25, 0.3)
    tone = FAR if far else 10
    sketch.add(head.stroke([(x, 0.7), (x + 0.5 * lean, 1.3), (x + lean, 1.85)], [0.24, 0.26, 0.03]), Material.COAT, tone)


def _ears_sheep(sketch: Sketch, head: Head, rng: np.random.Generator, far: bool) -> None:
    if far:
        return
    droop = rng.uniform(-0.5, 0.1)
    sketch.add(head.stroke([(-0.35, 0.3), (-0.9, 0.1 + 0.5 * droop), (-1.45, droop)], [0.2, 0.34, 0.1]), Material.BARE, 9)


EARS: dict[str, Callable[..., None]] = {
    "cat": _ears_cat,
    "dog": _ears_dog,
    "cow": _ears_cow,
    "horse": _ears_horse,
    "sheep": _ears_sheep,
}


def _tail_cat(sketch: Sketch, root: Point, rng: np.random.Generator) -> np.ndarray:
    up = rng.uniform(-1, 1)
    curl = rng.uniform(18, 45) * (1 if up < 0 else -1)
    points = bend(root, 150 - 50 * up, (0, curl, curl, -1.4 * curl, -curl), 0.24)
    sketch.add(Stroke(points, [0.07, 0.065, 0.065, 0.065, 0.065, 0.07]), Material.COAT, 9)
    return points[3]


def _tail_dog(sketch: Sketch, root: Point, rng: np.random.Generator) -> np.ndarray:
    points = bend(root, rng.uniform(105, 190), (0, -rng.uniform(5, 40), -rng.uniform(5, 40)), 0.2)
    sketch.add(Stroke(points, [0.075, 0.085, 0.07, 0.015]), Material.COAT, 9)
    return points[2]


def _tail_cow(sketch: Sketch, root: Point, rng: np.random.Generator) -> np.ndarray:
    swing = rng.uniform(-50, 15)
    points = bend(root, 215, (0, 40 + swing, 10 - 0.4 * swing, -0.3 * swing), 0.2)
    sketch.add(Stroke(points, [0.05, 0.038, 0.034, 0.032, 0.03]), Material.COAT, 9)
    tuft = bend(points[-1], 265 + 0.5 * swing, (0, rng.uniform(-15, 15)), 0.1)
    sketch.add(Stroke([points[-1], *tuft[1:]], [0.04, 0.095, 0.02]), Material.HAIR)
    return points[3]


def _tail_horse(sketch: Sketch, root: Point, rng: np.random.Generator) -> np.ndarray:
    flow = rng.uniform(0, 1)
    points = bend(root, 165 + 20 * (1 - flow), (0, 45 - 25 * flow, 35 - 15 * flow, 5 - 10 * flow), 0.24)
    sketch.add(Stroke(points, [0.06, 0.12, 0.15, 0.13, 0.03]), Material.HAIR)
    for shift in (-0.4, 0.4):
        lines = [p + (shift * w, 0.0) for p, w in zip(points[1:], (0.1, 0.13, 0.1, 0.02), strict=True)]
        sketch.add(Stroke(lines, [0.012] * 4), Material.HAIR, 6, rim=0)
    return points[2]


def _tail_sheep(sketch: Sketch, root: Point, rng: np.random.Generator) -> np.ndarray:
    points = bend(np.asarray(root) + (-0.08, -0.04), rng.uniform(185, 250), (0, 10), 0.11)
    sketch.add(Stroke(points, [0.09, 0.105, 0.07]), Material.COAT, 9)
    return points[1]


TAILS: dict[str, Callable[[Sketch, Point, np.random.Generator], np.ndarray]] = {
    "cat": _tail_cat,
    "dog": _tail_dog,
    "cow": _tail_cow,
    "horse": _tail_horse,
    "sheep": _tail_sheep,
}


def _crest(points: list[np.ndarray], build: Build) -> list[np.ndarray]:
    """Points along the back of the neck, from the withers to the crown."""
    along = points[2] - points[0]
    aside = np.array([-along[1], along[0]]) / np.hypot(*along)
    width = build.neck_width
    return [p + aside * w for p, w in zip(points, (width[0], 0.55 * sum(width), width[1] * 1.25), strict=True)]


def _mane(sketch: Sketch, points: list[np.ndarray], build: Build, rng: np.random.Generator) -> None:
    crest = _crest(points, build)
    sketch.add(Stroke(crest, [0.05, 0.1, 0.09]), Material.HAIR)


def _forelock(sketch: Sketch, points: list[np.ndarray], head: Head, build: Build) -> None:
    """Locks that fall from the crest over the near side of the neck, and one between the ears."""
    crest = _crest(points, build)
    down = (points[1] - crest[1]) * 0.75
    locks = []
    for share in (0.12, 0.32, 0.52, 0.72, 0.92):
        place = crest[0] + share * (crest[2] - crest[0]) + 4 * share * (1 - share) * (crest[1] - (crest[0] + crest[2]) / 2)
        locks.append(Stroke([place, place + 0.5 * down + (-0.02, 0), place + down + (-0.05, -0.03)], [0.07, 0.06, 0.01]))
    sketch.add(locks, Material.HAIR, 9)


def _wool(sketch: Sketch, trunk: Stroke, neck: Stroke, rng: np.random.Generator) -> None:
    """A fleece with a scalloped outline and curls inside."""
    outline, _ = Stroke(trunk.points, [0.93 * r for r in trunk.radii]).outlines(0)
    gaps = np.hypot(*np.diff(outline, axis=0, append=outline[:1]).T)
    length = np.concatenate([[0.0], np.cumsum(gaps)])
    stations = (np.arange(17) + rng.random()) / 17 * length[-1]
    closed = np.concatenate([outline, outline[:1]])
    rim = np.stack([np.interp(stations, length, closed[:, axis]) for axis in (0, 1)], 1)
    puffs = [Stroke([p], [rng.uniform(0.09, 0.125)]) for p in rim]
    sketch.add([trunk, neck, *puffs, Stroke([neck.points[1]], [0.22])], Material.COAT)
    low, high = outline.min(0) + 0.1, outline.max(0) - 0.1
    for _ in range(14):
        spot = rng.uniform(low, high)
        arc = bend(spot, rng.uniform(0, 360), (0, 75, 75), 0.055)
        sketch.add(Stroke(arc, [0.014] * 4), Material.COAT, 7, rim=0)


def _bird(rng: np.random.Generator) -> Sketch:
    sketch = Sketch()
    slope = rng.uniform(-12, 38)
    axis, aside = towards(slope), towards(slope + 90)
    rump, breast = np.zeros(2), 0.95 * axis
    middle = 0.5 * breast - 0.02 * aside
    stout = rng.uniform(0.9, 1.1)
    trunk = Stroke([rump, middle, breast], [0.13, 0.34 * stout, 0.27 * stout])
    flying = rng.random() < 0.35

    if flying:
        _raised_wing(sketch, middle, slope, rng, FAR)
    sketch.landmarks["tail"] = _tail_bird(sketch, rump, slope, rng)
    _legs_bird(sketch, middle - 0.2 * aside, slope, flying, rng)

    neck_length = rng.uniform(0.28, 0.62)
    base = breast + 0.1 * aside - 0.06 * axis
    points = bend(base, rng.uniform(20, 95), (0, rng.uniform(-25, 25)), neck_length / 2)
    neck = Stroke(points, [0.2, 0.14, 0.13])
    sketch.add([trunk, neck], Material.COAT)
    _head_bird(sketch, points[-1], rng)
    if flying:
        _raised_wing(sketch, middle, slope, rng, 10)
    else:
        _folded_wing(sketch, middle, slope, rng)
    sketch.landmarks["neck"] = points[1]
    sketch.landmarks["torso"] = middle
    return sketch


def _head_bird(sketch: Sketch, centre: np.ndarray, rng: np.random.Generator) -> None:
    pitch = rng.uniform(-35, 20)
    back = rng.random() < 0.07
    forward = towards(180 - pitch if back else pitch)
    up = towards(90 - pitch if back else 90 + pitch)
    head = Head(centre, forward, up, rng.uniform(0.2, 0.25), rng.random() * 0.5)
    beak, gape = rng.uniform(1.9, 2.9), rng.uniform(0.0, 0.25)
    sketch.add(head.stroke([(0.6, -0.2), (0.85 * beak, -0.3 - gape)], [0.3, 0.02]), Material.HORN, 8)
    sketch.add(head.stroke([(0.5, 0.1), (beak, -0.12)], [0.42, 0.02]), Material.HORN, 11)
    if rng.random() < 0.35:
        for lean in (-1.1, -0.7):
            sketch.add(head.stroke([(0.0, 0.7), (lean, 1.55)], [0.25, 0.02]), Material.HAIR)
    sketch.add(head.stroke([(0.0, 0.0)], [1.0]), Material.COAT, 11)
    _eyes(sketch, head, (0.38, 0.2), 0.3)
    sketch.landmarks["head"] = head.at(0.4, 0.0)


def _tail_bird(sketch: Sketch, rump: np.ndarray, slope: float, rng: np.random.Generator) -> np.ndarray:
    """A fan of straight feathers."""
    angle, spread, long = slope + 180 + rng.uniform(-25, 25), rng.uniform(6, 16), rng.uniform(0.42, 0.65)
    root = rump + 0.12 * towards(slope)
    for turn in (-1.5, 1.5, -0.5, 0.5):
        tip = root + (0.12 + long) * towards(angle + turn * spread)
        sketch.add(Stroke([root, (root + tip) / 2, tip], [0.06, 0.08, 0.07]), Material.HAIR, 10, rim=0.016)
    return root + 0.5 * (0.12 + long) * towards(angle)


def _legs_bird(sketch: Sketch, belly: np.ndarray, slope: float, flying: bool, rng: np.random.Generator) -> None:
    long = rng.uniform(0.4, 0.62)
    for shift, tone in ((0.12, 7), (0.0, 10)):
        angle = slope - 150 if flying else -90 + rng.uniform(-25, 25)
        thigh = belly + shift * towards(slope)
        foot = bend(thigh, angle + 12, (0, -24), 0.5 * long + 0.08)[-1]
        toes = [Stroke([foot, foot + 0.17 * towards(angle + turn)], [0.03, 0.015]) for turn in (50, 85, 125)]
        sketch.add([Stroke([thigh, foot], [0.05, 0.032]), *toes], Material.HORN, tone, rim=0.014)


def _folded_wing(sketch: Sketch, middle: np.ndarray, slope: float, rng: np.random.Generator) -> None:
    axis, aside = towards(slope), towards(slope + 90)
    shoulder = middle + 0.32 * axis + 0.08 * aside
    tip = middle - rng.uniform(0.5, 0.68) * axis + 0.03 * aside
    sketch.add(Stroke([shoulder, middle - 0.05 * axis, tip], [0.15, 0.19, 0.02]), Material.HAIR)
    for drop in (-0.08, 0.0, 0.08):
        line = [middle + 0.16 * axis + 1.2 * drop * aside, middle - 0.35 * axis + 0.6 * drop * aside]
        sketch.add(Stroke(line, [0.014, 0.012]), Material.HAIR, 5, rim=0)


def _raised_wing(sketch: Sketch, middle: np.ndarray, slope: float, rng: np.random.Generator, tone: int) -> None:
    """A spread wing: an arm and a row of long feathers that hang from it."""
    shoulder = middle + 0.2 * towards(slope) + 0.1 * towards(slope + 90)
    arm = bend(shoulder, slope + rng.uniform(70, 125), (0, rng.uniform(5, 30)), 0.38)
    for share in np.linspace(0, 1, 6):
        root = arm[0] + 2 * share * (arm[1] - arm[0]) if share < 0.5 else arm[1] + (2 * share - 1) * (arm[2] - arm[1])
        tip = root + (0.42 + 0.12 * share) * towards(slope + 190 - 45 * share)
        sketch.add(Stroke([root, tip], [0.09, 0.06]), Material.HAIR, tone - 1, rim=0.016)
    sketch.add(Stroke(arm, [0.11, 0.1, 0.06]), Material.HAIR, tone)
