"""Which images are labelled, and the endless fixed-size draws of semi-supervised training.

The labelled draw is integer arithmetic on (its seed, image index), so that every process, every
resumed run and every machine has the same one. A training batch pairs B labelled with mu * B
unlabelled images; both are functions of (run seed, batch number) alone.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.loading import Batch, BatchDataset, Passes, sharing, shuffled
from data.randomness import derive_seed, sample_uniform

__all__ = ["Draws", "PairedSchedule", "draw_hash", "draw_labelled", "labels_by_class"]


def labels_by_class(n: int, num_classes: int, *, seed: int) -> list[int]:
    """How many of `n` labels each class gets: as equal as can be.

    Where `num_classes` does not divide `n`, the classes that get one more are drawn by `seed`.

    Raises:
        ValueError: for fewer labels than classes.
    """
    if n < num_classes:
        raise ValueError(
            f"Expected `labels` to be at least {num_classes}, one for each class, but got {n}."
        )
    each, rest = divmod(n, num_classes)
    key = sample_uniform(derive_seed(seed, "classes"), torch.arange(num_classes), 1)[:, 0]
    favoured = key.argsort(stable=True)[:rest].tolist()
    return [each + (c in favoured) for c in range(num_classes)]


def draw_labelled(label: Tensor, n: int, *, num_classes: int, seed: int) -> Tensor:
    """Indices of the `n` images whose labels are used, balanced by class.

    Args:
        label: int64 (N,) of all training images.
        n: how many labels, from `num_classes` to N.
        num_classes: classes, numbered from 0.
        seed: of the draw; not the run's seed.

    Returns:
        int64 (n,), rising.

    Raises:
        ValueError: for a number of labels that the classes cannot give.
    """
    if n > len(label):
        raise ValueError(
            f"Expected `labels` to be at most {len(label)}, the number of training images, "
            f"but got {n}."
        )
    wanted = labels_by_class(n, num_classes, seed=seed)
    key = sample_uniform(derive_seed(seed, "labelled"), torch.arange(len(label)), 1)[:, 0]
    chosen = []
    for c, count in enumerate(wanted):
        members = (label == c).nonzero()[:, 0]
        if len(members) < count:
            raise ValueError(
                f"Expected at least {count} training images of class {c}, to draw {n} labels "
                f"balanced over {num_classes} classes, but got {len(members)}: ask for fewer "
                "labels, or give data that have every class."
            )
        chosen.append(members[key[members].argsort(stable=True)[:count]])
    return torch.cat(chosen).sort().values


def draw_hash(labelled: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the drawn indices."""
    text = ",".join(map(str, sorted(labelled.tolist())))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Draws:
    """Endless shuffled batches of one size from some images of a data set.

    Every pass has an order of its own. A set of at least `batch_size` images gives whole batches
    only, so no image comes twice in one; a smaller set starts its next pass within the batch.

    Args:
        dataset: indexed by lists of positions.
        members: int64 (n,), positions of the images to draw from.
        batch_size: of the global batch, which processes share out.
        seed: of the order.

    Raises:
        ValueError: for a batch size that the processes cannot share out.
    """

    def __init__(
        self, dataset: BatchDataset, members: Tensor, *, batch_size: int, seed: int
    ) -> None:
        self.dataset = dataset
        self.members = members
        self.batch_size = batch_size
        self.rank, self.world = sharing(batch_size)
        rest = len(members) % batch_size if len(members) >= batch_size else 0
        self.per_pass = len(members) - rest
        self.passes = Passes(partial(shuffled, len(members), seed, "order"))

    def __getitem__(self, number: int) -> Batch:
        """This process's share of batch `number`, from 0 on.

        ``draw`` (b,) counts the drawn images over the whole run: it seeds what happens to each.
        """
        draws = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)
        positions = torch.empty_like(draws)
        passes = draws // self.per_pass
        for pass_number in passes.unique().tolist():
            inside = passes == pass_number
            places = draws[inside] % self.per_pass
            positions[inside] = self.members[self.passes[pass_number][places]]
        share = self.batch_size // self.world
        own = slice(self.rank * share, (self.rank + 1) * share)
        return {**self.dataset[positions[own].tolist()], "draw": draws[own]}


class PairedSchedule:
    """Batch b of the run: labelled and unlabelled images that are drawn independently.

    Args:
        labelled: B images a batch.
        unlabelled: mu * B images a batch; None trains on the labelled ones alone.
        steps_per_epoch: batches that count as an epoch.
    """

    def __init__(self, labelled: Draws, unlabelled: Draws | None, *, steps_per_epoch: int) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled
        self.per_epoch = steps_per_epoch

    def samples(self, number: int) -> int:
        """How many labelled images the global batch has."""
        return self.labelled.batch_size

    def __getitem__(self, number: int) -> Batch:
        batch: dict[str, Any] = {"labelled": self.labelled[number]}
        if self.unlabelled is not None:
            batch["unlabelled"] = self.unlabelled[number]
        # Python numbers: reading them on a GPU's host must not wait for the device.
        return {**batch, "number": number, "epoch": number // self.per_epoch}
