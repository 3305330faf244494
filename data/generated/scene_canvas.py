"""What generated road scenes are painted on, and how they look by day and at dusk.

Things stand in metres before a pinhole camera at height 1.5 that looks along z,

    column = c + f x / z,    row = h - f (y - 1.5) / z,

and are painted from far to near, each at once into an image, a label image and a depth image. At
the end come texture, haze and light, which differ between the two looks as their colours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from data.randomness import sample_normal
from data.segmentation.labels import LABELS

__all__ = ["CAMERA", "FAR", "LOOKS", "Canvas", "Colour", "Dice", "Look", "Point"]

Colour = tuple[float, float, float]
Point = tuple[float, float, float]  # x to the right, y up, z away, in metres

IDS = {label.name: label.id for label in LABELS}
CAMERA = 1.5
FAR = 140.0
GROUND = ("road", "sidewalk", "terrain")

DAY: dict[str, Colour] = {
    "sky": (130, 180, 235),
    "road": (112, 112, 116),
    "sidewalk": (178, 168, 158),
    "terrain": (122, 158, 82),
    "building": (176, 142, 118),
    "wall": (150, 146, 140),
    "fence": (160, 128, 92),
    "vegetation": (62, 122, 52),
    "pole": (124, 126, 130),
    "traffic light": (52, 54, 46),
    "traffic sign": (218, 196, 60),
    "person": (150, 86, 92),
    "rider": (86, 92, 160),
    "car": (150, 44, 48),
    "truck": (196, 190, 178),
    "bus": (204, 150, 48),
    "bicycle": (44, 46, 52),
    "ego vehicle": (36, 38, 44),
}
# Wet asphalt, cold concrete and autumn leaves, before the light of dusk.
DUSK: dict[str, Colour] = {
    "sky": (190, 160, 150),
    "road": (86, 90, 102),
    "sidewalk": (112, 116, 128),
    "terrain": (118, 104, 66),
    "building": (122, 124, 138),
    "wall": (112, 96, 88),
    "fence": (84, 88, 92),
    "vegetation": (104, 90, 46),
    "pole": (72, 72, 76),
    "traffic light": (40, 42, 40),
    "traffic sign": (96, 124, 184),
    "person": (76, 80, 96),
    "rider": (112, 96, 76),
    "car": (98, 108, 122),
    "truck": (128, 112, 98),
    "bus": (150, 76, 66),
    "bicycle": (66, 66, 70),
    "ego vehicle": (22, 24, 30),
}


@dataclass(frozen=True)
class Look:
    """What tells a domain apart beside its colours."""

    palette: dict[str, Colour]
    spread: float  # of a thing's colour around its class's
    grain: tuple[int, float]  # texture: size in pixels, strength
    haze: Colour
    haze_distance: float  # metres
    gain: Colour
    gamma: float
    noise: float
    soft: float  # blur, in pixels


LOOKS: dict[str, Look] = {
    "day": Look(DAY, 26, (3, 0.10), (200, 214, 232), 260, (1.05, 1.02, 0.98), 1.0, 2.0, 0.0),
    "dusk": Look(DUSK, 18, (6, 0.13), (168, 140, 136), 100, (0.98, 0.92, 1.0), 1.12, 4.0, 0.4),
}


class Dice:
    """Draws from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def chance(self, p: float) -> bool:
        return self.uniform(0, 1) < p

    def choice(self, items: Sequence[str]) -> str:
        return items[int(self.uniform(0, len(items)))]

    def noise(self, height: int, width: int) -> np.ndarray:
        """Normal noise, float64 (height, width)."""
        return sample_normal([self.generator], height, width)[0].numpy()


