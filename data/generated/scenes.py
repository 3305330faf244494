"""`python -m data.prepare scenes --root DIR`: generated road scenes to try segmentation on.

    DIR/scenes-day/    images/, labels/ and split.mat: GTA5's layout, the source
    DIR/scenes-dusk/   leftImg8bit/val/ and gtFine/val/: Cityscapes' layout, the target

Every scene is a function of (seed, domain, number).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.files import read_record, replacing

__all__ = [
    "SOURCE",
    "TARGET",
    "write_scenes",
]

SOURCE, TARGET = "scenes-day", "scenes-dusk"


_RECORD = "scenes.json"


_LEAST = 8  # pixels a side of an image, and images of the source


def write_scenes(
    root: Path, *, source: int, target: int, width: int, height: int, seed: int
) -> bool:
    """Make both sets below `root`; a folder appears only when it is complete.

    Args:
        root: folder of the two.
        source: images of the source, a quarter of them for validation.
        target: images of the target.
        width, height: in pixels.
        seed: of all of them.

    Returns:
        Whether there was anything to do.

    Raises:
        ValueError: a folder is there that was made with other options.
    """
    if min(width, height, source) < _LEAST or target < 1:
        raise ValueError(
            f"Expected images of at least {_LEAST}x{_LEAST} pixels, at least {_LEAST} of the "
            f"source and 1 of the target, but got {source} and {target} of {width}x{height}."
        )
    shared = {"width": width, "height": height, "seed": seed}
    jobs: list[tuple[str, dict[str, int], Callable[..., None]]] = [
        (SOURCE, {"n": source, **shared}, _write_source),
        (TARGET, {"n": target, **shared}, _write_target),
    ]
    todo = [job for job in jobs if not _is_made(root / job[0], job[1])]
    for name, options, write in todo:
        with replacing(root / name) as part:
            part.mkdir(parents=True)
            write(part, **options)
            (part / _RECORD).write_text(json.dumps(options) + "\n")
    return bool(todo)


def _is_made(folder: Path, options: dict[str, int]) -> bool:
    """Whether the folder is there and was made with these options."""
    if not folder.exists():
        return False
    record = folder / _RECORD
    found = read_record(record)
    if found != options:
        raise ValueError(
            f"Expected {folder} to be absent or to hold scenes made with {options}, but got "
            f"{found or 'something else'}: choose another --root, or delete it."
        )
    return True


def _scenes(domain: Any, n: int, width: int, height: int, seed: int) -> Any:
    # Here, so that the command's help does not wait for torch.
    from data.generated.scene_drawing import draw_scene
    from data.randomness import generator_for

    for i in tqdm(range(n), desc=f"{domain} scenes", unit="image"):
        generator = generator_for(seed, "scenes", domain, i)
        yield draw_scene(domain, width=width, height=height, generator=generator)


def _write_source(folder: Path, *, n: int, width: int, height: int, seed: int) -> None:
    from scipy.io import savemat

    from data.segmentation.labels import LABELS

    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    palette = np.zeros((256, 3), np.uint8)
    for label in LABELS:
        if label.id >= 0:
            palette[label.id] = label.colour
    for i, (image, ids) in enumerate(_scenes("day", n, width, height, seed), start=1):
        Image.fromarray(image).save(folder / "images" / f"{i:05d}.png")
        picture = Image.fromarray(ids, "P")
        picture.putpalette(palette.tobytes())
        picture.save(folder / "labels" / f"{i:05d}.png")
    numbers = np.arange(1, n + 1)[:, None]
    val = numbers % 4 == 0
    empty = np.zeros((0, 1), numbers.dtype)
    split = {"trainIds": numbers[~val][:, None], "valIds": numbers[val][:, None], "testIds": empty}
    savemat(folder / "split.mat", split)


def _write_target(folder: Path, *, n: int, width: int, height: int, seed: int) -> None:
    images, labels = (folder / kind / "val" / "dusk" for kind in ("leftImg8bit", "gtFine"))
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i, (image, ids) in enumerate(_scenes("dusk", n, width, height, seed)):
        name = f"dusk_{i:06d}_000019"
        Image.fromarray(image).save(images / f"{name}_leftImg8bit.png")
        Image.fromarray(ids).save(labels / f"{name}_gtFine_labelIds.png")
