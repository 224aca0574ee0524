"""The canvas of the demo's street scenes: samples, random textures, sky, ground, light and the camera.

Whatever stands in a street is an upright plane, so a pixel's ray meets it in one division: perspective, occlusion
(far things first) and textures that stay on their walls from frame to frame come from that. Samples lie half a pixel
apart; an image averages 3 x 3 of them around each pixel's middle, a mask takes the middle one alone: soft edges in the
image, crisp ones in the mask.

The pixels are the same everywhere: float32 meets + - * / and floor only, element by element, which IEEE 754 rounds the
same on every machine; what is summed is summed in integers; there is no sin, exp or float sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scenes import (
    EYE,
    HEIGHT,
    KERB,
    PAVEMENT,
    ROAD,
    SKY,
    UNSCORED,
    WALL,
    WEATHER,
    WIDTH,
    Color,
    Dice,
    Street,
    Thing,
)

_FOCAL = 200.0  # samples, at a scale of 1
NEAR, _FAR = 0.8, 2000.0  # metres
MIDDLE = (slice(1, None, 2), slice(1, None, 2))
_PX, _PY = 0x85EBCA6B, 0xC2B2AE35
_TABLE = np.array(Dice(1).many(4096), np.float32)


@dataclass(frozen=True)
class Frame:
    """`image` (H, W, 3) uint8 RGB; `mask` (H, W) uint8 stored ids; `things` (H, W) int16, -1 for none. 96 x 128 by default."""

    image: np.ndarray
    mask: np.ndarray
    things: np.ndarray


def _cell(position: np.ndarray, factor: int) -> np.ndarray:
    return np.floor(position).astype(np.int32).view(np.uint32) * np.uint32(factor)


def _drawn(seed: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _TABLE[
        ((a ^ b ^ np.uint32(seed * 2654435761 & 0xFFFFFFFF)) * np.uint32(0x9E3779B1)) >> np.uint32(20)
    ]


def speckle(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each cell of the integer grid that x and y lie in, as if drawn at random; float32."""
    return _drawn(seed, _cell(x, _PX), _cell(y, _PY))


def smooth(seed: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`speckle` smoothly interpolated between the corners of its cells: clouds, stains, leaves."""
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    a, b = _cell(x0, _PX), _cell(y0, _PY)
    a1, b1 = a + np.uint32(_PX), b + np.uint32(_PY)
    top, low = _drawn(seed, a, b), _drawn(seed, a, b1)
    top = top + (_drawn(seed, a1, b) - top) * fx
    low = low + (_drawn(seed, a1, b1) - low) * fx
    return top + (low - top) * fy


def bell(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Roughly normal noise (a sum of four uniforms, as integers) of mean 0 and deviation 1; float32 of `shape`."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape))).reshape(shape)
    total = sum((raw >> np.uint64(16 * k)) & np.uint64(0xFFFF) for k in range(4))
    return (total.astype(np.float32) - 131070.0) * np.float32(1.7320508 / 65536.0)


def frac(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


def tint(color: Color, factor: np.ndarray | float) -> np.ndarray:
    """(3, ...) float32: `color` times a factor an element."""
    return np.asarray(color, np.float32)[:, None, None] * factor


class Canvas:
    """Samples of one frame: colour, depth in metres, class, thing and whether it shines by itself.

    Sample k lies at k / 2 pixels: the middle of pixel i is sample 2 i + 1.
    """

    def __init__(self, street: Street, frame: int, scale: float = 1.0) -> None:
        self.street, self.frame, self.weather, self.scale = street, frame, WEATHER[street.weather], scale
        self.height, self.width, self.focal = round(HEIGHT * scale), round(WIDTH * scale), _FOCAL * scale
        self.rows, self.cols = 2 * self.height + 1, 2 * self.width + 1
        self.z = street.step * frame
        jolt = Dice(street.seed * 101 + frame).between(-0.4, 0.4)
        self.vx = (street.vanish[0] + street.turn * frame) * (2.0 * scale)
        self.vy = (street.vanish[1] + jolt) * (2.0 * scale)
        self.below = int(np.floor(self.vy)) + 1  # the first row below the horizon
        self.rgb = np.zeros(
            (3, self.rows, self.cols), np.float32
        )  # planes: loops over a last axis of 3 are slow
        self.depth = np.full((self.rows, self.cols), _FAR, np.float32)
        self.ids = np.zeros((self.rows, self.cols), np.uint8)
        self.things = np.full((self.rows, self.cols), -1, np.int16)
        self.shining = np.zeros((self.rows, self.cols), bool)
        # How far a ray goes to the right, and down, for a metre ahead: (1, columns) and (rows, 1).
        self.u = ((np.arange(self.cols) - self.vx)[None, :] / self.focal).astype(np.float32)
        self.v = ((np.arange(self.rows) - self.vy)[:, None] / self.focal).astype(np.float32)
        self._open: list[Patch] = []

    def front(self, x0: float, x1: float, top: float, ahead: float) -> Patch:
        """The plane across the street from `x0` to `x1`, `ahead` metres from the eye; empty if out of sight."""
        eye, rows, cols = self.street.eye_x, slice(0, 0), slice(0, 0)
        if ahead >= NEAR:
            cols = _span(
                (x0 - eye) / ahead * self.focal + self.vx,
                (x1 - eye) / ahead * self.focal + self.vx,
                self.cols,
            )
            rows = self._rows(top, ahead)
        return self._patch(rows, cols, eye + self.u[:, cols] * ahead, ahead)

    def along(self, x: float, z0: float, z1: float, top: float) -> Patch:
        """The plane along the street at `x`, `z0` to `z1` metres from the eye; its patch's x is the way along."""
        side, z0, rows, cols = x - self.street.eye_x, max(z0, NEAR), slice(0, 0), slice(0, 0)
        if z1 > z0 and abs(side) > 0.05:
            cols = _span(
                *sorted((side / z0 * self.focal + self.vx, side / z1 * self.focal + self.vx)), self.cols
            )
            rows = self._rows(top, z0)
        ahead = side / self.u[:, cols]
        return self._patch(rows, cols, ahead + self.z, ahead)

    def _rows(self, top: float, ahead: float) -> slice:
        return _span(
            (EYE - top) / ahead * self.focal + self.vy, EYE / ahead * self.focal + self.vy, self.rows
        )

    def _patch(self, rows: slice, cols: slice, x: np.ndarray, ahead: np.ndarray | float) -> Patch:
        self._open.append(Patch(self, rows, cols, x, EYE - self.v[rows] * ahead, ahead))
        return self._open[-1]

    def claim(self, class_id: int, index: int) -> None:
        """All that was filled since the last claim belongs to this class and thing."""
        for patch in self._open:
            for layer, value in ((self.ids, class_id), (self.things, index), (self.depth, patch.ahead)):
                np.copyto(layer[patch.rows, patch.cols], value, where=patch.covered, casting="unsafe")
        self._open.clear()


def _span(low: float, high: float, size: int) -> slice:
    start = max(0, int(np.floor(low)))
    return slice(start, max(start, min(size, int(np.floor(high)) + 1)))


@dataclass
class Patch:
    """A rectangle of the canvas that one plane fills, with that plane's coordinates `x` and `y` in metres."""

    canvas: Canvas
    rows: slice
    cols: slice
    x: np.ndarray
    y: np.ndarray
    ahead: np.ndarray | float

    def __post_init__(self) -> None:
        self.shape = (self.rows.stop - self.rows.start, self.cols.stop - self.cols.start)
        self.covered = np.zeros(self.shape, bool)
        # Textures fade with distance, before they alias. An array, never a number: numpy versions disagree on whether
        # float32 times a float64 number is float32.
        self.fine = 1.0 / (
            1.0 + np.asarray(self.ahead, np.float32).reshape(1, -1) / (14.0 * self.canvas.scale)
        )

    def fill(self, where: np.ndarray, color: Color | np.ndarray, shine: bool = False) -> None:
        if isinstance(color, tuple):
            color = np.array(color, np.float32)[:, None, None]
        np.copyto(self.canvas.rgb[:, self.rows, self.cols], color, where=where)
        np.copyto(self.canvas.shining[self.rows, self.cols], shine, where=where)
        self.covered |= where


def draw_sky(canvas: Canvas) -> None:
    air, rows = canvas.weather, slice(0, min(canvas.rows, int(canvas.vy) + 6))
    height = np.clip(-canvas.v[rows] * 2.2, 0.0, 1.0)
    height = height * (2.0 - height)
    color = tint(air.horizon, 1.0 - height) + tint(air.zenith, height)
    up = 1.0 / (
        0.12 - np.minimum(canvas.v[rows], 0.0)
    )  # clouds lie on a ceiling: they crowd towards the horizon
    seed, x = canvas.street.seed + 11, canvas.u * up * 1.6
    cover = smooth(seed, x, up * 2.2) * 0.65 + smooth(seed + 1, x * 2.7, up * 6.0) * 0.35
    cover = np.clip((cover - 0.5) * 4.0, 0.0, 1.0) * air.clouds
    bright = tint(air.horizon, 0.55) + tint(air.zenith, 0.5)
    if canvas.street.weather == "sunny":
        bright = tint((252, 248, 244), 1.0)
    color = color * (1.0 - cover) + bright * cover
    if canvas.street.weather == "night":
        stars = speckle(seed + 2, canvas.u * 120.0, canvas.v[rows] * 120.0) > 0.997
        color = np.where(stars, np.float32(170.0), color)
    canvas.rgb[:, rows] = color
    canvas.shining[rows] = True
    canvas.ids[rows] = SKY


def draw_ground(canvas: Canvas, shown: list[tuple[Thing, float]]) -> None:
    street, air = canvas.street, canvas.weather
    rows = slice(canvas.below, canvas.rows)
    ahead = np.minimum(EYE / canvas.v[rows], _FAR)  # (rows, 1)
    z = ahead + canvas.z
    x = street.eye_x + canvas.u * ahead
    away, fine = np.abs(x), 1.0 / (1.0 + ahead / (9.0 * canvas.scale))
    road = away < KERB
    grain = (speckle(street.seed + 21, x * 14.0, z * 10.0) - 0.5) * 0.3 * fine
    stains = (smooth(street.seed + 22, x * 0.7, z * 0.25) - 0.5) * 0.22
    worn = np.clip(1.0 - np.abs(np.abs(away - 1.6) - 0.8) * 2.5, 0.0, 1.0) * -0.06  # two tracks in each lane
    color = tint(street.asphalt, 1.0 + grain + stains + worn)
    slab = speckle(street.seed + 23, x / 0.9, z / 0.9) * 0.14 + grain * 0.7
    joint = (frac(x / 0.9) < 0.08) | (frac(z / 0.9) < 0.08)
    paving = tint((168, 160, 148), 0.92 + slab - np.float32(0.22) * joint * np.minimum(1.0, fine * 1.6))
    color = np.where(road, color, paving)
    paint = ((away < 0.08) & (frac(z / 6.0) < 0.5)) | ((away > 2.82) & (away < 2.94))
    paint |= (z > street.crossing) & (z < street.crossing + 3.0) & (away < KERB - 0.3) & (frac(x) < 0.52)
    color = np.where(paint & road, 214.0 + 60.0 * grain, color)
    color = np.where((away >= KERB) & (away < KERB + 0.28), tint((196, 192, 184), 1.0 + grain), color)
    color = np.where((away >= KERB - 0.18) & road, color * 0.72, color)  # the gutter
    shade = np.ones(color.shape[1:], np.float32)
    for thing, near in shown:
        _shadow(canvas, shade, x, ahead, thing, near)
    canvas.rgb[:, rows] = color * shade
    canvas.ids[rows] = np.where(road, ROAD, PAVEMENT)
    canvas.depth[rows] = ahead
    canvas.shining[rows] = False
    if air.lamps >= 1.0:  # pools of lamp light, every 14 m on both sides
        pool = 1.0 - np.abs(frac(z / 14.0) - 0.5) * 3.5 - np.abs(away - 4.6) * 0.3
        glow = np.clip(pool, 0.0, 1.0) * (air.lamps * 0.75)
        canvas.rgb[:, rows] *= 1.0 + tint((1.67, 1.28, 0.67), glow)


# half the width, the length and the height of what lies in shadow under and beside a thing
_SHADOWS = {
    "car": (1.05, 4.4, 1.5),
    "person": (0.35, 0.5, 1.7),
    "tree": (1.5, 2.6, 3.0),
    "sign": (0.2, 0.3, 2.0),
}


def _shadow(
    canvas: Canvas, shade: np.ndarray, x: np.ndarray, ahead: np.ndarray, thing: Thing, near: float
) -> None:
    """Darken the ground under and beside a thing: a sharp shadow in the sun, a soft one where it stands otherwise."""
    sun, sunny, at = canvas.street.sun, canvas.street.weather == "sunny", thing.x + thing.vx * canvas.frame
    if thing.kind == "block" and sunny and at * sun > 0:
        far = near + thing.look["length"]
        part = _ground_rows(canvas, near, far)
        dark = (x[part] * sun > WALL - thing.look["top"] * 0.62) & (ahead[part] > near) & (ahead[part] < far)
        shade[part] = np.where(dark, canvas.weather.shade, shade[part])
    if thing.kind not in _SHADOWS or near > 60:
        return
    half, length, tall = _SHADOWS[thing.kind]
    part = _ground_rows(canvas, near - 1.0, near + length + 1.0)
    end = at - sun * tall * (0.75 if sunny else 0.0)
    left, right = min(at, end) - half, max(at, end) + half
    dx = (x[part] - (left + right) / 2) / ((right - left) / 2)
    dz = (ahead[part] - near - length / 2) / (length / 2 + 0.35)
    inside = dx * dx + dz * dz
    dark = canvas.weather.shade if sunny else 1.0 - 0.42 * np.clip(1.3 - inside, 0.0, 1.0)
    shade[part] = np.where(inside < 1.0, np.minimum(shade[part], dark), shade[part])


def _ground_rows(canvas: Canvas, near: float, far: float) -> slice:
    """The rows from `near` to `far` metres ahead, counted from the first below the horizon."""
    low = canvas.rows if near <= NEAR else int(np.floor(canvas.vy + EYE / near * canvas.focal)) + 2
    high = int(np.floor(canvas.vy + EYE / max(far, NEAR) * canvas.focal)) - 1
    return slice(max(0, high - canvas.below), max(0, min(canvas.rows, low) - canvas.below))


def develop(canvas: Canvas) -> Frame:
    """Light, wet road, air, bonnet and camera: the samples become a frame."""
    air, rgb, seed = canvas.weather, canvas.rgb, canvas.street.seed
    if air.wet:
        _reflect(canvas)
    light = tint(air.light, 1.0)
    if air.lamps >= 1.0:  # the beam of our own headlights
        ahead = np.minimum(canvas.depth, 400.0)
        across = canvas.u * ahead - 0.3
        beam = air.lamps * 0.55 / (1.0 + across * across / 9.0) / (1.0 + ahead * ahead / 250.0)
        light = light + tint((1.0, 0.94, 0.8), beam)
    rgb = np.where(canvas.shining, rgb, rgb * light)
    veil = np.where(canvas.ids == SKY, np.float32(0.0), canvas.depth / (canvas.depth + air.veil_at))
    rgb = rgb + (tint(air.veil, 1.0) - rgb) * veil
    bonnet = _bonnet(canvas, rgb)
    # Integers before averaging: their sum is the same in any order, which a sum of floats is not.
    fixed = (np.clip(rgb, 0.0, 255.0) * 64.0).astype(np.int32)
    fixed = fixed[:, :-2:2] + 2 * fixed[:, 1::2] + fixed[:, 2::2]
    fixed = fixed[:, :, :-2:2] + 2 * fixed[:, :, 1::2] + fixed[:, :, 2::2]
    image = fixed.astype(np.float32) / (64.0 * 16.0)
    rows = np.arange(canvas.height, dtype=np.float32)[:, None]
    cols = np.arange(canvas.width, dtype=np.float32)[None, :]
    if canvas.street.weather == "rain":
        streaks = (
            speckle(seed + 41 + canvas.frame, cols / canvas.scale, (rows + cols * 3.0) / (9.0 * canvas.scale))
            > 0.965
        )
        image = np.where(streaks, image * 0.84 + 32.0, image)
    dx, dy = cols / canvas.width - 0.5, rows / canvas.height - 0.5
    image = image * (1.0 - 0.28 * (dx * dx + dy * dy))  # vignette
    image = image + air.noise * bell(seed * 131 + canvas.frame * 17, image.shape)
    mask = np.where(bonnet[MIDDLE], UNSCORED, canvas.ids[MIDDLE]).astype(np.uint8)
    things = np.where(bonnet[MIDDLE], -1, canvas.things[MIDDLE]).astype(np.int16)
    image = np.floor(np.clip(image, 0.0, 255.0) + 0.5).astype(np.uint8)
    return Frame(np.ascontiguousarray(image.transpose(1, 2, 0)), mask, things)  # (3, H, W) -> (H, W, 3)


def _reflect(canvas: Canvas) -> None:
    """Wet ground mirrors what stands above the horizon, a little rippled."""
    start = canvas.below
    rows, cols = np.arange(start, canvas.rows)[:, None], np.arange(canvas.cols)[None, :]
    ripple = (
        speckle(canvas.street.seed + 31, rows / (2.0 * canvas.scale), cols / (6.0 * canvas.scale)) * 8.0 - 4.0
    ) * canvas.scale
    mirror = np.clip(2 * start - rows + np.floor(ripple).astype(np.int64), 0, canvas.rows - 1)
    amount = np.zeros(8, np.float32)
    amount[[ROAD, PAVEMENT]] = canvas.weather.wet, canvas.weather.wet / 2
    below = canvas.rgb[:, start:]
    below += (canvas.rgb[:, mirror, cols] - below) * amount[canvas.ids[start:]]


def _bonnet(canvas: Canvas, rgb: np.ndarray) -> np.ndarray:
    """Paint the bonnet of the camera's car along the lower edge into `rgb`; returns where it is, (rows, cols) bool."""
    x = (np.arange(canvas.cols, dtype=np.float32) / canvas.width - 1.0)[None, :]
    low = np.arange(canvas.rows, dtype=np.float32)[::-1][:, None]
    deep = round(16 * canvas.scale)
    height = 15.0 * canvas.scale * (1.0 - 0.75 * x * x)
    where = low < height
    color = ((70, 30, 34), (36, 48, 70), (66, 68, 72))[canvas.street.seed % 3]
    gloss = (0.45 + 0.55 * np.minimum(low[-deep:] / height, 1.0) - 0.12 * np.abs(x)) * 1.25
    part = slice(canvas.rows - deep, canvas.rows)
    np.copyto(rgb[:, part], tint(color, gloss) * tint(canvas.weather.light, 1.0) + 18.0, where=where[part])
    return where
