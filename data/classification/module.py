"""Data modules of the classification task: CIFAR and its corrupted test sets, bundled digits.

Training yields {"image": (B, 3, H, W) float32 normalised, "label": (B,), "index": (B,)}; images
stay uint8 until they are on the device, where each sample is cropped and flipped by itself. What
``--data.augment`` lists comes after that (see :mod:`data.augmentations`): AugMix adds "views", a
list of more such images; Mixup and CutMix make "label" float (B, classes).
Evaluation yields {"image", "label", "group"} with the test condition's number in `group`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from data.augmentations.crops import flip_and_shift, jitter_colours
from data.augmentations.steps import Augmentation, check_order
from data.classification.resident import ResidentImages
from data.corruptions.recipes import ALL_CORRUPTIONS, CORRUPTIONS
from data.errors import DataNotFoundError
from data.images import EvaluationSets, Group, ImageTensor, check_statistics, fingerprint, normalise
from data.loading import (
    Batch,
    BatchDataset,
    EpochDataset,
    ResumableDataModule,
    TrainLoader,
    evaluation_loader,
    require_at_least,
)
from data.randomness import derive_seed, generator_for

__all__ = [
    "ImageClassificationData",
]

SEVERITIES = (1, 2, 3, 4, 5)


Arrays = tuple[np.ndarray, np.ndarray]


class TestConditions(BatchDataset, Protocol):
    """The test's conditions behind one another; see :class:`data.images.EvaluationSets`."""

    groups: list[Group]

    def span(self, group: int) -> range: ...


class ImageClassificationData(ResumableDataModule):
    """What the data sets share: loaders, augmentation, and the conditions of the test.

    Args:
        padding: of the random crop, in pixels.
        flip: random horizontal flips.
        jitter: strength of random brightness and contrast in training; 0 is none.
        augment: further augmentation of the training batches, in order; see configs/augment/.
        corruptions: names of the test's corruptions; empty tests on clean images alone.
        resident: keep all training images on the device and draw the batches there, which changes
            no result; None does so on a GPU.

    The other arguments are those of :class:`data.loading.ResumableDataModule`.

    Attributes:
        MEAN: of the input normalisation, in [0, 1], by channel.
        STD: of the input normalisation, by channel.
        COMPLETE: the corruptions whose mean, over all severities, is the set's mean corruption
            error; over others it is a partial one.
    """

    MEAN: ClassVar[Sequence[float]] = (0.5, 0.5, 0.5)
    STD: ClassVar[Sequence[float]] = (0.5, 0.5, 0.5)
    COMPLETE: ClassVar[tuple[str, ...]] = CORRUPTIONS
    NEUTRAL = ResumableDataModule.NEUTRAL | {"resident"}
    MEASURED = frozenset({"corruptions"})
    num_classes: int
    title: str

    def __init__(
        self,
        *,
        padding: int = 4,
        flip: bool = True,
        jitter: float = 0.0,
        augment: Sequence[Augmentation] = (),
        corruptions: Sequence[str] = CORRUPTIONS,
        resident: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        require_at_least(padding=(padding, 0))
        if not 0.0 <= jitter <= 1.0:
            raise ValueError(f"Expected `jitter` to be in [0, 1], but got {jitter}.")
        check_order(augment)
        unknown = [name for name in corruptions if name not in ALL_CORRUPTIONS]
        if unknown:
            raise ValueError(
                f"Expected `corruptions` to be among {', '.join(ALL_CORRUPTIONS)}, but got "
                f"{', '.join(map(repr, unknown))}."
            )
        self.padding = padding
        self.flip = flip
        self.jitter = jitter
        self.augment = tuple(augment)
        self.corruptions = tuple(corruptions)
        self.resident = resident
        self.mean, self.std = check_statistics(self.MEAN, self.STD)
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

    def as_tested(self, image: Image.Image) -> Tensor:
        """Any RGB image as one of the test's, uint8 (3, H, W): its middle square, resized."""
        return pil_to_tensor(center_crop(resize(image, [self.SIZE]), [self.SIZE]))

    def test_view(self, images: Tensor) -> Tensor:
        """What the network gets of (B, 3, H, W) test images."""
        return normalise(images, self.mean, self.std)

    def describe(self) -> dict[str, Any]:
        """What a result must say of its data: true name, fingerprint, counts."""
        assert self._train is not None and self._test is not None
        train = self._train
        return {
            "dataset": self.title,
            "fingerprint": fingerprint(train.images.numpy(), train.labels.numpy(), *self._test),
            "n_train": len(train),
            "n_test": len(self._test[1]),
            **self._corrupted_fingerprint(),
        }

    def _corrupted_fingerprint(self) -> dict[str, str]:
        if not isinstance(self._groups, EvaluationSets) or len(self._groups.groups) < 2:
            return {}
        return {"corrupted_fingerprint": self._groups.fingerprint}

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
