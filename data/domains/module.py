"""Data module of domain adaptation: a labelled source domain and an unlabelled target domain.

Training yields {"image": (B, 3, H, W) float32 normalised, "label": (B,), "target": (B, 3, H, W)}
with as many images of each domain; there is no target label in it. Evaluation yields {"image",
"label", "index"} of all target images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from data.augmentations.crops import centre_crop, crop_and_flip
from data.domains.folders import Files, domains_root, pair_of, title_of
from data.domains.images import as_square, read_images
from data.images import ImageTensor, check_statistics, normalise
from data.loading import (
    Batch,
    BatchOrder,
    NumberedLoader,
    ResumableDataModule,
    evaluation_loader,
    process_rank,
    require_at_least,
    share_of,
    sharing,
    shuffled,
)
from data.randomness import derive_seed, generator_for

__all__ = ["DomainPair", "PairSchedule"]

# Of ImageNet, which pretrained networks expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PairSchedule:
    """Batch b of a run, for b from 0 on: `batch_size` source samples and as many target images.

    An epoch is one pass over the source; the last batch of it may be smaller. The target is passed
    over in whole batches and an order of its own, again and again; what a pass leaves out differs
    from pass to pass. Both orders are functions of the seed and the number of the pass.

    Args:
        source: labelled images.
        target: images (N, 3, H, W); nothing else of the target can reach a batch.
        batch_size: of the global batch of either domain, which processes share out.
        seed: of the orders.

    Raises:
        ValueError: a domain with fewer images than a batch, or a batch that the processes cannot
            share out.
    """

    def __init__(self, source: ImageTensor, target: Tensor, batch_size: int, seed: int) -> None:
        self.rank, self.world = sharing(batch_size)
        for name, n in (("source", len(source)), ("target", len(target))):
            if n < batch_size:
                raise ValueError(
                    f"Expected the {name} domain to have at least one batch of {batch_size} "
                    f"images, but it has {n}: set a smaller `data.batch_size`."
                )
        self.source, self.target = source, target
        n, whole = len(target), len(target) - len(target) % batch_size
        self._source = BatchOrder(
            len(source), batch_size, partial(shuffled, len(source), seed, "source")
        )
        self._target = BatchOrder(whole, batch_size, partial(shuffled, n, seed, "target"))
        self.per_epoch = self._source.per_epoch

    def samples(self, number: int) -> int:
        """How many images of each domain the global batch has."""
        return self._source.samples(number)

    def positions(self, number: int) -> tuple[Tensor, Tensor]:
        """Which source samples and which target images the global batch `number` has."""
        source = self._source[number]
        return source, self._target[number][: len(source)]

    def __getitem__(self, number: int) -> Batch:
        positions = [share_of(p, self.rank, self.world) for p in self.positions(number)]
        (source, share), (target, _) = positions
        batch: Batch = self.source[source.tolist()]
        batch["target"], batch["target_index"] = self.target[target], target
        # Python numbers: reading them on a GPU's host must not wait for the device.
        batch["number"], batch["epoch"], batch["share"] = number, number // self.per_epoch, share
        return batch


class DomainPair(ResumableDataModule):
    """Two domains below a folder, laid out as :mod:`data.domains.folders` says.

    All images are decoded at the start and kept in memory: N x 3 x `resize` x `resize` bytes in
    each process, 0.7 GB for the largest pair of Office-31.

    Args:
        root: folder of the domains, or one that has them in a folder called `name`.
        source: labelled domain.
        target: unlabelled domain, on all of which the test is.
        name: of the set: "office31", "pacs" (results say so where all published images are there,
            and "-subset" otherwise) or any other.
        batch_size: images of each domain in a global batch, which processes share out.
        eval_batch_size: of evaluation, a process.
        workers: threads that read the images at the start.
        resize: side in pixels that images are resized to.
        crop: side of the random crop in training and of the middle one in the test.
        min_area: below 1, training crops boxes of at least this area and resizes them to `crop`.
        flip: training images are mirrored with probability 1/2; not where left and right matter,
            as in digits.
        mean: of the input normalisation, in [0, 1], by channel.
        std: of the input normalisation, by channel.

    The other argument is that of :class:`data.loading.ResumableDataModule`.
    """

    SIZE, SIZED_BY = 224, "crop"

    def __init__(
        self,
        root: str = "~/datasets",
        *,
        source: str,
        target: str,
        name: str = "",
        batch_size: int = 32,
        eval_batch_size: int = 64,
        workers: int = 4,
        resize: int = 256,
        crop: int = 224,
        min_area: float = 1.0,
        flip: bool = True,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        **options: Any,
    ) -> None:
        require_at_least(workers=(workers, 1), crop=(crop, 8), resize=(resize, crop))
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers, **options
        )
        if not 0 < min_area <= 1:
            raise ValueError(f"Expected `min_area` to be in (0, 1], but got {min_area}.")
        self.folder = root
        self.source, self.target, self.set_name = source, target, name
        self.resize, self.crop, self.min_area, self.flip = resize, crop, min_area, flip
        self.mean, self.std = check_statistics(mean, std)
        self._images: tuple[Tensor, Tensor] | None = None

    @cached_property
    def root(self) -> Path:
        """Where the domains are."""
        return domains_root(self.folder, self.set_name)

    @cached_property
    def files(self) -> tuple[Files, Files]:
        """Of source and target; a network needs their classes' number, so looks before it is."""
        return pair_of(self.root, self.source, self.target)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.files[0])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, resize, resize) of source and target."""
        assert self._images is not None, "read by setup"
        return self._images

    def setup(self, stage: str) -> None:
        if self._images is None:
            parts = [read_images(paths_of(f), self.resize, self.workers) for f in self.files]
            self._images = parts[0][0], parts[1][0]
            self._digests = [digest for _, digest in parts]

    def describe(self) -> dict[str, Any]:
        """What a result must say of its data: true name, fingerprint, counts, direction."""
        return {
            "dataset": title_of(self.root, self.set_name, (self.source, self.target)),
            "fingerprint": self._fingerprint(),
            "n_train": len(self.images[0]),
            "n_test": len(self.images[1]),
            "unit": "images",
            "source": self.source,
            "target": self.target,
            "classes": list(self.classes),
        }

    def training_fingerprint(self) -> str | None:
        return self._fingerprint()  # All of both domains is trained on.

    def _fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of contents and labels, in this direction."""
        digest = hashlib.sha256("".join(self._digests).encode())
        for files in self.files:
            digest.update(repr([(name, len(paths)) for name, paths in files.items()]).encode())
        return digest.hexdigest()[:16]

    def train_dataloader(self) -> NumberedLoader:
        source, target = self.images
        schedule = PairSchedule(
            ImageTensor(source, labels_of(self.files[0])),
            target,
            self.batch_size,
            derive_seed(self.seed, "batches"),
        )
        return self.resumable(NumberedLoader(schedule, pin_memory=torch.cuda.is_available()))

    def _evaluation(self) -> DataLoader[Batch]:
        target = ImageTensor(self.images[1], labels_of(self.files[1]))
        return evaluation_loader(
            target, batch_size=self.eval_batch_size, pin_memory=torch.cuda.is_available()
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation()

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation()

    def target_batches(self, device: torch.device | str) -> Iterator[Tensor]:
        """The target's images as in the test, without labels, in a fixed random order.

        Processes get disjoint shares of nearly equal size.
        """
        rank, world = process_rank()
        target = self.images[1]
        order = torch.randperm(len(target), generator=generator_for(self.seed, "statistics"))
        share = order.tensor_split(world)[rank]
        for part in share.tensor_split(max(1, round(len(share) / self.eval_batch_size))):
            yield self.test_view(target[part].to(device))

    def test_view(self, images: Tensor) -> Tensor:
        """What a network sees of uint8 images (B, 3, resize, resize) in the test."""
        return normalise(centre_crop(images, self.crop), self.mean, self.std)

    def as_tested(self, image: Image.Image) -> Tensor:
        """Any RGB image as one of the test's, uint8 (3, `resize`, `resize`)."""
        return as_square(image, self.resize)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if "target" not in batch:
            batch["image"] = self.test_view(batch["image"])
            return batch
        for images, index in (("image", "index"), ("target", "target_index")):
            seed = derive_seed(self.seed, "augmentation", images, batch["number"])
            cut = crop_and_flip(
                batch[images],
                batch[index],
                seed=seed,
                size=self.crop,
                min_area=self.min_area,
                flip=self.flip,
            )
            batch[images] = normalise(cut, self.mean, self.std)
        return batch


def paths_of(files: Files) -> list[Path]:
    """Every image, class after class."""
    return [path for paths in files.values() for path in paths]


def labels_of(files: Files) -> Tensor:
    """int64 (N,): the class of each path of :func:`paths_of`."""
    counts = torch.tensor([len(paths) for paths in files.values()])
    return torch.repeat_interleave(torch.arange(len(counts)), counts)
