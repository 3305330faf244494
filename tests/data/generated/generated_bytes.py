"""SHA-256 of generated data, to compare with golden values and between processors.

    python -m tests.data.generated.generated_bytes  # prints them as JSON, as in the golden file

Not collected: a process chooses its processor's instructions before it imports anything.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

from data.corruptions.recipes import ALL_CORRUPTIONS, corrupt
from data.generated.domains import CLASSES, DOMAINS, draw
from data.generated.scene_drawing import draw_scene
from data.randomness import generator_for

__all__ = ["digests"]


def digests() -> dict[str, str]:
    """By name: of each corruption's pixels, of each domain's, and of scenes with their labels."""
    found = {}
    for name in ALL_CORRUPTIONS:
        made = [corrupt(pictures(), name, severity, seed=3) for severity in range(1, 6)]
        found[f"corruption {name}"] = _digest(torch.stack(made).numpy())
    for domain in DOMAINS:
        drawn = [draw(domain, name, i, size=64, seed=3) for name in CLASSES for i in range(4)]
        found[f"domain {domain}"] = _digest(np.stack(drawn))
    for look in ("day", "dusk"):
        for i in range(2):
            generator = generator_for(3, "scenes", look, i)
            image, label = draw_scene(look, width=128, height=64, generator=generator)  # type: ignore[arg-type]
            found[f"scene {look} {i}"] = _digest(image) + " " + _digest(label)
    return found


def pictures() -> torch.Tensor:
    """uint8 (4, 3, 40, 36) by integer arithmetic alone: ramps, noise, stripes and an even one."""
    row, column = np.arange(40)[:, None, None], np.arange(36)[:, None]
    channel = np.arange(3)
    ramp = 5 * row + 2 * column + 11 * channel
    noise = (row * 7919 + column * 104729 + channel * 1299709) * 2654435761 % 2**32 >> 24
    stripes = 40 + 60 * (row // 5 % 3) + 20 * (column // 7 % 2) + 0 * channel
    even = 97 + 30 * channel + 0 * row + 0 * column
    stacked = np.stack([ramp % 256, noise, stripes, even]).astype(np.uint8)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
