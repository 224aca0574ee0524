"""The miniature streets of the demo dataset: what stands where, in which weather.

A street is a list of things placed in metres (x to the right, y up, z ahead) and the way of a camera along it.
Everything follows from a seed, through `random.Random.random`, whose stream Python keeps the same for good.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "person", "sign")
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, SIGN = range(8)
UNSCORED = 8  # the bonnet of the car that carries the camera
HEIGHT, WIDTH = 96, 128

EYE = 1.6  # metres above the road
KERB, WALL = 4.8, 7.6  # metres from the middle of the road
_CLASS_OF = {
    "block": BUILDING,
    "skyline": BUILDING,
    "hedge": TREE,
    "tree": TREE,
    "car": CAR,
    "person": PERSON,
    "sign": SIGN,
}

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Weather:
    """Light and air: colours in 0-255, `light` and `shade` as factors, `veil_at` in metres to half the contrast."""

    zenith: Color
    horizon: Color
    clouds: float
    light: Color
    shade: float
    veil: Color
    veil_at: float
    wet: float = 0.0
    lamps: float = 0.0
    noise: float = 2.0


WEATHER = {
    "sunny": Weather((70, 128, 206), (190, 216, 238), 0.8, (1.08, 1.04, 0.95), 0.55, (196, 214, 232), 420),
    "overcast": Weather((168, 175, 185), (212, 215, 218), 0.45, (0.88, 0.90, 0.92), 0.92, (205, 209, 214), 240),
    "rain": Weather((112, 119, 131), (158, 164, 171), 0.5, (0.64, 0.69, 0.76), 0.95, (150, 157, 166), 85, 0.4, 0.3, 3),
    "fog": Weather((190, 195, 201), (202, 205, 209), 0.1, (0.86, 0.88, 0.90), 0.97, (200, 203, 207), 30, 0.1, 0.3, 2.5),
    "dusk": Weather((62, 66, 122), (246, 160, 98), 0.6, (0.66, 0.53, 0.55), 0.85, (176, 124, 116), 230, 0.0, 1.0, 3.5),
    "night": Weather((7, 9, 24), (27, 27, 46), 0.2, (0.13, 0.14, 0.22), 0.9, (22, 23, 40), 160, 0.2, 1.6, 5.0),
}  # fmt: skip

# style: chance of a gap between blocks, storeys, length of a block, trees along the kerb, pitched roofs, shops, walls
_STYLES: dict[str, tuple[float, tuple[int, int], tuple[float, float], float, float, float, tuple[Color, ...]]] = {
    "terrace": (0.12, (3, 4), (8, 15), 0.35, 0.5, 0.3,
        ((158, 88, 70), (176, 120, 88), (140, 100, 92), (190, 150, 118))),
    "suburb": (0.5, (1, 2), (8, 12), 0.5, 0.95, 0.0,
        ((226, 214, 190), (186, 108, 84), (208, 196, 204), (168, 180, 164))),
    "centre": (0.08, (4, 7), (10, 20), 0.15, 0.0, 0.8,
        ((150, 160, 170), (196, 190, 178), (120, 126, 136), (172, 140, 120))),
    "avenue": (0.25, (2, 5), (9, 16), 0.85, 0.4, 0.4,
        ((232, 216, 176), (214, 170, 140), (200, 206, 196), (236, 228, 214))),
}  # fmt: skip
_CARS = (
    (178, 36, 40), (36, 72, 150), (222, 222, 218), (44, 46, 52), (128, 132, 138), (196, 150, 44), (48, 110, 84),
    (150, 70, 40),
)  # fmt: skip
_COATS = (
    (196, 52, 60), (44, 84, 160), (232, 196, 70), (58, 58, 66), (92, 140, 92), (210, 120, 150), (226, 226, 220),
    (120, 84, 150),
)  # fmt: skip
_SKINS = ((240, 200, 170), (206, 152, 112), (140, 92, 66), (92, 60, 46))
_LEAVES = ((74, 124, 56), (58, 104, 62), (104, 134, 58), (196, 132, 50), (172, 78, 48), (50, 90, 74))


@dataclass(frozen=True)
class Thing:
    """Something that stands or moves in a street: `z` is its near end at frame 0, `vx` and `vz` metres a frame."""

    kind: str
    x: float
    z: float
    seed: int
    vx: float = 0.0
    vz: float = 0.0
    look: dict[str, Any] = field(default_factory=dict)
    keep: bool = False

    @property
    def class_id(self) -> int:
        return _CLASS_OF[self.kind]


@dataclass(frozen=True)
class Street:
    """A street, its weather and the camera's way through it."""

    seed: int
    weather: str
    things: tuple[Thing, ...]
    step: float  # metres a frame
    eye_x: float
    vanish: tuple[float, float]  # the vanishing point in pixels (x, y) at frame 0
    turn: float  # its drift to the side in pixels a frame
    sun: int  # the side the sun stands on: -1 left, 1 right
    crossing: float  # z of the zebra crossing
    asphalt: Color


