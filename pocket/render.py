"""Draws the pocket world: a shot and a time in, a picture (and the characters' masks) out.

Drawn with PIL at four times the size and reduced, so edges are smooth; nothing here is random.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from .world import ACCESSORIES, ACTIONS, FPS, HEIGHT, MOVEMENTS, SHAPES, WIDTH, Actor, Layout, ShotSpec

SS = 4

Place = Callable[[float, float], tuple[float, float]]
"""Body units (x, y; y down) to pixels."""

INK = (38, 32, 46)
BODY = (
    (224, 52, 48), (245, 140, 35), (248, 216, 50), (60, 170, 70),
    (60, 205, 215), (50, 90, 220), (140, 70, 190), (250, 150, 195),
)  # fmt: skip
SKY = ((252, 222, 168), (44, 46, 96), (176, 220, 196), (146, 208, 248), (196, 214, 238), (22, 20, 40))
GROUND = ((222, 174, 102), (92, 90, 108), (104, 150, 78), (242, 222, 164), (246, 248, 252), (150, 150, 158))
SKY_X = (0.12, 0.37, 0.63, 0.88)
LAND_X = (0.1, 0.5, 0.9)
ACTOR_X = (0.29, 0.71)
ACTOR_HEIGHT = (0.6, 0.7, 0.8)
BACKGROUND_ZOOM = (1.0, 1.03, 1.06)
HORIZON = 0.6


class _Pen:
    """Draws in frame units (x, y in 0…1 of the width and height, sizes in heights) under a camera."""

    def __init__(self, draw: ImageDraw.ImageDraw, zoom: float, shift: float) -> None:
        self.draw, self.zoom, self.shift = draw, zoom, shift

    def point(self, x: float, y: float) -> tuple[float, float]:
        px = ((x - 0.5) * self.zoom + 0.5 + self.shift) * WIDTH * SS
        py = ((y - 0.8) * self.zoom + 0.8) * HEIGHT * SS
        return px, py

    def offset(self, centre: tuple[float, float], dx: float, dy: float) -> tuple[float, float]:
        scale = self.zoom * HEIGHT * SS
        return centre[0] + dx * scale, centre[1] + dy * scale

    def polygon(self, centre: tuple[float, float], points: list[tuple[float, float]], fill: tuple[int, ...]) -> None:
        pts = [self.offset(centre, dx, dy) for dx, dy in points]
        self.draw.polygon(pts, fill=fill, outline=INK, width=round(0.012 * HEIGHT * SS))

    def ellipse(
        self,
        centre: tuple[float, float],
        dx: float,
        dy: float,
        rx: float,
        ry: float,
        fill: tuple[int, ...],
        line: bool = True,
    ) -> None:
        x, y = self.offset(centre, dx, dy)
        r, s = rx * self.zoom * HEIGHT * SS, ry * self.zoom * HEIGHT * SS
        width = round(0.012 * HEIGHT * SS) if line else 0
        self.draw.ellipse((x - r, y - s, x + r, y + s), fill=fill, outline=INK if line else None, width=width)

    def box(
        self, centre: tuple[float, float], x0: float, y0: float, x1: float, y1: float, fill: tuple[int, ...]
    ) -> None:
        self.polygon(centre, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)


def _sky_object(pen: _Pen, place: int, slot: int) -> None:
    c = pen.point(SKY_X[slot], 0.15)
    if place in (0, 3):
        pen.ellipse(c, 0, 0, 0.1, 0.1, (255, 246, 170) if place == 3 else (255, 150, 70), line=False)
    elif place == 1:
        pen.ellipse(c, 0, 0, 0.1, 0.1, (240, 240, 214), line=False)
        pen.ellipse(c, 0.045, -0.02, 0.085, 0.085, SKY[1], line=False)
    elif place in (2, 4):
        for dx, r in ((-0.09, 0.065), (0.0, 0.09), (0.09, 0.065)):
            pen.ellipse(c, dx, 0, r, r * 0.8, (255, 255, 255), line=False)
    else:
        pen.ellipse(c, 0, 0, 0.11, 0.11, (70, 130, 220), line=False)
        pen.ellipse(c, -0.03, -0.02, 0.05, 0.04, (90, 180, 100), line=False)


def _first_landmark(pen: _Pen, place: int, slot: int) -> None:
    c = pen.point(LAND_X[slot], HORIZON + 0.06)
    green, wood = (52, 130, 62), (120, 82, 52)
    if place == 0:
        pen.box(c, -0.035, -0.36, 0.035, 0, green)
        pen.box(c, -0.12, -0.26, -0.07, -0.14, green)
        pen.box(c, -0.12, -0.17, -0.035, -0.12, green)
        pen.box(c, 0.07, -0.3, 0.12, -0.18, green)
        pen.box(c, 0.035, -0.21, 0.12, -0.16, green)
    elif place == 1:
        pen.box(c, -0.09, -0.44, 0.09, 0, (120, 112, 150))
        for y in (-0.38, -0.26, -0.14):
            for x in (-0.05, 0.02):
                pen.box(c, x, y, x + 0.035, y + 0.06, (255, 226, 110))
    elif place == 2:
        pen.box(c, -0.025, -0.16, 0.025, 0, wood)
        pen.ellipse(c, 0, -0.26, 0.14, 0.15, (46, 120, 66))
    elif place == 3:
        pen.polygon(c, [(-0.02, 0), (0.02, 0), (0.05, -0.3), (0.01, -0.3)], wood)
        for dx, dy in ((-0.16, -0.26), (0.2, -0.26), (-0.06, -0.42), (0.14, -0.42)):
            pen.polygon(c, [(0.03, -0.32), (dx, dy), ((dx + 0.03) / 2, dy - 0.07)], green)
    elif place == 4:
        for w, y in ((0.13, 0.0), (0.1, -0.13), (0.07, -0.25)):
            pen.polygon(c, [(-w, y), (w, y), (0, y - 0.18)], (40, 104, 90))
    else:
        pen.polygon(c, [(-0.06, 0), (0.06, 0), (0.06, -0.26), (0, -0.42), (-0.06, -0.26)], (226, 226, 236))
        pen.ellipse(c, 0, -0.22, 0.028, 0.028, (80, 190, 230))
        pen.polygon(c, [(-0.06, 0), (-0.06, -0.12), (-0.12, 0)], (220, 60, 60))
        pen.polygon(c, [(0.06, 0), (0.06, -0.12), (0.12, 0)], (220, 60, 60))


def _second_landmark(pen: _Pen, place: int, slot: int) -> None:
    c = pen.point(LAND_X[slot], HORIZON + 0.06)
    if place == 0:
        pen.polygon(c, [(-0.15, 0), (-0.11, -0.24), (0.09, -0.24), (0.14, 0)], (178, 92, 62))
    elif place == 1:
        pen.box(c, -0.12, -0.22, 0.12, 0, (176, 96, 84))
        pen.polygon(c, [(-0.15, -0.22), (0.15, -0.22), (0, -0.38)], (96, 48, 60))
        pen.box(c, -0.03, -0.12, 0.03, 0, (255, 226, 110))
    elif place == 2:
        pen.box(c, -0.035, -0.15, 0.035, 0, (244, 236, 220))
        pen.polygon(c, [(-0.14, -0.14), (0.14, -0.14), (0.08, -0.27), (-0.08, -0.27)], (214, 52, 52))
        pen.ellipse(c, -0.05, -0.19, 0.02, 0.02, (255, 255, 255), line=False)
        pen.ellipse(c, 0.05, -0.21, 0.02, 0.02, (255, 255, 255), line=False)
    elif place == 3:
        pen.polygon(c, [(-0.12, -0.07), (0.12, -0.07), (0.08, 0.0), (-0.08, 0.0)], (196, 60, 60))
        pen.polygon(c, [(0.0, -0.09), (0.0, -0.36), (0.12, -0.09)], (255, 255, 255))
    elif place == 4:
        pen.ellipse(c, 0, -0.07, 0.09, 0.09, (255, 255, 255))
        pen.ellipse(c, 0, -0.22, 0.065, 0.065, (255, 255, 255))
        pen.polygon(c, [(0, -0.22), (0.09, -0.2), (0, -0.19)], (245, 140, 35))
    else:
        pen.box(c, -0.012, -0.38, 0.012, 0, (230, 230, 230))
        pen.box(c, 0.012, -0.38, 0.17, -0.24, (240, 90, 60))


def _background(draw: ImageDraw.ImageDraw, layout: Layout, zoom: float, shift: float) -> None:
    pen = _Pen(draw, zoom, shift)
    place = layout.place
    horizon = pen.point(0, HORIZON)[1]
    draw.rectangle((0, 0, WIDTH * SS, HEIGHT * SS), fill=SKY[place])
    draw.rectangle((0, horizon, WIDTH * SS, HEIGHT * SS), fill=GROUND[place])
    if place == 3:
        draw.rectangle((0, horizon, WIDTH * SS, pen.point(0, HORIZON + 0.1)[1]), fill=(60, 140, 200))
    _sky_object(pen, place, layout.sky)
    _first_landmark(pen, place, layout.first)
    _second_landmark(pen, place, layout.second)


def _body_points(shape: str) -> list[tuple[float, float]]:
    """Outline around the body's centre, in units of the body's half size."""
    if shape == "square":
        return [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]
    if shape == "triangle":
        return [(0, -1.05), (1.1, 0.95), (-1.1, 0.95)]
    if shape == "star":
        spikes = []
        for k in range(10):
            r = 1.2 if k % 2 == 0 else 0.62
            a = -math.pi / 2 + k * math.pi / 5
            spikes.append((r * math.cos(a), r * math.sin(a) + 0.08))
        return spikes
    return [(math.cos(k * math.pi / 18), math.sin(k * math.pi / 18)) for k in range(36)]


def _accessory(draw: ImageDraw.ImageDraw, kind: str, place: Place, line: int) -> None:
    """`place` maps body units (x, y; y down, the top of the body at −1) to pixels."""
    if kind == "crown":
        pts = [(-0.62, -0.85), (-0.7, -1.6), (-0.32, -1.2), (0, -1.75), (0.32, -1.2), (0.7, -1.6), (0.62, -0.85)]
        draw.polygon([place(*p) for p in pts], fill=(255, 206, 40), outline=INK, width=line)
    elif kind == "hat":
        draw.polygon([place(*p) for p in ((-0.5, -0.9), (-0.5, -1.8), (0.5, -1.8), (0.5, -0.9))], fill=(48, 44, 60))
        draw.polygon(
            [place(*p) for p in ((-0.5, -1.05), (-0.5, -1.25), (0.5, -1.25), (0.5, -1.05))], fill=(210, 60, 60)
        )
        draw.polygon([place(*p) for p in ((-0.95, -0.8), (-0.95, -1.0), (0.95, -1.0), (0.95, -0.8))], fill=(48, 44, 60))
    elif kind == "scarf":
        pts = [(-1.0, 0.3), (1.0, 0.3), (1.0, 0.72), (0.55, 0.72), (0.62, 1.3), (0.2, 1.3), (0.15, 0.72), (-1.0, 0.72)]
        draw.polygon([place(*p) for p in pts], fill=(250, 250, 250), outline=INK, width=line)
    else:
        for s in (-1, 1):
            pts = [(0, -1.15), (s * 0.85, -1.7), (s * 0.85, -0.7)]
            draw.polygon([place(*p) for p in pts], fill=(236, 40, 120), outline=INK, width=line)
        knot = [place(-0.2, -1.38), place(0.2, -1.38), place(0.2, -0.95), place(-0.2, -0.95)]
        draw.polygon(knot, fill=(255, 235, 245), outline=INK, width=line)


def _pose(action: str, t: float) -> tuple[float, float, float, float, float, float]:
    """(dx in frame widths, lift in heights, tilt, left arm, right arm, leg swing) of an action at t seconds."""
    beat = 2 * math.pi * t
    if action == "waves":
        return 0, 0, 0, 0.9, -1.0 - 0.45 * math.sin(1.5 * beat), 0.0
    if action == "jumps":
        return 0, 0.13 * abs(math.sin(0.5 * beat + 0.9)), 0, -0.8, -0.8, 0.35
    if action == "walks":
        return 0.045 * (t - 0.5), 0.012 * abs(math.sin(beat)), 0, 0.55, 0.55, 0.75 * math.cos(beat)
    if action == "dances":
        return 0, 0, 0.28 * math.cos(beat), 0.0, 0.0, 0.3
    return 0, 0.008 * math.sin(0.5 * beat), 0, 0.95, 0.95, 0.0


def _actor(
    draws: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw],
    actor: Actor,
    scale: int,
    t: float,
    zoom: float,
    shift: float,
) -> None:
    """Draw one character on the picture and, in white, on its mask."""
    draw, mask = draws
    height = ACTOR_HEIGHT[scale]
    dx, lift, tilt, arm_l, arm_r, legs = _pose(ACTIONS[actor.action], t)
    feet = _Pen(draw, zoom, shift).point(ACTOR_X[actor.side] + dx, 0.94 - lift)
    unit = height * zoom * HEIGHT * SS / 3.5  # half body; legs below, accessory above
    centre = (feet[0], feet[1] - 1.5 * unit)
    cos, sin = math.cos(tilt), math.sin(tilt)
    line = max(1, round(0.07 * unit))
    limb = max(2, round(0.17 * unit))

    def place(x: float, y: float) -> tuple[float, float]:
        return centre[0] + unit * (x * cos - y * sin), centre[1] + unit * (x * sin + y * cos)

    for d, ink in ((mask, 255), (draw, INK)):
        for s in (-1, 1):
            d.line(
                (
                    place(0.4 * s, 0.8),
                    (feet[0] + unit * (0.4 * s + 0.4 * s * abs(legs) * (1 if legs >= 0 else -0.8)), feet[1]),
                ),
                fill=ink,
                width=limb,
            )
        for s, a in ((-1, arm_l), (1, arm_r)):
            d.line(
                (place(0.7 * s, 0.1), place(s * (0.7 + 0.75 * math.cos(a * 1.2)), 0.1 + 0.85 * math.sin(a * 1.2))),
                fill=ink,
                width=limb,
            )
    outline = [place(x, y) for x, y in _body_points(SHAPES[actor.look.shape])]
    draw.polygon(outline, fill=BODY[actor.look.colour], outline=INK, width=line)
    mask.polygon(outline, fill=255)
    for s in (-1, 1):
        x, y = place(0.3 * s, -0.12)
        r = 0.2 * unit
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255))
        draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=INK)
    _accessory(draw, ACCESSORIES[actor.look.accessory], place, line)
    _accessory_mask(mask, ACCESSORIES[actor.look.accessory], place)


def _accessory_mask(mask: ImageDraw.ImageDraw, kind: str, place: Place) -> None:
    x0, x1, y0, y1 = (-1.0, 1.0, 0.3, 1.2) if kind == "scarf" else (-0.9, 0.9, -1.8, -0.8)
    mask.polygon([place(x0, y0), place(x1, y0), place(x1, y1), place(x0, y1)], fill=255)


def camera(shot: ShotSpec, t: float) -> tuple[float, float]:
    """(zoom, horizontal shift in frame widths) of the shot's camera movement at t seconds."""
    movement = MOVEMENTS[shot.movement]
    if movement == "pan left":
        return 1.0, 0.03 * t
    if movement == "pan right":
        return 1.0, -0.03 * t
    if movement == "zoom in":
        return 1.0 + 0.06 * t, 0.0
    return 1.0, 0.0


