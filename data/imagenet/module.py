"""ImageNet and ImageNet-C in folders, or any set, however small, in the same layout.

Layouts: see :mod:`data.imagenet.layout`. Training yields {"image": (B, 3, S, S) float32 normalised,
"label": (B,), "index": (B,)}, evaluation also "group", the number of the test condition.

Images are decoded by the loader's workers and stay uint8 until they are on the device. Sources:
Russakovsky et al. 2015, https://image-net.org; Hendrycks & Dietterich 2019,
https://github.com/hendrycks/robustness
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from data.classification.module import SEVERITIES, ImageClassificationData
from data.errors import DataNotFoundError
from data.files import is_hidden
from data.imagenet.batches import FolderSets, TrainingImages, centre_square, exact_square
from data.imagenet.folders import (
    ClassOrder,
    FolderImages,
    check_classes,
    drop_misplaced,
    drop_unreadable,
    list_images,
)
from data.imagenet.layout import (
    ALEXNET_ERRORS,
    CLASSES,
    Condition,
    condition_folders,
    corrupted_folder,
    files_fingerprint,
    made_here,
    missing_conditions,
    part_of,
    title_of,
)
from data.images import Group
from data.loading import ResumableDataModule, require_at_least
from data.randomness import derive_seed

__all__ = ["ImageNet"]

CLEAN = Group("clean", 0)


class ImageNet(ImageClassificationData):
    """ImageNet in folders by class, with ImageNet-C as the corrupted test.

    Args:
        root: folder with ``train`` and ``val``; tests can do without ``train``.
        title: true name of a set that is not ImageNet, to which results add its counts; None calls
            it imagenet-subset where classes are named as ImageNet's, and image-folder elsewhere.
        class_order: of the classes' numbers: "name" sorts their folders as torchvision does,
            "number" as numbers (0, 1, 2, 10), which ImageNetV2's folders are; None is "name", and
            refused for given weights where the two differ.
        corrupted: folder of the corrupted test set; None looks for ``ImageNet-C`` in `root` and
            beside it, then for the folder `root` + "-C".
        eval_batch_size: of evaluation, a process.
        workers: processes that decode the images.
        image_size: side of the square images that the network sees, in pixels.
        resize: of the shorter side before evaluation crops the middle; None is 256/224 of
            `image_size`. Corrupted images are used as they are.
        flip: random horizontal flips.
        severities: of the test's corruptions, 1 to 5.
        verify: decode every image before the run, to name all that cannot be read.
        skip_bad: verify, and leave out what cannot be read or should not be there.

    The other arguments are those of :class:`ImageClassificationData`.
    """

    NEUTRAL = ResumableDataModule.NEUTRAL | {"title", "verify"}
    MEASURED = ImageClassificationData.MEASURED | {"corrupted", "severities"}
    SIZE, SIZED_BY = 224, "image_size"
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    LOCATIONS = ("root", "corrupted")

    def __init__(
        self,
        root: str = "~/datasets/imagenet",
        corrupted: str | None = None,
        *,
        title: str | None = None,
        class_order: ClassOrder | None = None,
        eval_batch_size: int = 128,
        workers: int = 8,
        image_size: int = 224,
        resize: int | None = None,
        flip: bool = True,
        severities: Sequence[int] = SEVERITIES,
        verify: bool = False,
        skip_bad: bool = False,
        **options: Any,
    ) -> None:
        # Crops and flips are made in the workers, of the large images.
        super().__init__(
            eval_batch_size=eval_batch_size,
            workers=workers,
            padding=0,
            flip=False,
            jitter=0.0,
            resident=False,
            **options,
        )
        require_at_least(image_size=(image_size, 8))
        if resize is not None and resize < image_size:
            raise ValueError(
                f"Expected `resize` to be at least `image_size` ({image_size}), but got {resize}."
            )
        if unknown := sorted(set(severities) - set(SEVERITIES)):
            raise ValueError(f"Expected `severities` to be among {SEVERITIES}, but got {unknown}.")
        if self.corruptions and not severities:
            raise ValueError("Expected at least one of `severities`, but got none.")
        self.root = Path(root).expanduser()
        self.corrupted = None if corrupted is None else Path(corrupted).expanduser()
        self.set_title = title
        self.class_order: ClassOrder | None = class_order
        self.image_size = image_size
        self.resize = round(image_size * 256 / 224) if resize is None else resize
        self.mirror = flip
        self.severities = tuple(sorted(set(severities)))
        self.verify, self.skip_bad = verify, skip_bad
        self._training: FolderImages | None = None
        self._sets: dict[Group, FolderImages] = {}
        self._made: dict[str, Any] | None = None

    @cached_property
    def num_classes(self) -> int:  # type: ignore[override]  # known once the folder is looked at
        """How many classes the training set has, or the validation set where it stands alone."""
        alone = (self.root / "val").is_dir() and not (self.root / "train").is_dir()
        folder = part_of(self.root, "val" if alone else "train")
        return sum(entry.is_dir() and not is_hidden(entry.name) for entry in folder.iterdir())

    def as_tested(self, image: Image.Image) -> Tensor:
        """See the base class."""
        return pil_to_tensor(centre_square(image, "", resize=self.resize, size=self.image_size))

    def setup(self, stage: str) -> None:
        if stage == "fit" or (self.root / "train").is_dir():
            self._training = self._training or self._listed(part_of(self.root, "train"))
        if not self._sets:
            self._sets[CLEAN] = self._listed(part_of(self.root, "val"))
        if self._training is not None:
            clean, training = self._sets[CLEAN], self._training
            check_classes(clean.classes, training.classes, clean.folder, training.folder)
        self.say_missing(stage)
        if stage == "test" and self.corruptions and len(self._sets) == 1:
            self._sets |= self._corrupted_sets(self._sets[CLEAN])
        middle = partial(centre_square, resize=self.resize, size=self.image_size)
        whole = partial(exact_square, size=self.image_size)
        self._groups = FolderSets(
            {g: (images, whole if g.severity else middle) for g, images in self._sets.items()},
            self.image_size,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of their folders, in the order of their numbers."""
        return self._sets[CLEAN].classes

    def training_set(self) -> TrainingImages:
        assert self._training is not None
        seed = derive_seed(self.seed, "augmentation")
        return TrainingImages(self._training, size=self.image_size, flip=self.mirror, seed=seed)

    def _listed(self, folder: Path) -> FolderImages:
        images = list_images(folder, skip_bad=self.skip_bad, order=self.class_order)
        if self.verify or self.skip_bad:
            return drop_unreadable(images, skip=self.skip_bad)
        return images

    def find_corrupted(self) -> None:
        self._condition_folders()

    def _condition_folders(self) -> tuple[Path, dict[Condition, Path]]:
        base = corrupted_folder(self.root, self.corrupted)
        folders = condition_folders(base, self.corruptions, self.severities)
        if problem := missing_conditions(folders, base, self.root):
            raise DataNotFoundError(problem)
        return base, folders

    def _corrupted_sets(self, clean: FolderImages) -> dict[Group, FolderImages]:
        base, folders = self._condition_folders()
        self._made = made_here(base)
        sets: dict[Group, FolderImages] = {}
        for condition, folder in folders.items():
            images = self._listed(folder)
            check_classes(images.classes, clean.classes, folder, clean.folder)
            images = drop_misplaced(images, clean, skip=self.skip_bad)
            # One tells of all: in the test itself, it would be the first after the clean images.
            exact_square(images.read(0), images.path(0), size=self.image_size)
            first = next(iter(sets.values()), images)
            if not self.skip_bad and not images.same_files(first):
                raise ValueError(
                    f"Expected every condition to hold the same images, but {folder} "
                    f"({len(images)}) and {first.folder} ({len(first)}) differ: a mean over them "
                    "would mix images. Fetch or make the set again, or name the conditions to "
                    "test by --data.corruptions and --data.severities."
                )
            sets[Group(*condition)] = images
        return sets

    def reference_errors(self) -> dict[str, float] | None:
        """AlexNet's errors, which belong to the published corruptions of all ImageNet's classes."""
        own = self.num_classes != CLASSES or self._made is not None
        return None if own else ALEXNET_ERRORS

    def training_fingerprint(self) -> str | None:
        assert self._training is not None
        return files_fingerprint([self._training])

    def describe(self) -> dict[str, Any]:
        clean, *corrupted = self._sets.values()
        training = [] if self._training is None else [self._training]
        described: dict[str, Any] = {
            "dataset": title_of(
                self._training, clean, corrupted, self._made is not None, self.set_title
            ),
            "fingerprint": files_fingerprint([*training, clean]),
            "n_train": sum(map(len, training)),
            "n_test": len(clean),
        }
        if corrupted:
            described["corrupted_fingerprint"] = files_fingerprint(corrupted)
            described["corruptions_made_with"] = self._made
        return described