class Canvas:
    """Image, labels and depth, painted together through a pinhole camera."""

    def __init__(self, width: int, height: int, look: Look, dice: Dice) -> None:
        self.look = look
        self.dice = dice
        self.width, self.height = width, height
        self.image = Image.new("RGB", (width, height))
        self.label = Image.new("L", (width, height))
        self.depth = Image.new("F", (width, height), FAR)
        self._layers = [ImageDraw.Draw(layer) for layer in (self.image, self.label, self.depth)]
        self.horizon = height * dice.uniform(0.40, 0.50)
        self.middle = width * dice.uniform(0.38, 0.62)
        self.focal = width * dice.uniform(0.65, 0.85)

    def shade(self, name: str) -> Colour:
        """A colour of the class, a little different for each thing."""
        own = self.dice.uniform(-self.look.spread, self.look.spread)
        half = self.look.spread / 2
        red, green, blue = (
            c + own + self.dice.uniform(-half, half) for c in self.look.palette[name]
        )
        return red, green, blue

    def polygon(self, points: Sequence[Point], name: str | None, colour: Colour) -> None:
        """Paint a polygon; without a name into the image alone, as a detail of what is there."""
        z = sum(point[2] for point in points) / len(points)
        self._paint("polygon", points, name, colour, z)

    def upright(
        self,
        x: float,
        z: float,
        width: float,
        heights: tuple[float, float],
        name: str | None,
        colour: Colour,
    ) -> None:
        """Paint a rectangle that faces the camera, around x, between two heights."""
        (low, high), left, right = heights, x - width / 2, x + width / 2
        corners = [(left, low, z), (right, low, z), (right, high, z), (left, high, z)]
        self._paint("polygon", corners, name, colour, z)

    def ellipse(
        self, centre: Point, radii: tuple[float, float], name: str | None, colour: Colour
    ) -> None:
        """Paint an upright ellipse; radii across and up."""
        (x, y, z), (across, up) = centre, radii
        box = [(x - across, y + up, z), (x + across, y - up, z)]
        self._paint("ellipse", box, name, colour, z)

    def _paint(
        self, shape: str, points: Sequence[Point], name: str | None, colour: Colour, z: float
    ) -> None:
        flat = [
            (
                self.middle + self.focal * x / depth,
                self.horizon - self.focal * (y - CAMERA) / depth,
            )
            for x, y, depth in points
        ]
        image, label, depth_layer = self._layers
        getattr(image, shape)(flat, fill=tuple(min(max(round(c), 0), 255) for c in colour))
        if name is not None:
            getattr(label, shape)(flat, fill=IDS[name])
            getattr(depth_layer, shape)(flat, fill=z)

    def finished(self) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3), with texture, haze and light, and label ids uint8 (H, W)."""
        look, dice = self.look, self.dice
        label = np.array(self.label)
        # In float64, where what processors round differently is too small for a pixel to show.
        image = np.array(self.image, dtype=np.float64)
        size, strength = look.grain
        fine = dice.noise(self.height, self.width)
        coarse = dice.noise(self.height // size + 2, self.width // size + 2)
        small = Image.fromarray(coarse.astype(np.float32))
        grown = small.resize((self.width, self.height), Image.Resampling.BILINEAR)
        texture = 1 + strength * (0.5 * fine + np.asarray(grown))
        texture[label == IDS["sky"]] = 1
        image *= texture[..., None]
        veil = 1 - np.exp(-self._depth(label) / look.haze_distance)
        image += veil[..., None] * (np.array(look.haze) - image)
        image = 255 * (image.clip(0, 255) / 255) ** look.gamma
        image *= np.array(look.gain)
        image += look.noise * dice.noise(self.height, self.width)[..., None]
        picture = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        return np.array(picture.filter(ImageFilter.GaussianBlur(look.soft))), label

    def _depth(self, label: np.ndarray) -> np.ndarray:
        """Metres, float64 (H, W); the ground's follows from the row."""
        depth = np.array(self.depth, dtype=np.float64)
        below = np.arange(self.height) - self.horizon
        ground = self.focal * CAMERA / np.maximum(below, self.focal * CAMERA / FAR)
        flat = np.isin(label, [IDS[name] for name in GROUND])
        depth = np.where(flat, ground[:, None], depth)
        depth[label == IDS["sky"]] = 0
        return depth