def render(shot: ShotSpec, t: float = 0.0, scale: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw a shot at a time.

    Args:
        shot: ground truth.
        t: seconds from the start of the shot.
        scale: 1, or 2 or 4 times the size. It is one drawing at any scale: a small picture is the large one's mean over
            squares of pixels.

    Returns:
        (picture uint8 [80 · scale, 160 · scale, 3], character mask uint8 of its size, 255 inside a character).
    """
    picture = Image.new("RGB", (WIDTH * SS, HEIGHT * SS))
    mask = Image.new("L", (WIDTH * SS, HEIGHT * SS))
    draw, mask_draw = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    zoom, shift = camera(shot, t)
    # the background moves less than the characters: parallax
    _background(draw, shot.layout, BACKGROUND_ZOOM[shot.scale] * (1 + (zoom - 1) * 0.7), shift * 0.6)
    for actor in shot.actors:
        _actor((draw, mask_draw), actor, shot.scale, t, zoom, shift)
    return np.asarray(picture.reduce(SS // scale)), np.asarray(mask.reduce(SS // scale))


def render_clip(
    shot: ShotSpec, frames: int, fps: int = FPS, start: float = 0.0, scale: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draw consecutive frames: (uint8 [T, 80 · scale, 160 · scale, 3], masks uint8 of their size)."""
    pairs = [render(shot, start + k / fps, scale) for k in range(frames)]
    return np.stack([p for p, _ in pairs]), np.stack([m for _, m in pairs])