class Dice:
    """Choices from Python's frozen stream of `random.Random.random`."""

    def __init__(self, seed: int) -> None:
        self._next = random.Random(seed).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._next()

    def chance(self, share: float) -> bool:
        return self._next() < share

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self._next() * len(items))]

    def many(self, count: int) -> list[float]:
        return [self._next() for _ in range(count)]

    def seed(self) -> int:
        return int(self._next() * 2**31)


def build_street(
    seed: int,
    style: str,
    weather: str,
    *,
    people: int = 8,
    signs: int = 0,
    parked: float = 0.35,
    far: tuple[str, float, float] | None = None,
) -> Street:
    """A street of about 120 m.

    Args:
        seed: everything random follows from it.
        style: "terrace", "suburb", "centre" or "avenue".
        weather: a key of `WEATHER`.
        people, signs: how many are placed; not all are seen in each frame.
        parked: share of the kerb that parked cars take.
        far: a kind ("person", "car" or "sign"), x and z of one more thing, drawn however small it is.
    """
    dice = Dice(seed)
    gap, storeys, lengths, greens, pitched, shops, walls = _STYLES[style]
    things = [Thing("skyline", 0.0, dice.between(105, 135), dice.seed())]
    for side in (-1, 1):
        z, was_gap, before = -12.0, False, 0.0
        while z < 122:
            length = dice.between(*lengths)
            if dice.chance(gap) and not was_gap:
                length, was_gap, before = dice.between(5, 11), True, 0.0
                things.append(
                    Thing(
                        "hedge",
                        side * WALL,
                        z,
                        dice.seed(),
                        look={"length": length, "top": dice.between(1.75, 2.3)},
                    )
                )
                for _ in range(2):
                    things.append(
                        _tree(
                            dice,
                            side * dice.between(9.5, 15),
                            z + dice.between(1, length - 1),
                            dice.between(0.9, 1.5),
                        )
                    )
            else:
                was_gap = False
                count = int(dice.between(storeys[0], storeys[1] + 1))
                look = {
                    "length": length, "top": count * 3.0 + dice.between(0.5, 1.2),
                    "color": dice.pick(walls), "bay": dice.between(2.0, 3.4),
                    "pane": dice.between(0.18, 0.3), "roof": dice.between(1.6, 3.0) if dice.chance(pitched) else 0.0,
                    "tiles": dice.pick(((120, 60, 50), (84, 84, 92), (140, 92, 66))), "shop": dice.chance(shops),
                    "brick": dice.chance(0.55), "trim": dice.pick(((226, 220, 208), (84, 78, 76), (196, 186, 170))),
                    "awning": dice.pick(_COATS), "before": before,
                }  # fmt: skip
                things.append(Thing("block", side * WALL, z, dice.seed(), look=look))
                before = look["top"]
            z += length
        z = dice.between(4, 12)
        while z < 70:
            if dice.chance(greens):
                things.append(_tree(dice, side * dice.between(5.5, 6.3), z, dice.between(0.65, 1.0)))
            z += dice.between(6, 11)
        z = dice.between(3, 12)
        while z < 75:
            if dice.chance(parked):
                things.append(_car(dice, side * 3.8, z, 0.0))
            z += dice.between(5.5, 8.5)
    step = dice.between(0.9, 1.3)
    if dice.chance(0.7):
        things.append(_car(dice, 1.6, dice.between(9, 22), step + dice.between(-0.25, 0.3)))
    for _ in range(2):
        things.append(_car(dice, -1.6, dice.between(16, 75), -dice.between(0.4, 1.1)))
    crossing = dice.between(20, 34)  # out of the camera's reach, so that nobody is run over
    for k in range(people):
        if k % 4 == 3:
            things.append(
                _person(
                    dice,
                    dice.between(-4.5, 1.5),
                    crossing + dice.between(0.6, 2.2),
                    dice.between(0.15, 0.4),
                    0.0,
                )
            )
        else:
            side = -1 if dice.chance(0.5) else 1
            things.append(
                _person(
                    dice, side * dice.between(5.0, 6.8), dice.between(5, 26), 0.0, dice.between(-0.3, 0.3)
                )
            )
    for _ in range(signs):
        side = 1 if dice.chance(0.7) else -1
        look = {
            "board": dice.pick(("stop", "round", "triangle", "square", "wide")),
            "top": dice.between(2.4, 3.0),
        }
        things.append(Thing("sign", side * 5.15, dice.between(8, 32), dice.seed(), look=look))
    if far:
        kind, x, z = far
        look = (
            _car(dice, x, z, 0.0).look | _person(dice, x, z, 0.0, 0.0).look
            if kind != "sign"
            else {"board": "stop", "top": 2.6}
        )
        things.append(Thing(kind, x, z, dice.seed(), look=look, keep=True))
    return Street(
        seed, weather, tuple(things), step, dice.between(1.2, 2.0), (dice.between(54, 74), dice.between(36, 43)),
        dice.between(-0.6, 0.6), -1 if dice.chance(0.5) else 1, crossing,
        dice.pick(((92, 92, 96), (104, 100, 96), (82, 86, 94))),
    )  # fmt: skip


