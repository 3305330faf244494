"""Which images of GTA5's layout are for training and which for validation.

GTA5's split.mat lists the images by number, from 1, as trainIds, valIds and testIds (Richter et al.
2016, https://arxiv.org/abs/1608.02192). Without it the split is random but fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from data.errors import DataNotFoundError, quoted
from data.randomness import generator_for

__all__ = ["Part", "is_official", "read_split_file", "split_file", "split_gta5"]

Part = Literal["train", "val"]
Split = dict[Part, list[str]]

# Images for training, validation and test.
GTA5_SPLIT = (12_403, 6_382, 6_181)


def split_file(root: Path) -> Path | None:
    """GTA5's split.mat in `root` or in a folder of it."""
    places = [root / "split.mat", *sorted(root.glob("*/split.mat"))]
    return next((path for path in places if path.is_file()), None)


def read_split_file(path: Path) -> dict[str, list[int]]:
    """Image numbers, from 1, of "train", "val" and "test".

    Raises:
        ValueError: not GTA5's split file.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        return {
            part: [int(number) for number in content[f"{part}Ids"].ravel()]
            for part in ("train", "val", "test")
        }
    except Exception as error:  # A damaged file fails wherever the damage is, in any way.
        raise ValueError(
            f"Expected {path} to be GTA5's split file with trainIds, valIds and testIds, but it "
            f"cannot be read ({quoted(error)}): delete it and unpack read_mapping.zip again."
        ) from error


def split_gta5(root: Path, names: Sequence[str], parts: Sequence[Part]) -> tuple[Split, list[str]]:
    """The names of each of `parts`, sorted, and what a user should know of them.

    Args:
        root: of the layout.
        names: of the images that are there.
        parts: "val" alone takes all images where there is no split file.

    Raises:
        DataNotFoundError: no image that the split file lists, or too few to split.
        ValueError: a split file that cannot be read.
    """
    path = split_file(root)
    if path is not None:
        return _listed(path, names, parts)
    if "train" not in parts:
        return {"val": sorted(names)}, []
    if len(names) < 3:
        raise DataNotFoundError(
            f"Expected at least 3 images in {root / 'images'}, but got {len(names)}."
        )
    # Of the data, not of the run: every seed trains and is scored on the same images.
    order = torch.randperm(len(names), generator=generator_for("split of a GTA5 layout")).tolist()
    cut = max(2, round(0.8 * len(names)))
    train, val = (sorted(names[i] for i in part) for part in (order[:cut], order[cut:]))
    note = (
        f"{root} has no split.mat: a fixed random split gives {len(train):,} images to training "
        f"and {len(val):,} to validation."
    )
    return {"train": train, "val": val}, [note]


def _listed(path: Path, names: Sequence[str], parts: Sequence[Part]) -> tuple[Split, list[str]]:
    numbers = read_split_file(path)
    by_number = {int(name): name for name in names if name.isdigit()}
    chosen: Split = {}
    notes = []
    for part in parts:
        listed = numbers[part]
        chosen[part] = sorted(by_number[n] for n in listed if n in by_number)
        if listed and not chosen[part]:
            raise DataNotFoundError(
                f"Expected images of the {part} part beside {path}, but none of the "
                f"{len(listed):,} that it lists is there ({len(names):,} others are): unpack the "
                "image archives, or remove the split file if it belongs to other data."
            )
        if len(chosen[part]) < len(listed):
            notes.append(
                f"{path} lists {len(listed):,} images of the {part} part, {len(chosen[part]):,} of "
                "them are there."
            )
    return chosen, notes


def is_official(root: Path, chosen: Mapping[Part, Sequence[str]]) -> bool:
    """Whether the split file is the published one, and all that it lists is there."""
    path = split_file(root)
    if path is None:
        return False
    numbers = read_split_file(path)
    if tuple(len(numbers[part]) for part in ("train", "val", "test")) != GTA5_SPLIT:
        return False
    return all(len(names) == len(numbers[part]) for part, names in chosen.items())
