"""Data modules of the classification task: CIFAR and its corrupted test sets, bundled digits.

Training yields {"image": (B, 3, H, W) float32 normalised, "label": (B,), "index": (B,)}; images
stay uint8 until they are on the device, where each sample is cropped and flipped by itself. What
``--data.augment`` lists comes after that (see :mod:`data.augmentations`): AugMix adds "views", a
list of more such images; Mixup and CutMix make "label" float (B, classes).
Evaluation yields {"image", "label", "group"} with the test condition's number in `group`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from data.augmentations import Augmentation, check_order
from data.cifar import SETS, CIFARName, is_original, read_cifar
from data.corrupted_set import GENERATOR, made_by, open_corrupted, origin_of, require_array
from data.corruptions import ALL_CORRUPTIONS, CORRUPTIONS, corrupt
from data.errors import DataNotFoundError
from data.images import (
    EvaluationSets,
    Group,
    ImageTensor,
    check_statistics,
    fingerprint,
    flip_and_shift,
    jitter_colours,
    normalise,
)
from data.loading import (
    Batch,
    BatchDataset,
    EpochDataset,
    ResumableDataModule,
    TrainLoader,
    evaluation_loader,
)
from data.randomness import derive_seed, generator_for
from data.resident import ResidentImages

__all__ = ["CIFAR", "Digits", "ImageClassificationData"]

SEVERITIES = (1, 2, 3, 4, 5)
Arrays = tuple[np.ndarray, np.ndarray]


class TestConditions(BatchDataset, Protocol):
    """The test's conditions behind one another; see :class:`data.images.EvaluationSets`."""

    groups: list[Group]

    def span(self, group: int) -> range: ...