def _tree(dice: Dice, x: float, z: float, size: float) -> Thing:
    shape = dice.pick(("round", "round", "tall", "cone"))
    blobs = [(0.0, 0.0, 1.7)] + [
        (dice.between(-1.1, 1.1), dice.between(-0.9, 1.1), dice.between(0.8, 1.3)) for _ in range(5)
    ]
    return Thing(
        "tree",
        x,
        z,
        dice.seed(),
        look={"size": size, "shape": shape, "blobs": blobs, "leaf": dice.pick(_LEAVES)},
    )


def _car(dice: Dice, x: float, z: float, vz: float) -> Thing:
    tall = 2.05 if dice.chance(0.2) else dice.between(1.4, 1.55)
    look = {"color": dice.pick(_CARS), "tall": tall, "front": x < 0, "length": 4.2 if tall < 2 else 5.0}
    return Thing("car", x, z, dice.seed(), vz=vz, look=look)


def _person(dice: Dice, x: float, z: float, vx: float, vz: float) -> Thing:
    look = {
        "tall": dice.between(1.75, 2.1),
        "coat": dice.pick(_COATS),
        "legs": dice.pick(((40, 44, 62), (86, 74, 60), (28, 28, 32))),
    }
    look |= {
        "skin": dice.pick(_SKINS),
        "hair": dice.pick(((40, 28, 22), (116, 78, 40), (180, 170, 160))),
        "bag": dice.chance(0.3),
    }
    return Thing("person", x, z, dice.seed(), vx=vx, vz=vz, look=look)
