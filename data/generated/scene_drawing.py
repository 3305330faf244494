"""Road scenes drawn with their labels: the same kinds of streets by day and at dusk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch

from data.generated.scene_canvas import CAMERA, FAR, LOOKS, Canvas, Dice

__all__ = ["Domain", "draw_scene"]

Domain = Literal["day", "dusk"]
Thing = tuple[float, Callable[[], None]]  # its distance, and what paints it

ROAD, PAVEMENT = 4.0, 6.5  # half widths, in metres
NEAR = 1.2  # of what lies on the ground


def draw_scene(
    domain: Domain, *, width: int, height: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A street.

    Args:
        domain: whose colours, texture and light.
        width, height: in pixels.
        generator: decides everything.

    Returns:
        Image uint8 (H, W, 3) and Cityscapes label ids uint8 (H, W).
    """
    canvas = Canvas(width, height, LOOKS[domain], Dice(generator))
    _ground_and_sky(canvas)
    things = [*_skyline(canvas), *_sides(canvas), *_furniture(canvas), *_traffic(canvas)]
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    _bonnet(canvas)
    return canvas.finished()


def _ground_and_sky(canvas: Canvas) -> None:
    sky = canvas.shade("sky")
    canvas.upright(0, FAR, 40 * FAR, (-10 * FAR, 10 * FAR), "sky", sky)
    steps = 24
    for i in range(steps):  # brighter towards the horizon
        light = [c + (255 - c) * 0.5 * i / steps for c in sky]
        top = 0.7 * FAR * (1 - i / steps)
        canvas.upright(0, FAR, 40 * FAR, (-FAR, top), None, (light[0], light[1], light[2]))
    _strip(canvas, -60 * FAR, 60 * FAR, "terrain")
    _strip(canvas, -PAVEMENT, PAVEMENT, "sidewalk")
    _strip(canvas, -ROAD, ROAD, "road")
    mark = (214.0, 212.0, 200.0)
    for i in range(20):
        near = 2.0 + 6 * i
        points = [(-0.08, 0, near), (0.08, 0, near), (0.08, 0, near + 3), (-0.08, 0, near + 3)]
        canvas.polygon(points, None, mark)


def _strip(canvas: Canvas, left: float, right: float, name: str) -> None:
    points = [(left, 0, NEAR), (right, 0, NEAR), (right, 0, FAR), (left, 0, FAR)]
    canvas.polygon(points, name, canvas.shade(name))


def _skyline(canvas: Canvas) -> Iterator[Thing]:
    """Houses and trees at the end of the street."""
    dice = canvas.dice
    for _ in range(14):
        x, high = dice.uniform(-110, 110), dice.uniform(4, 22)
        name = "building" if dice.chance(0.5) else "vegetation"
        span = dice.uniform(8, 26)
        colour = canvas.shade(name)
        yield FAR, partial(canvas.upright, x, FAR - 1, span, (0, high), name, colour)


def _sides(canvas: Canvas) -> Iterator[Thing]:
    """Facades, walls, fences, hedges and gaps along both sides."""
    dice = canvas.dice
    heights = {"building": (5, 18), "wall": (1.6, 3), "fence": (1.1, 1.8), "vegetation": (2, 6)}
    for side in (-1, 1):
        z = dice.uniform(2.5, 6)
        while z < 90:
            length = dice.uniform(6, 20)
            if dice.chance(0.85):
                name = dice.choice(["building", "building", "wall", "fence", "vegetation"])
                x = side * (PAVEMENT + dice.uniform(0.2, 3.5))
                high = dice.uniform(*heights[name])
                yield z + length / 2, partial(_facade, canvas, name, x, (z, z + length), high)
            z += length + dice.uniform(0, 4)


