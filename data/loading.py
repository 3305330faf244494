"""Loaders whose every batch is a function of (seed, batches seen), and which resume exactly.

A `NumberedLoader` counts the batches that it has given out; Lightning stores that count in
checkpoints (its stateful-loader protocol) and gives it back on resume. `TrainLoader` is the one of
a single data set: its `batch_size` is that of the global batch, which processes share out, so that
their number changes neither its samples nor their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.randomness import generator_for
from data.workers import WorkerLoader, start_worker

__all__ = [
    "BatchDataset",
    "BatchOrder",
    "BatchSchedule",
    "EpochDataset",
    "NumberedLoader",
    "Passes",
    "ResumableDataModule",
    "TrainLoader",
    "evaluation_loader",
    "process_rank",
    "require_at_least",
    "share_of",
    "sharing",
    "shuffled",
]

Batch = dict[str, Any]
Order = Callable[[int], Tensor]
Loader = TypeVar("Loader", bound="NumberedLoader")


class BatchDataset(Protocol):
    """A data set indexed by many positions at once: ``dataset[[3, 1]]`` is a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: list[int]) -> Batch: ...


@runtime_checkable
class EpochDataset(Protocol):
    """A data set whose samples are augmented where they are read, anew in every epoch."""

    def __len__(self) -> int: ...

    def draw(self, positions: list[int], epoch: int) -> Batch: ...


class BatchSchedule(Protocol):
    """Every batch of a run by its number; those numbers are read in the loader's workers."""

    @property
    def per_epoch(self) -> int: ...

    def __getitem__(self, number: int) -> Batch: ...

    def samples(self, number: int) -> int:
        """How many the global batch has, of those that its loss is the mean of."""
        ...


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def share_of(positions: Tensor, rank: int, world: int) -> tuple[Tensor, float]:
    """A process's part of a global batch, and its weight in the mean over processes.

    Weighted so, the mean of the processes' mean losses is that of the global batch. A rest too
    small for batch statistics on every process goes whole to each of them: what an epoch holds does
    not depend on the number of processes.
    """
    if len(positions) < 2 * world:
        return positions, 1.0
    own = positions.tensor_split(world)[rank]
    return own, len(own) * world / len(positions)


def sharing(batch_size: int) -> tuple[int, int]:
    """This process's rank and the number of processes, which share out batches of this size.

    Raises:
        ValueError: they cannot.
    """
    rank, world = process_rank()
    if batch_size % world:
        raise ValueError(
            f"Expected `batch_size` to be a multiple of the {world} processes, which share one "
            f"global batch, but got {batch_size}."
        )
    return rank, world


def shuffled(n: int, *key: int | str) -> Tensor:
    """A permutation of `n` samples, a function of the arguments alone."""
    return torch.randperm(n, generator=generator_for(*key))


