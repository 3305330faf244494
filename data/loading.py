"""Loaders whose every batch is a function of (seed, batches seen), and which resume exactly.

`TrainLoader` counts the batches that it has given out; Lightning stores that count in checkpoints
(its stateful-loader protocol) and gives it back on resume. `batch_size` is that of the global
batch: processes share it out, so their number changes neither its samples nor their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.randomness import generator_for

__all__ = [
    "BatchDataset",
    "DrawnDataset",
    "ResumableDataModule",
    "TrainLoader",
    "evaluation_loader",
    "process_rank",
]

Batch = dict[str, Any]


class BatchDataset(Protocol):
    """A data set indexed by many positions at once: ``dataset[[3, 1]]`` is a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: list[int]) -> Batch: ...


@runtime_checkable
class DrawnDataset(Protocol):
    """A data set whose samples are augmented where they are read, anew in every epoch."""

    def __len__(self) -> int: ...

    def draw(self, positions: list[int], epoch: int) -> Batch: ...


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class _Schedule(Dataset[Batch]):
    """Batch number b of the run, for b from 0 on. Computed where it is read: in the worker."""

    def __init__(self, dataset: BatchDataset | DrawnDataset, batch_size: int, seed: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = process_rank()
        rest = len(dataset) % batch_size
        # A rest too small for batch statistics on every process is left out.
        self.per_epoch = len(dataset) // batch_size + (rest >= 2 * self.world)
        self._order: tuple[int, Tensor] | None = None

    def order(self, epoch: int) -> Tensor:
        """The epoch's permutation of the data set."""
        if self._order is None or self._order[0] != epoch:
            generator = generator_for(self.seed, "order", epoch)
            self._order = epoch, torch.randperm(len(self.dataset), generator=generator)
        return self._order[1]

    def __getitem__(self, number: int) -> Batch:
        epoch, place = divmod(number, self.per_epoch)
        start = place * self.batch_size
        positions = self.order(epoch)[start : start + self.batch_size]
        own = positions.tensor_split(self.world)[self.rank]
        if isinstance(self.dataset, DrawnDataset):
            batch = self.dataset.draw(own.tolist(), epoch)
        else:
            batch = self.dataset[own.tolist()]
        # Python numbers: reading them on a GPU's host must not wait for the device.
        batch["number"], batch["epoch"] = number, epoch
        return batch


class _Numbers:
    """Batch numbers of one pass: as many as an epoch has, from `start`."""

    def __init__(self, length: int) -> None:
        self.start = 0
        self.length = length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.start + self.length))

    def __len__(self) -> int:
        return self.length


class TrainLoader:
    """Endless shuffled batches, an epoch at a time.

    Args:
        dataset: indexed by lists of positions, or drawn from by lists of positions and epoch.
        batch_size: samples of the global batch; the number of processes must divide it.
        seed: of the order.
        workers: processes that read ahead; 0 reads in the training process.
        pin_memory: for copies to a GPU that overlap with its work.

    Each batch carries its ``number``, counted over the whole run, and its ``epoch``.
    The last batch of an epoch may be smaller.

    Raises:
        ValueError: for a batch size that does not fit the data or the number of processes.
    """

    def __init__(
        self,
        dataset: BatchDataset | DrawnDataset,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        _, world = process_rank()
        if batch_size % world:
            raise ValueError(
                f"Expected `batch_size` to be a multiple of the {world} processes, which share one "
                f"global batch, but got {batch_size}."
            )
        self._schedule = _Schedule(dataset, batch_size, seed)
        if self._schedule.per_epoch == 0:
            raise ValueError(
                f"Expected at least {2 * world} training samples, but got {len(dataset)}."
            )
        self._numbers = _Numbers(self._schedule.per_epoch)
        self.batches_seen = 0
        self._loader: DataLoader[Batch] = DataLoader(
            self._schedule,
            batch_size=None,
            sampler=self._numbers,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        return self._schedule.per_epoch

    def __iter__(self) -> Iterator[Batch]:
        self._numbers.start = self.batches_seen
        for batch in self._loader:
            self.batches_seen += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"batches_seen": self.batches_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches_seen = state["batches_seen"]


class ResumableDataModule(L.LightningDataModule):
    """A data module whose training loader continues where the checkpoint left it.

    Lightning restores a stateful loader only if it was not built before the checkpoint is read,
    which learning-rate schedules that ask for the number of steps make happen; the data module's
    own state has no such condition.
    """

    train_loader: TrainLoader | None = None
    _batches_seen = 0

    def resumable(self, loader: TrainLoader) -> TrainLoader:
        """Register the training loader; to be called by ``train_dataloader``."""
        loader.batches_seen = self._batches_seen
        self.train_loader = loader
        return loader

    def state_dict(self) -> dict[str, Any]:
        return {} if self.train_loader is None else self.train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches_seen = state_dict["batches_seen"]
        if self.train_loader is not None:
            self.train_loader.load_state_dict(state_dict)


def evaluation_loader(
    dataset: BatchDataset, *, batch_size: int, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Every sample once, in order; processes take disjoint shares of nearly equal size."""
    rank, world = process_rank()
    share = torch.arange(len(dataset)).tensor_split(world)[rank]
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # indexed by batches
        batch_size=None,
        sampler=share.split(batch_size) if len(share) else [],
        num_workers=workers,
        pin_memory=pin_memory,
    )
