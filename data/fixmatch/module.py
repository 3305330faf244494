"""Data modules of semi-supervised training: few labelled images, all the others without labels.

Training yields {"image": (B, 3, H, W) weakly augmented, "label": (B,), "weak", "strong":
(mu * B, 3, H, W) two views of the same unlabelled images, "hidden": (mu * B,) their labels, for
figures alone}. Weak: flip and shift. Strong: flip and shift, RandAugment with FixMatch's own
operations, Cutout. Views are made on the device, per sample. The test is classification's.

Source: Sohn et al. 2020, https://arxiv.org/abs/2001.07685, and its released code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from data import classification
from data.augmentations.randaugment import fixmatch_strong, fixmatch_weak
from data.classification.module import ImageClassificationData
from data.fixmatch.draws import Draws, PairedSchedule, draw_hash, draw_labelled
from data.images import normalise
from data.loading import EpochDataset, NumberedLoader, require_at_least
from data.randomness import derive_seed

__all__ = ["CIFAR", "Digits", "SemiSupervised", "Unlabelled"]

Unlabelled = Literal["all", "rest"]


class SemiSupervised(ImageClassificationData):
    """What makes a data set of images semi-supervised: the draws and the views.

    Args:
        labels: how many training images have their label used, balanced by class.
        steps_per_epoch: training steps that count as an epoch.
        label_seed: of the labelled draw alone, so that the runs of all seeds share it.
        unlabelled: "all" training images, also the labelled ones, as in FixMatch's code, or the
            "rest".
        unlabelled_ratio: mu, unlabelled images for each labelled one of a batch; 0 trains on the
            labelled images alone.

    The other arguments are those of the data set; what classification does to its training images
    is not done to these.

    Attributes:
        labelled: int64 (n,), indices of the labelled training images; set by ``setup``.
    """

    labelled: Tensor | None = None

    def __init__(
        self,
        *args: Any,
        labels: int,
        steps_per_epoch: int,
        label_seed: int = 1,
        unlabelled: Unlabelled = "all",
        unlabelled_ratio: int = 7,
        **options: Any,
    ) -> None:
        super().__init__(*args, padding=0, jitter=0.0, augment=(), **options)
        require_at_least(
            labels=(labels, 1),
            unlabelled_ratio=(unlabelled_ratio, 0),
            steps_per_epoch=(steps_per_epoch, 1),
        )
        if unlabelled not in get_args(Unlabelled):
            raise ValueError(
                f"Expected `unlabelled` to be one of {get_args(Unlabelled)}, but got "
                f"{unlabelled!r}."
            )
        self.labels = labels
        self.label_seed = label_seed
        self.unlabelled: Unlabelled = unlabelled
        self.unlabelled_ratio = unlabelled_ratio
        self.steps_per_epoch = steps_per_epoch

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.labelled is None:
            assert self._train is not None
            self.labelled = draw_labelled(
                self._train.labels, self.labels, num_classes=self.num_classes, seed=self.label_seed
            )
            self._members = self._unlabelled_members(self.labelled, len(self._train))
            rank_zero_info(self._said())

    def _unlabelled_members(self, labelled: Tensor, n: int) -> Tensor:
        members = torch.arange(n)
        if self.unlabelled == "rest":
            taken = torch.zeros(n, dtype=torch.bool)
            taken[labelled] = True
            members = members[~taken]
        size = self.batch_size * self.unlabelled_ratio
        if len(members) < size:
            remedy = "lower one of the two"
            if self.unlabelled == "rest":
                remedy += ", or take `unlabelled` all"
            raise ValueError(
                f"Expected the unlabelled set to hold at least one batch of {size} images "
                f"(`batch_size` {self.batch_size} x `unlabelled_ratio` {self.unlabelled_ratio}), "
                f"but got {len(members)}: {remedy}."
            )
        return members

    def _said(self) -> str:
        """The draw in a sentence."""
        assert self.labelled is not None and self._train is not None
        counts = torch.bincount(self._train.labels[self.labelled], minlength=self.num_classes)
        least, most = int(counts.min()), int(counts.max())
        share = f"{least} a class"
        if most > least:
            share = (
                f"{self.num_classes} classes do not divide them: {least} a class, and one more "
                f"for {int((counts == most).sum())} classes drawn by the label seed"
            )
        unlabelled = f"{len(self._members)} images" if self.unlabelled_ratio else "none"
        return (
            f"Labels: {self.labels} of {len(self._train)} ({share}), label seed "
            f"{self.label_seed}, draw {draw_hash(self.labelled)}. Unlabelled: {unlabelled}."
        )

    def labelled_draw(self) -> dict[str, Any]:
        """The draw, to be saved with the run."""
        assert self.labelled is not None and self._train is not None
        return {
            "hash": draw_hash(self.labelled),
            "label_seed": self.label_seed,
            "index": self.labelled.tolist(),
            "label": self._train.labels[self.labelled].tolist(),
        }

    def describe(self) -> dict[str, Any]:
        draw = self.labelled_draw()
        return {
            **super().describe(),
            "n_labelled": len(draw["index"]),
            "n_unlabelled": len(self._members) if self.unlabelled_ratio else 0,
            "labelled_draw": draw["hash"],
        }

    def train_dataloader(self) -> NumberedLoader:  # type: ignore[override]
        assert self.labelled is not None
        images = self.training_set()
        assert not isinstance(images, EpochDataset)
        labelled = Draws(
            images,
            self.labelled,
            batch_size=self.batch_size,
            seed=derive_seed(self.seed, "labelled"),
        )
        unlabelled = None
        if self.unlabelled_ratio:
            unlabelled = Draws(
                images,
                self._members,
                batch_size=self.batch_size * self.unlabelled_ratio,
                seed=derive_seed(self.seed, "unlabelled"),
            )
        loader = NumberedLoader(
            PairedSchedule(labelled, unlabelled, steps_per_epoch=self.steps_per_epoch),
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )
        return self.resumable(loader)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        if "labelled" not in batch:
            return super().on_after_batch_transfer(batch, dataloader_idx)
        labelled = batch["labelled"]
        views = {
            "number": batch["number"],
            "epoch": batch["epoch"],
            "image": self._view(fixmatch_weak, labelled, "labelled"),
            "label": labelled["label"],  # there once the images are
            "index": labelled["index"],
        }
        if "unlabelled" in batch:
            unlabelled = batch["unlabelled"]
            views["weak"] = self._view(fixmatch_weak, unlabelled, "weak")
            views["strong"] = self._view(fixmatch_strong, unlabelled, "strong")
            views["hidden"] = unlabelled["label"]
            views["unlabelled_index"] = unlabelled["index"]
        return views

    def _view(self, augment: Callable[..., Tensor], part: dict[str, Tensor], stream: str) -> Tensor:
        self.gather(part)
        # A draw's number, not its image's index: an image comes many times in an epoch.
        seed = derive_seed(self.seed, stream, "augmentation")
        images = augment(part["image"], part["draw"], seed=seed, flip=self.flip)
        return normalise(images, self.mean, self.std)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.labelled is not None:
            state["labelled_draw"] = draw_hash(self.labelled)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict["labelled_draw"]
        if self.labelled is not None and saved != draw_hash(self.labelled):
            raise ValueError(
                f"Expected the labelled images to be those of the checkpoint (draw {saved}), but "
                f"got draw {draw_hash(self.labelled)}: the training images are not the same."
            )
        super().load_state_dict(state_dict)


class CIFAR(SemiSupervised, classification.CIFAR):
    """CIFAR-10 or CIFAR-100, or a subset in the same layout, with few labels.

    Args:
        labels: how many labels are used.
        steps_per_epoch: training steps that count as an epoch.
        batch_size: B, labelled images of the global batch.

    The others are those of :class:`SemiSupervised` and :class:`data.classification.CIFAR`.
    """

    def __init__(
        self,
        *args: Any,
        labels: int = 250,
        steps_per_epoch: int = 1024,
        batch_size: int = 64,
        **options: Any,
    ) -> None:
        super().__init__(
            *args, labels=labels, steps_per_epoch=steps_per_epoch, batch_size=batch_size, **options
        )


class Digits(SemiSupervised, classification.Digits):
    """scikit-learn's bundled digits with few labels; arguments as in :class:`CIFAR`."""

    def __init__(
        self,
        *,
        labels: int = 40,
        steps_per_epoch: int = 100,
        batch_size: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(
            labels=labels, steps_per_epoch=steps_per_epoch, batch_size=batch_size, **options
        )