def _facade(canvas: Canvas, name: str, x: float, reach: tuple[float, float], high: float) -> None:
    near, far = reach
    colour = canvas.shade(name)
    front = (0.82 * colour[0], 0.82 * colour[1], 0.82 * colour[2])
    back = x + (25 if x > 0 else -25)
    canvas.upright((x + back) / 2, near, 25, (0, high), name, front)
    canvas.polygon([(x, 0, near), (x, 0, far), (x, high, far), (x, high, near)], name, colour)
    if name != "building":
        return
    glass = (0.45 * colour[0], 0.48 * colour[1], 0.58 * colour[2])
    for floor in range(int(high // 3)):
        low, top = 3 * floor + 1, 3 * floor + 2.4
        for i in range(int((far - near) // 3)):
            a, b = near + 3 * i + 0.8, near + 3 * i + 2.2
            canvas.polygon([(x, low, a), (x, low, b), (x, top, b), (x, top, a)], None, glass)


def _furniture(canvas: Canvas) -> Iterator[Thing]:
    """Poles with lights and signs, trees, and people on the pavements."""
    dice = canvas.dice
    for side in (-1, 1):
        for _ in range(5):
            z = dice.uniform(6, 60)
            x = side * (ROAD + dice.uniform(0.4, 1.0))
            top = dice.choice(["traffic light", "traffic sign", "pole"])
            yield z, partial(_pole, canvas, x, z, top)
        for _ in range(3):
            z, x = dice.uniform(7, 60), side * (ROAD + dice.uniform(1.2, 2.4))
            yield z, partial(_tree, canvas, x, z)
        for _ in range(4):
            z, x = dice.uniform(5, 35), side * (ROAD + dice.uniform(0.3, 2.2))
            yield z, partial(_person, canvas, x, z, "person")


def _pole(canvas: Canvas, x: float, z: float, top: str) -> None:
    high = canvas.dice.uniform(2.8, 5.5)
    canvas.upright(x, z, 0.2, (0, high), "pole", canvas.shade("pole"))
    if top == "traffic light":
        canvas.upright(x, z - 0.1, 0.55, (high - 1.3, high), top, canvas.shade(top))
        lamp = canvas.dice.choice(["red", "green"])
        bright = (240.0, 60.0, 40.0) if lamp == "red" else (60.0, 220.0, 120.0)
        y = high - (0.3 if lamp == "red" else 1.0)
        canvas.ellipse((x, y, z - 0.1), (0.18, 0.18), None, bright)
    elif top == "traffic sign":
        canvas.ellipse((x, high, z - 0.1), (0.5, 0.5), top, canvas.shade(top))


def _tree(canvas: Canvas, x: float, z: float) -> None:
    dice, high = canvas.dice, canvas.dice.uniform(3.5, 6)
    canvas.upright(x, z, 0.35, (0, high), "vegetation", (92, 70, 48))
    for _ in range(6):
        centre = x + dice.uniform(-1.1, 1.1), high + dice.uniform(-0.9, 1.1), z
        radius = dice.uniform(0.8, 1.5)
        canvas.ellipse(centre, (radius, radius), "vegetation", canvas.shade("vegetation"))


def _person(canvas: Canvas, x: float, z: float, name: str, foot: float = 0.0) -> None:
    clothes, legs = canvas.shade(name), canvas.shade("bicycle")
    canvas.upright(x, z, 0.34, (foot, foot + 0.85), name, legs)
    canvas.ellipse((x, foot + 1.1, z), (0.28, 0.45), name, clothes)
    canvas.ellipse((x, foot + 1.62, z), (0.14, 0.17), name, (206, 164, 138))


def _traffic(canvas: Canvas) -> Iterator[Thing]:
    """Vehicles in both lanes and at the kerbs."""
    dice = canvas.dice
    for lane in (-3.2, -1.6, 1.6, 3.2):
        z = dice.uniform(6, 16)
        while z < 75:
            kind = dice.choice(["car", "car", "car", "truck", "bus", "bicycle"])
            x = lane + dice.uniform(-0.2, 0.2)
            if kind == "bicycle":
                yield z, partial(_cyclist, canvas, x, z)
            else:
                yield z, partial(_vehicle, canvas, kind, x, z)
            z += dice.uniform(9, 34)


def _vehicle(canvas: Canvas, kind: str, x: float, z: float) -> None:
    sizes = {"car": (1.75, 1.45, 4.2), "truck": (2.4, 3.1, 7.0), "bus": (2.5, 3.0, 10.0)}
    width, high, length = sizes[kind]
    colour = canvas.shade(kind)
    dark = (0.7 * colour[0], 0.7 * colour[1], 0.7 * colour[2])
    inner = x - width / 2 if x > 0 else x + width / 2  # the flank that the camera sees
    flank = [(inner, 0.2, z), (inner, 0.2, z + length), (inner, high, z + length), (inner, high, z)]
    canvas.polygon(flank, kind, dark)
    canvas.upright(x, z, width, (0.25, high), kind, colour)
    for wheel in (-0.38, 0.38):
        canvas.upright(x + wheel * width, z, 0.25, (0, 0.45), kind, (24, 24, 26))
    canvas.upright(x, z, 0.8 * width, (0.62 * high, 0.92 * high), None, (52, 62, 74))
    for lamp in (-0.42, 0.42):
        canvas.upright(x + lamp * width, z, 0.2, (0.6, 0.78), None, (226, 70, 56))


def _cyclist(canvas: Canvas, x: float, z: float) -> None:
    frame = canvas.shade("bicycle")
    canvas.ellipse((x, 0.35, z), (0.2, 0.36), "bicycle", frame)
    canvas.upright(x, z, 0.55, (0.75, 0.95), "bicycle", frame)
    _person(canvas, x, z - 0.05, "rider", foot=0.45)


def _bonnet(canvas: Canvas) -> None:
    """Of the car that carries the camera, at the image's lower edge: not evaluated."""
    top = CAMERA - (0.93 * canvas.height - canvas.horizon) / canvas.focal
    shape = [(-0.4, top, 1.0), (0.4, top, 1.0), (0.6, -1.0, 1.0), (-0.6, -1.0, 1.0)]
    canvas.polygon(shape, "ego vehicle", canvas.shade("ego vehicle"))