class ImageClassificationData(ResumableDataModule):
    """What the data sets share: loaders, augmentation, and the conditions of the test.

    Args:
        batch_size: of the global batch, which processes share out.
        eval_batch_size: of evaluation, a process.
        workers: reading processes; 0 is fastest for images that are in memory.
        seed: of order and augmentation; the command line sets it to the run's seed.
        padding: of the random crop, in pixels.
        flip: random horizontal flips.
        jitter: strength of random brightness and contrast in training; 0 is none.
        augment: further augmentation of the training batches, in order; see configs/augment/.
        corruptions: names of the test's corruptions; empty tests on clean images alone.
        resident: keep all training images on the device and draw the batches there, which changes
            no result; None does so on a GPU.
        mean: of the input normalisation, in [0, 1], by channel.
        std: of the input normalisation, by channel.

    Attributes:
        COMPLETE: the corruptions whose mean, over all severities, is the set's mean corruption
            error; over others it is a partial one.
    """

    COMPLETE: ClassVar[tuple[str, ...]] = CORRUPTIONS
    num_classes: int
    title: str

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        workers: int,
        seed: int,
        padding: int,
        flip: bool,
        jitter: float,
        augment: Sequence[Augmentation] = (),
        corruptions: Sequence[str],
        resident: bool | None = False,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 2),
            ("eval_batch_size", eval_batch_size, 1),
            ("workers", workers, 0),
            ("padding", padding, 0),
        ):
            if value < least:
                raise ValueError(f"Expected `{name}` to be at least {least}, but got {value}.")
        if not 0.0 <= jitter <= 1.0:
            raise ValueError(f"Expected `jitter` to be in [0, 1], but got {jitter}.")
        check_order(augment)
        unknown = [name for name in corruptions if name not in ALL_CORRUPTIONS]
        if unknown:
            raise ValueError(
                f"Expected `corruptions` to be among {', '.join(ALL_CORRUPTIONS)}, but got "
                f"{', '.join(map(repr, unknown))}."
            )
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.seed = seed
        self.padding = padding
        self.flip = flip
        self.jitter = jitter
        self.augment = tuple(augment)
        self.corruptions = tuple(corruptions)
        self.resident = resident
        self.mean, self.std = check_statistics(mean, std)
        self._train: ImageTensor | None = None
        self._test: Arrays | None = None
        self._groups: TestConditions | None = None
        self._on_device: ResidentImages | None = None

    def read(self) -> tuple[Arrays, Arrays]:
        """Images uint8 (N, H, W, 3) and labels int64 (N,), of training and test."""
        raise NotImplementedError

    def find_corrupted(self) -> None:
        """Look whether what the test's corruptions are read from is there.

        Raises:
            DataNotFoundError: it is not.
        """

    def say_missing(self, stage: str) -> None:
        """Tell a training that its test will miss the corrupted images; to be called by ``setup``.

        Long before the test there is time to fetch them.
        """
        if stage != "fit" or not self.corruptions:
            return
        try:
            self.find_corrupted()
        except DataNotFoundError as error:
            rank_zero_info(f"Training needs no corrupted images, but `test` will: {error}")

    def read_corrupted(self, test: Arrays) -> dict[Group, Arrays]:
        """Images and labels of every corrupted condition."""
        raise NotImplementedError

    def reference_errors(self) -> dict[str, float] | None:
        """The errors by corruption that normalise the mean corruption error, where it has such."""
        return None

    def describe(self) -> dict[str, Any]:
        """What a result must say of its data: true name, fingerprint, counts."""
        assert self._train is not None and self._test is not None
        train = self._train
        return {
            "dataset": self.title,
            "fingerprint": fingerprint(train.images.numpy(), train.labels.numpy(), *self._test),
            "n_train": len(train),
            "n_test": len(self._test[1]),
        }

    def training_fingerprint(self) -> str | None:
        assert self._train is not None
        return fingerprint(self._train.images.numpy(), self._train.labels.numpy())

    @property
    def groups(self) -> list[Group]:
        """The conditions of the test; the clean one first."""
        assert self._groups is not None
        return self._groups.groups

    def setup(self, stage: str) -> None:
        if self._train is None:
            (images, labels), self._test = self.read()
            tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            self._train = ImageTensor(tensor, torch.from_numpy(labels))
            self.say_missing(stage)
        assert self._test is not None
        if self._groups is None or stage == "test":
            sets = {Group("clean", 0): self._test}
            if stage == "test" and self.corruptions:
                sets |= self.read_corrupted(self._test)
            arrays, labels_of = zip(*sets.values(), strict=True)
            self._groups = EvaluationSets(list(sets), arrays, labels_of)

    def training_set(self) -> BatchDataset | EpochDataset:
        """What the training batches are read from."""
        assert self._train is not None
        if not self._stays_on_device():
            return self._train
        if self._on_device is None:
            self._on_device = ResidentImages(self._train)
        return self._on_device.numbers()

    def _stays_on_device(self) -> bool:
        if self.resident is not None:
            return self.resident
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def gather(self, batch: Batch) -> None:
        """Add the images to a training batch of numbers, on its device."""
        if "image" not in batch:
            assert self._on_device is not None
            self._on_device.fill(batch)

    def train_dataloader(self) -> TrainLoader:
        loader = TrainLoader(
            self.training_set(),
            batch_size=self.batch_size,
            seed=derive_seed(self.seed, "batches"),
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            neighbour=any(step.NEIGHBOUR for step in self.augment),
        )
        return self.resumable(loader)

    def _evaluation(self) -> DataLoader[dict[str, Tensor]]:
        assert self._groups is not None
        return evaluation_loader(
            self._groups,
            batch_size=self.eval_batch_size,
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def condition_loader(self, group: int, *, shuffled: bool = False) -> DataLoader[Batch]:
        """The images of one test condition, shared out among processes; not yet normalised.

        Args:
            group: the condition's number.
            shuffled: in an order that is the same at every call, with batches that are each a fair
                sample and hold at least two images.
        """
        assert self._groups is not None
        span = self._groups.span(group)
        positions = torch.arange(span.start, span.stop)
        if shuffled:
            generator = generator_for("condition", *self._groups.groups[group])
            positions = positions[torch.randperm(len(positions), generator=generator)]
        return evaluation_loader(
            self._groups,
            batch_size=self.eval_batch_size,
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            positions=positions,
            least=2 if shuffled else 1,
        )

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._evaluation()

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._evaluation()

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if "epoch" in batch:
            self.gather(batch)
            self._augment(batch)
        batch["image"] = normalise(batch["image"], self.mean, self.std)
        if "views" in batch:
            batch["views"] = [normalise(view, self.mean, self.std) for view in batch["views"]]
        return batch

    def _augment(self, batch: dict[str, Any]) -> None:
        images, epoch = batch["image"], batch["epoch"]
        jitter_seed = derive_seed(self.seed, "jitter", epoch)
        images = jitter_colours(images, batch["index"], seed=jitter_seed, strength=self.jitter)
        seed = derive_seed(self.seed, "augmentation", epoch)
        if self.padding or self.flip:
            images = flip_and_shift(
                images, batch["index"], seed=seed, padding=self.padding, flip=self.flip
            )
        batch["image"] = images
        for step in self.augment:
            step.apply(batch, seed=self.seed, classes=self.num_classes)


class CIFAR(ImageClassificationData):
    """CIFAR-10 or CIFAR-100 from the published files, or a subset in the same layout.

    Args:
        root: folder that holds the batches or their usual folder.
        name: "cifar10" or "cifar100".
        corrupted: folder of the corrupted test set (``<corruption>.npy``, ``labels.npy``); None
            looks for CIFAR-10-C or CIFAR-100-C in `root`, then for the folder `root` + "-C".

    The other arguments are those of :class:`ImageClassificationData`.
    """

    def __init__(
        self,
        root: str = "~/datasets",
        name: CIFARName = "cifar10",
        corrupted: str | None = None,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        workers: int = 0,
        seed: int = 0,
        padding: int = 4,
        flip: bool = True,
        jitter: float = 0.0,
        augment: Sequence[Augmentation] = (),
        corruptions: Sequence[str] = CORRUPTIONS,
        resident: bool | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            workers=workers,
            seed=seed,
            padding=padding,
            flip=flip,
            jitter=jitter,
            augment=augment,
            corruptions=corruptions,
            resident=resident,
        )
        self.root = Path(root).expanduser()
        self.name: CIFARName = name
        self.corrupted = None if corrupted is None else Path(corrupted).expanduser()
        self.num_classes = SETS[name].num_classes
        self._corrupted_origin: str | None = None

    def describe(self) -> dict[str, Any]:
        """See the base class; also who made the corrupted images that were tested."""
        origin = self._corrupted_origin
        return {**super().describe(), **({} if origin is None else {"corrupted": origin})}

    def read(self) -> tuple[Arrays, Arrays]:
        train, test = (read_cifar(self.root, self.name, train=part) for part in (True, False))
        title, counts = SETS[self.name].title, f"{len(train[1])}+{len(test[1])} images"
        self.title = (
            title if is_original(self.root, self.name) else f"{self.name}-subset ({counts})"
        )
        if self.title != title:
            warnings.warn(
                f"{self.root} has the layout of {title}, but not its files: {counts} for training "
                f"and test. Results will be called {self.title}.",
                stacklevel=2,
            )
        return train, test

    def find_corrupted(self) -> None:
        folder = self._corrupted_folder()
        for name in (*self.corruptions, "labels"):
            require_array(folder, name)

    def read_corrupted(self, test: Arrays) -> dict[Group, Arrays]:
        folder = self._corrupted_folder()
        arrays, labels = open_corrupted(folder, self.corruptions, n=len(test[1]))
        n = len(test[1])
        if not np.array_equal(labels, np.tile(test[1], len(SEVERITIES))):
            raise ValueError(
                f"Expected the labels in {folder} to be those of the test set in {self.root}, but "
                "they differ: the two belong to different images. Give the matching folder by "
                f"--data.corrupted, or make it with `{self._command()}`."
            )
        side = test[0].shape[1:3]
        for name, array in arrays.items():
            if array.shape[1:3] != side:
                other, own = ("x".join(map(str, size)) for size in (array.shape[1:3], side))
                raise ValueError(
                    f"Expected the images in {folder / name}.npy to be {own}, as the test set in "
                    f"{self.root}, but got {other}: give the matching folder by --data.corrupted, "
                    f"or make it with `{self._command()}`."
                )
        self._corrupted_origin = origin_of(folder, *test)
        return {
            Group(name, severity): (arrays[name][part], np.asarray(labels[part], dtype=np.int64))
            for name in self.corruptions
            for severity in SEVERITIES
            for part in [slice((severity - 1) * n, severity * n)]
        }

    def _corrupted_folder(self) -> Path:
        usual = SETS[self.name].title + "-C"
        choices = (self.root / usual, self.root.with_name(self.root.name + "-C"))
        if self.corrupted is not None:
            choices = (self.corrupted, self.corrupted)
        for folder in choices:
            if folder.is_dir():
                return folder
        raise DataNotFoundError(
            f"Expected the corrupted test set in {' or '.join(dict.fromkeys(map(str, choices)))}, "
            f"as <corruption>.npy and labels.npy, but there is no such folder. Make it with "
            f"`{self._command()}`, or fetch the published one with "
            f"`python -m data.prepare {self.name}c --root {self.root}`; "
            "`--data.corruptions []` tests on clean images alone."
        )

    def _command(self) -> str:
        return f"python -m data.prepare corrupt --root {self.root}"


class Digits(ImageClassificationData):
    """scikit-learn's bundled scans of handwritten digits: 1,200 for training, 597 for the test.

    The scans are 8x8 greys (UCI "Optical Recognition of Handwritten Digits", Alpaydin & Kaynak
    1998), doubled to 16x16 and given three channels. Order, and so the split, is fixed. The test's
    corruptions are made here, from a fixed seed; the default ones are one of each family, and
    contrast beside brightness.
    """

    title = "scikit-learn digits (16x16)"
    num_classes = 10
    COMPLETE = ("gaussian_noise", "defocus_blur", "fog", "brightness", "contrast")
    CORRUPTION_SEED = 0
    TRAIN = 1200

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 500,
        workers: int = 0,
        seed: int = 0,
        padding: int = 2,
        flip: bool = False,
        jitter: float = 0.0,
        augment: Sequence[Augmentation] = (),
        corruptions: Sequence[str] = COMPLETE,
        resident: bool | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            workers=workers,
            seed=seed,
            padding=padding,
            flip=flip,
            jitter=jitter,
            augment=augment,
            corruptions=corruptions,
            resident=resident,
        )

    def read(self) -> tuple[Arrays, Arrays]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
        large = torch.nn.functional.interpolate(grey, scale_factor=2, mode="bilinear")
        images = large.round().to(torch.uint8).permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()
        labels = digits.target.astype(np.int64)
        # The scans come writer by writer; a fixed shuffle gives both parts the same writers.
        order = np.random.RandomState(0).permutation(len(labels))
        images, labels = np.ascontiguousarray(images[order]), labels[order]
        cut = self.TRAIN
        return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])

    def describe(self) -> dict[str, Any]:
        made = {"corrupted": made_by(GENERATOR, self.CORRUPTION_SEED)} if self.corruptions else {}
        return {**super().describe(), **made}

    def read_corrupted(self, test: Arrays) -> dict[Group, Arrays]:
        images = torch.from_numpy(test[0]).permute(0, 3, 1, 2).contiguous()
        sets: dict[Group, Arrays] = {}
        for name in self.corruptions:
            for severity in SEVERITIES:
                made = corrupt(images, name, severity, seed=self.CORRUPTION_SEED)
                array = np.ascontiguousarray(made.permute(0, 2, 3, 1).numpy())
                sets[Group(name, severity)] = array, test[1]
        return sets
