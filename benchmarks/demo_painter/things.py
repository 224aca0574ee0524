"""The painters of what stands in the demo's streets, and `render`: a street and a frame number -> image and mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from canvas import (
    MIDDLE,
    NEAR,
    Canvas,
    Frame,
    Patch,
    develop,
    draw_ground,
    draw_sky,
    frac,
    smooth,
    speckle,
    tint,
)
from scenes import WALL, Street, Thing

SPECK = 20  # pixels: what stands in the street is left out where less of it would show, unless it is marked to be kept
# half the width and the height in metres, and how much of that rectangle the thing covers
_SMALL = {
    "car": (0.9, 1.5, 0.8),
    "person": (0.4, 1.9, 0.5),
    "sign": (0.65, 3.2, 0.35),
    "tree": (1.4, 5.5, 0.4),
}


def render(street: Street, frame: int, omit: tuple[int, ...] = (), scale: float = 1.0) -> Frame:
    """One frame of the drive down a street.

    Args:
        street: what stands where.
        frame: counted from 0; everything moves by it.
        omit: indices into `street.things` to leave out, as if they had never been there.
        scale: of the picture: 96 x 128 pixels at 1, 360 x 480 at 3.75. It is painted at that size, not enlarged.

    Things of which only a speck would show are left out of the image and the mask alike, unless they are `keep`.
    """
    while True:
        canvas = _draw(street, frame, omit, scale)
        middle = canvas.things[MIDDLE]
        counts = np.bincount(middle[middle >= 0], minlength=len(street.things))
        small = np.flatnonzero((counts > 0) & (counts < SPECK * scale * scale)).tolist()
        specks = [k for k in small if street.things[k].kind in _SMALL and not street.things[k].keep]
        if not specks:
            return develop(canvas)
        omit = (*omit, *specks)


def _hidden(canvas: Canvas, shown: list[tuple[bool, float, int]]) -> set[int]:
    """Things of which hardly anything can show, told by rectangles alone: drawing them only to find out costs time."""
    free, hidden = np.ones((canvas.height, canvas.width), bool), set()
    for _, behind, index in reversed(shown):
        thing = canvas.street.things[index]
        if thing.kind not in _SMALL:
            continue
        (half, tall, share), x = _SMALL[thing.kind], thing.x + thing.vx * canvas.frame
        patch = canvas.front(x - half, x + half, tall, -behind)
        low, right = -(-patch.rows.stop // 2), -(-patch.cols.stop // 2)
        part = (slice(patch.rows.start // 2, low), slice(patch.cols.start // 2, right))
        if (
            np.count_nonzero(free[part]) * share < 1.8 * SPECK * canvas.scale * canvas.scale
            and not thing.keep
        ):
            hidden.add(index)
        elif thing.kind != "tree":
            free[part] = False
    return hidden


def _draw(street: Street, frame: int, omit: tuple[int, ...], scale: float) -> Canvas:
    canvas = Canvas(street, frame, scale)
    shown = []
    for index, thing in enumerate(street.things):
        ahead, length = thing.z + thing.vz * frame - canvas.z, thing.look.get("length", 0.0)
        if index not in omit and ahead + length > NEAR:
            # What stands between the walls can hide no wall, and no wall can hide it: it is painted last.
            shown.append((abs(thing.x) < WALL and thing.kind != "skyline", -ahead, index))
    shown.sort()
    hidden = _hidden(canvas, shown)
    places = [(street.things[index], -behind, index) for _, behind, index in shown if index not in hidden]
    draw_sky(canvas)
    draw_ground(canvas, [(thing, ahead) for thing, ahead, _ in places])
    for thing, ahead, index in places:
        _PAINTERS[thing.kind](canvas, thing, thing.x + thing.vx * frame, ahead)
        canvas.claim(thing.class_id, index)
    return canvas


def _skyline(canvas: Canvas, thing: Thing, x: float, ahead: float) -> None:
    patch = canvas.front(-90.0, 90.0, 20.0, ahead)
    cell, zero = patch.x / 8.0, np.zeros((1, 1), np.float32)
    top = 6.0 + 11.0 * speckle(thing.seed, cell, zero)
    color = tint((150, 140, 136), 0.75 + 0.45 * speckle(thing.seed + 1, cell, zero))
    pane = (frac(patch.x / 2.0) < 0.5) & (frac(patch.y / 3.0) < 0.5)
    patch.fill(patch.y < top, color)
    lamps = (canvas.weather.lamps >= 1.0) & (speckle(thing.seed + 2, patch.x / 2.0, patch.y / 3.0) > 0.6)
    patch.fill(pane & (patch.y < top - 1.0) & ~lamps, color * 0.7)
    patch.fill(pane & (patch.y < top - 1.0) & lamps, (226, 184, 110), shine=True)


def _block(canvas: Canvas, thing: Thing, x: float, ahead: float) -> None:
    top, length = thing.look["top"] + thing.look["roof"], thing.look["length"]
    side = 1.0 if x > 0 else -1.0
    sunlit = (1.12 if side != canvas.street.sun else 0.74) if canvas.street.weather == "sunny" else 0.96
    faces = [(canvas.along(x, ahead, ahead + length, top), sunlit, None)]
    if thing.look["before"] < thing.look["top"]:  # otherwise the block before hides it
        faces.insert(
            0, (canvas.front(min(x, x + side * 9.0), max(x, x + side * 9.0), top, ahead), 0.9, x + side * 4.5)
        )
    for patch, light, gable in faces:
        if patch is not None:
            _facade(canvas, patch, thing, light, gable)


def _facade(canvas: Canvas, patch: Patch, thing: Thing, light: float, gable: float | None) -> None:
    look, seed, x, y = thing.look, thing.seed, patch.x, patch.y
    wall = (y >= 0) & (y < look["top"])
    if gable is not None:
        along_x = np.ones_like(x, bool)
        wall = (y >= 0) & (y < look["top"] + look["roof"] * (1.0 - np.abs(x - gable) / 4.5))
    else:
        along_x = (x >= thing.z) & (x < thing.z + look["length"])
        tiles = 0.86 + 0.3 * speckle(seed + 3, x / 0.5 + frac(np.floor(y / 0.3) / 2.0), y / 0.3) * patch.fine
        patch.fill(
            along_x & (y >= look["top"]) & (y < look["top"] + look["roof"]),
            tint(look["tiles"], tiles * light),
        )
    wall = wall & along_x
    tone = np.ones((1, 1), np.float32)
    if patch.covered.size > 600:  # nothing of it would be seen on smaller faces
        course, rough = np.floor(y / 0.3), 0.32 if look["brick"] else 0.1
        bricks = speckle(seed, x / 0.75 + frac(course / 2.0), course) - 0.5
        tone = tone + bricks * rough * np.minimum(1.0, patch.fine * 2.0)
        tone = tone - 0.1 * (smooth(seed + 4, x * 0.5, y * 0.35) - 0.3) - 0.1 * np.clip(1.0 - y, 0.0, 1.0)
    patch.fill(wall, tint(look["color"], tone * light))
    bay, storey = x / look["bay"], (y - 0.3) / 3.0
    across, up = frac(bay) - 0.5, frac(storey)
    upper = wall & (y < look["top"] - 0.5) & (y > (3.3 if look["shop"] else 0.5))
    frame = upper & (np.abs(across) < look["pane"] + 0.06) & (up > 0.2) & (up < 0.86)
    patch.fill(frame, tint(look["trim"], light))
    bars = (np.abs(across) < 0.025) | (np.abs(up - 0.56) < 0.02)
    pane = frame & (np.abs(across) < look["pane"]) & (up > 0.26) & (up < 0.8) & ~bars
    spark = speckle(seed + 5, bay, storey)
    glass = tint((96, 112, 128), light * (0.5 + 0.75 * spark + 0.25 * up))
    home = (spark > 0.62) & (canvas.weather.lamps > 0.3)
    patch.fill(pane & ~home, glass)
    patch.fill(pane & home, tint((255, 206, 120), 0.6 + 0.4 * spark), shine=True)
    if look["shop"]:
        front = wall & (y > 0.4) & (y < 2.5) & (np.abs(across) < 0.44)
        lamps = canvas.weather.lamps > 0.3
        goods = 0.55 + 0.6 * speckle(seed + 6, x / 0.5, y / 0.6)
        patch.fill(front, tint((250, 216, 150) if lamps else (88, 98, 108), goods), shine=lamps)
        stripes = np.where(frac(x) < 0.5, tint(look["awning"], light), tint((236, 232, 224), light))
        patch.fill(wall & (y > 2.5) & (y < 3.2), stripes)
    if look["roof"] == 0.0:
        patch.fill(wall & (y > look["top"] - 0.4), tint(look["trim"], 0.92 * light))


def _hedge(canvas: Canvas, thing: Thing, x: float, ahead: float) -> None:
    patch = canvas.along(x, ahead, ahead + thing.look["length"], thing.look["top"] + 0.2)
    leaves = speckle(thing.seed, patch.x / 0.14, patch.y / 0.14)
    clumps = smooth(thing.seed + 1, patch.x * 2.0, patch.y * 2.0)
    top = thing.look["top"] + 0.3 * (clumps - 0.5)
    where = (
        (patch.x >= thing.z) & (patch.x < thing.z + thing.look["length"]) & (patch.y >= 0) & (patch.y < top)
    )
    light = 0.62 + 0.2 * patch.y / 2.0 + 0.45 * clumps + 0.35 * (leaves - 0.5) * patch.fine
    patch.fill(where, tint((64, 106, 52), light))


def _tree(canvas: Canvas, thing: Thing, x: float, ahead: float) -> None:
    look, size = thing.look, thing.look["size"]
    trunk, crown = 2.0 * size + 0.4, 4.4 * size + 0.4
    patch = canvas.front(x - 3.2 * size, x + 3.2 * size, crown + 3.4 * size, ahead)
    dx, y = patch.x - x, patch.y
    bark = 0.8 + 0.35 * speckle(thing.seed, dx / 0.1, y / 0.5)
    wide = 0.17 * size + 0.04 / (0.3 + np.maximum(y, 0.0))
    patch.fill((np.abs(dx) < wide) & (y >= 0) & (y < crown), tint((92, 72, 56), bark))
    px, py = dx / size, (y - crown) / size
    if look["shape"] == "cone":
        body = np.minimum((2.9 - py) / 5.2 * 1.9 - np.abs(px), (py + 2.1) * 1.5) * 0.9
    else:
        wide, body = (0.62, None) if look["shape"] == "tall" else (1.0, None)
        for bx, by, r in look["blobs"]:
            qx, qy = (px - bx * wide) / (r * wide), (py - by) / r
            blob = 1.0 - (qx * qx + qy * qy)
            body = blob if body is None else np.maximum(body, blob)
    clumps = smooth(thing.seed + 1, px * 2.4 + 50.0, py * 2.4 + 50.0)
    leaves = speckle(thing.seed + 2, px / 0.11, py / 0.11)
    light = 0.62 + 0.14 * np.clip(py, -2.0, 2.0) + 0.62 * clumps + 0.4 * (leaves - 0.5) * patch.fine
    if canvas.street.weather == "sunny":
        light = light + 0.16 * np.clip(px * canvas.street.sun, -1.0, 1.0)
    ragged = body + (clumps - 0.5) * 0.7 + (leaves - 0.5) * 0.25
    patch.fill((ragged > 0.02) & (y > trunk * 0.75), tint(look["leaf"], light))


def _car(canvas: Canvas, thing: Thing, x: float, ahead: float) -> None:
    look = thing.look
    paint, tall, length = look["color"], look["tall"], look["length"]
    glass, van = (52, 62, 74), tall > 2.0
    side = x - 0.9 if x > canvas.street.eye_x else x + 0.9
    patch = canvas.along(side, ahead, ahead + length, tall)
    a, y = patch.x - canvas.z - ahead, patch.y
    a = length - a if look["front"] else a  # 0 at the boot
    lean = (y - 0.9) * 0.75
    body = (y > 0.3) & (y < 0.92 - 0.012 * a * a) & (a >= 0) & (a <= length)
    cabin = (y >= 0.85) & (y < tall) & (a >= 0) & (a < (length - 0.6 if van else 3.1) - lean)
    patch.fill(body | cabin, tint(paint, 0.66 + 0.22 * np.clip(y, 0.0, 1.2)))
    pane = cabin & (y > 0.96) & (y < tall - 0.12) & (a > 0.3) & (a < length - 1.35 - lean)
    patch.fill(pane & (np.abs(a - 1.7) > 0.08), tint(glass, 0.8 + 0.5 * (y - 0.9)))
    for hub in (0.8, length - 0.85):
        wheel = (a - hub) * (a - hub) + (y - 0.32) * (y - 0.32)
        patch.fill((wheel < 0.115) & (y >= 0), (26, 26, 30))
        patch.fill(wheel < 0.03, (150, 152, 156))
    patch = canvas.front(x - 0.92, x + 0.92, tall, ahead)
    off, y = np.abs(patch.x - x), patch.y
    patch.fill((off > 0.55) & (off < 0.86) & (y >= 0) & (y < 0.45), (24, 24, 28))
    shell = (y > 0.28) & (y < 0.95) & (off < 0.91)
    cabin = (y >= 0.9) & (y < tall) & (off < 0.91 - (0.0 if van else 0.16) * (y - 0.9))
    patch.fill(shell | cabin, tint(paint, 0.72 + 0.3 * np.clip(y - 0.2, 0.0, 1.2)))
    pane = cabin & (y > 1.0) & (y < tall - 0.1) & (off < 0.76 - 0.2 * (y - 0.9))
    patch.fill(pane, tint(glass, 0.75 + 0.6 * (y - 0.9)))
    patch.fill((y > 0.28) & (y < 0.42) & (off < 0.9), (46, 46, 50))
    patch.fill((off < 0.27) & (y > 0.46) & (y < 0.6), (228, 226, 210))
    lamp, on = (0.62, 0.78) if look["front"] else (0.68, 0.88), canvas.weather.lamps > 0.3
    color = (
        ((255, 246, 214) if on else (232, 232, 226))
        if look["front"]
        else ((255, 56, 40) if on else (170, 28, 30))
    )
    patch.fill((off > 0.6) & (off < 0.86) & (y > lamp[0]) & (y < lamp[1]), color, shine=on)


def _person(canvas: Canvas, thing: Thing, x: float, ahead: float) -> None:
    look, tall = thing.look, thing.look["tall"] / 1.75
    patch = canvas.front(x - 0.8, x + 0.8, thing.look["tall"] + 0.02, ahead)
    dx, y = (patch.x - x) / (tall * 1.15), patch.y / tall  # a little stout: miniature people
    stride = (0.2, 0.1, 0.04, 0.13)[(canvas.frame + thing.seed) % 4]
    for way in (-1.0, 1.0):
        leg = np.abs(dx - way * (0.07 + stride * (0.85 - y))) < 0.105
        patch.fill(leg & (y >= 0) & (y < 0.88), tint(look["legs"], 1.0 + 0.12 * way))
        arm = np.abs(dx - way * (0.29 + 0.25 * stride * (1.4 - y))) < 0.075
        patch.fill(arm & (y > 0.75) & (y < 1.4), tint(look["coat"], 0.78))
    coat = (np.abs(dx) < 0.27 - 0.05 * (1.4 - y)) & (y > 0.78) & (y < 1.46)
    patch.fill(
        coat, tint(look["coat"], 0.8 + 0.25 * y / 1.4 + np.float32(0.12 * canvas.street.sun) * (dx > 0))
    )
    if look["bag"]:
        patch.fill((np.abs(dx - 0.36) < 0.11) & (y > 0.55) & (y < 0.85), (92, 58, 40))
    head = dx * dx + (y - 1.59) * (y - 1.59)
    patch.fill(head < 0.026, tint(look["skin"], 0.95))
    patch.fill((head < 0.03) & (y > 1.63 - 0.2 * np.abs(dx)), look["hair"])


def _sign(canvas: Canvas, thing: Thing, x: float, ahead: float) -> None:
    board, top = thing.look["board"], thing.look["top"]
    patch = canvas.front(x - 1.5, x + 1.5, top + 1.0, ahead)
    dx, dy = (patch.x - x) / 1.25, (patch.y - top) / 1.25
    off, away = np.abs(dx), np.abs(dy)
    patch.fill((off < 0.075) & (patch.y >= 0) & (dy < 0.2), (132, 134, 138))
    if board == "wide":
        patch.fill((off < 1.0) & (away < 0.55), (238, 238, 236))
        patch.fill((off < 0.93) & (away < 0.48), (28, 84, 158))
        patch.fill((off < 0.7) & (np.abs(away - 0.2) < 0.07), (238, 238, 236))
    elif board == "square":
        patch.fill((off < 0.5) & (away < 0.5), (32, 92, 176))
        patch.fill((off < 0.14) & (away < 0.34), (238, 238, 236))
    elif board == "triangle":
        patch.fill((off < (0.58 - dy) * 0.58) & (dy > -0.5), (198, 32, 36))
        patch.fill((off < (0.3 - dy) * 0.56) & (dy > -0.34), (240, 238, 228))
    else:
        disc = (
            np.maximum(np.maximum(off, away), (off + away) * 0.72)
            if board == "stop"
            else (dx * dx + dy * dy) / 0.5
        )
        patch.fill(disc < 0.52, (198, 32, 36))
        patch.fill((away < 0.1) & (off < 0.36) if board == "stop" else disc < 0.24, (240, 238, 232))


_PAINTERS: dict[str, Callable[[Canvas, Thing, float, float], None]] = {
    "skyline": _skyline, "block": _block, "hedge": _hedge, "tree": _tree, "car": _car, "person": _person, "sign": _sign,
}  # fmt: skip