class Passes:
    """The order of every pass over a data set, of which the last two are kept.

    Args:
        order: makes a pass's order, from its number alone.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self._known: dict[int, Tensor] = {}

    def __getitem__(self, number: int) -> Tensor:
        if number not in self._known:
            # A batch may read neighbouring passes; older ones are not needed again.
            self._known = {k: v for k, v in self._known.items() if k == number - 1}
            self._known[number] = self.order(number)
        return self._known[number]


class BatchOrder:
    """Which samples batch b of a run has, for b from 0 on; the last one of a pass may be smaller.

    Args:
        length: samples of a pass.
        batch_size: of the global batch.
        order: makes each pass's order, of at least `length` samples.
    """

    def __init__(self, length: int, batch_size: int, order: Order) -> None:
        self.length, self.batch_size = length, batch_size
        # A rest of one sample has no batch statistics and is left out.
        self.per_epoch = length // batch_size + (length % batch_size >= 2)
        self._passes = Passes(order)

    def samples(self, number: int) -> int:
        return min(self.batch_size, self.length - number % self.per_epoch * self.batch_size)

    def __getitem__(self, number: int) -> Tensor:
        number_of_pass, place = divmod(number, self.per_epoch)
        start = place * self.batch_size
        return self._passes[number_of_pass][start : start + self.samples(number)]


class _Schedule(Dataset[Batch]):
    """Batch number b of the run, for b from 0 on. Computed where it is read: in the worker."""

    def __init__(
        self,
        dataset: BatchDataset | EpochDataset,
        batch_size: int,
        seed: int,
        make_order: Order | None,
        neighbour: bool,
    ) -> None:
        self.neighbour = neighbour
        self.dataset = dataset
        self.rank, self.world = sharing(batch_size)
        order = make_order or partial(shuffled, len(dataset), seed, "order")
        self.order = BatchOrder(len(dataset), batch_size, order)
        self.per_epoch, self.samples = self.order.per_epoch, self.order.samples

    def __getitem__(self, number: int) -> Batch:
        epoch, positions = number // self.per_epoch, self.order[number]
        share, weight = share_of(positions, self.rank, self.world)
        own = share.tolist()
        shared_out = len(own) < len(positions)
        if self.neighbour and shared_out:
            before, _ = share_of(positions.roll(1), self.rank, self.world)
            own.insert(0, int(before[0]))
        if isinstance(self.dataset, EpochDataset):
            batch = self.dataset.draw(own, epoch)
        else:
            batch = self.dataset[own]
        # Python numbers: reading them on a GPU's host must not wait for the device.
        batch["number"], batch["epoch"], batch["share"] = number, epoch, weight
        if self.neighbour:
            batch["neighbour"] = shared_out
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


class NumberedLoader:
    """The endless batches of a schedule, an epoch at a time.

    Args:
        schedule: makes batch b of the run, for b from 0 on.
        workers: processes that read ahead; 0 reads in the training process.
        pin_memory: for copies to a GPU that overlap with its work.

    Attributes:
        schedule: of the batches.
        waited: seconds until batches were there, since the loader was made.
    """

    def __init__(
        self, schedule: BatchSchedule, *, workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.schedule = schedule
        self._numbers = _Numbers(schedule.per_epoch)
        self.batches_seen = 0
        self.waited = 0.0
        self._loader = WorkerLoader(
            schedule,  # type: ignore[arg-type]  # indexed by batch number
            batch_size=None,
            sampler=self._numbers,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
        )

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Batch]:
        self._numbers.start = self.batches_seen
        start = time.perf_counter()
        for batch in self._loader:
            self.waited += time.perf_counter() - start
            self.batches_seen += 1
            yield batch
            start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"batches_seen": self.batches_seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches_seen = state["batches_seen"]


class TrainLoader(NumberedLoader):
    """Endless shuffled batches of one data set, an epoch at a time.

    Args:
        dataset: indexed by lists of positions, or drawn from by positions and epoch.
        batch_size: samples of the global batch; the number of processes must divide it.
        seed: of the order.
        workers: processes that read ahead; 0 reads in the training process.
        pin_memory: for copies to a GPU that overlap with its work.
        order: makes each epoch's permutation, from the epoch's number alone; None shuffles.
        neighbour: a process also reads the sample that is before its first one in the global batch
            (behind which the batch begins again), and puts it first; ``neighbour`` in the batch
            says whether there is one. It is for augmentations that mix neighbours, which drop it.

    Each batch carries its ``number``, counted over the whole run, its ``epoch``, and the ``share``
    by which its mean loss counts in the mean over processes; see :func:`share_of`. The last batch
    of an epoch may be smaller.

    Raises:
        ValueError: for a batch size that does not fit the data or the number of processes.
    """

    def __init__(
        self,
        dataset: BatchDataset | EpochDataset,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
        order: Order | None = None,
        neighbour: bool = False,
    ) -> None:
        schedule = _Schedule(dataset, batch_size, seed, order, neighbour)
        if schedule.per_epoch == 0:
            raise ValueError(f"Expected at least 2 training samples, but got {len(dataset)}.")
        super().__init__(schedule, workers=workers, pin_memory=pin_memory)


def require_at_least(**options: tuple[float | None, float]) -> None:
    """Refuse options that are too small.

    Args:
        options: by name, the value, None for none, and the least one.

    Raises:
        ValueError: for the first that is smaller.
    """
    for name, (value, least) in options.items():
        if value is not None and value < least:
            raise ValueError(f"Expected `{name}` to be at least {least}, but got {value}.")


class ResumableDataModule(L.LightningDataModule):
    """A data module whose training loader continues where the checkpoint left it.

    Args:
        batch_size: of the global batch, which processes share out.
        eval_batch_size: of evaluation, a process.
        workers: reading processes; 0 is fastest for what is in memory.
        seed: of order and augmentation; the command line sets it to the run's seed.

    Lightning restores a stateful loader only if it was not built before the checkpoint is read,
    which learning-rate schedules that ask for the number of steps make happen; the data module's
    own state has no such condition.

    Attributes:
        NEUTRAL: options that change nothing in what is learnt or measured; those of a class take
            the place of its base's, also below.
        MEASURED: options that change nothing but what a test measures.
        VALIDATED: of those, what changes what a validation measures, too.
        SIZE: of a training sample, pixels of an image's side or words of a text, where the options
            leave it open; what a run costs is reckoned from it. None says nothing.
        SIZED_BY: the option that gives another one.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"workers", "eval_batch_size"})
    MEASURED: ClassVar[frozenset[str]] = frozenset()
    VALIDATED: ClassVar[frozenset[str]] = frozenset()
    SIZE: ClassVar[int | None] = None
    SIZED_BY: ClassVar[str] = ""
    train_loader: NumberedLoader | None = None
    _batches_seen = 0

    def __init__(
        self, *, batch_size: int = 128, eval_batch_size: int = 500, workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        require_at_least(batch_size=(batch_size, 2), eval_batch_size=(eval_batch_size, 1))
        require_at_least(workers=(workers, 0))
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.seed = seed

    def resumable(self, loader: Loader) -> Loader:
        """Register the training loader; to be called by ``train_dataloader``."""
        loader.batches_seen = self._batches_seen
        self.train_loader = loader
        return loader

    def training_fingerprint(self) -> str | None:
        """Of what a run is trained on, known after ``setup("fit")``; None makes no difference.

        A run that goes on is refused other training data.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        return {} if self.train_loader is None else self.train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches_seen = state_dict["batches_seen"]
        if self.train_loader is not None:
            self.train_loader.load_state_dict(state_dict)


def evaluation_loader(
    dataset: BatchDataset,
    *,
    batch_size: int,
    workers: int = 0,
    pin_memory: bool = False,
    positions: Tensor | None = None,
    least: int = 1,
) -> DataLoader[Batch]:
    """Every sample once, in order; processes take disjoint shares of nearly equal size.

    Args:
        dataset: indexed by lists of positions.
        batch_size: of a process.
        workers: processes that read ahead; 0 reads in this one.
        pin_memory: for copies to a GPU that overlap with its work.
        positions: of the samples to read, in order; None reads all.
        least: samples that a batch must have; a smaller rest joins the batch before it.
    """
    rank, world = process_rank()
    if positions is None:
        positions = torch.arange(len(dataset))
    share = positions.tensor_split(world)[rank]
    batches = list(share.split(batch_size)) if len(share) else []
    if len(batches) > 1 and len(batches[-1]) < least:
        batches[-2:] = [torch.cat(batches[-2:])]
    return WorkerLoader(
        dataset,  # type: ignore[arg-type]  # indexed by batches
        batch_size=None,
        # Numbers, as tensors would travel to the workers as open files.
        sampler=[batch.tolist() for batch in batches],
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )
