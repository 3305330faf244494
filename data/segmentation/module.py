"""Data module of the segmentation task: trained on a source, scored on a source and a target.

Training yields {"image": (B, 3, S, S) float32 normalised, "label": (B, S, S) int64 with 255 for
ignored pixels, "index": (B,)}. Evaluation yields whole images, and in each batch those of one size
and one domain: {"image": (B, 3, H, W), "label": (B, H, W), "index": (B,), "domain": 0 or 1}.
Prediction yields {"image", "index"}.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from data.errors import DataNotFoundError
from data.files import is_hidden, replacing
from data.images import check_statistics, normalise
from data.loading import (
    Batch,
    ResumableDataModule,
    TrainLoader,
    process_rank,
    require_at_least,
)
from data.randomness import derive_seed
from data.segmentation.label_files import check_part
from data.segmentation.labels import CLASSES
from data.segmentation.layouts import (
    IMAGE_SUFFIXES,
    Collection,
    find_layout,
    is_image,
    open_collection,
)
from data.segmentation.sets import (
    EvaluationImages,
    PlainImages,
    TrainingCrops,
    read_pair,
    size_batches,
    verify_pairs,
)
from data.segmentation.transforms import JointTransform
from data.workers import WorkerLoader, start_worker

__all__ = ["DOMAINS", "SourceAndTarget"]

DOMAINS = ("source", "target")
# Of ImageNet's training images, by channel in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_HOW_TO_GET = (
    "GTA5 is downloaded from https://download.visinf.tu-darmstadt.de/data/from_games/ (the image "
    "and label archives, and read_mapping.zip for split.mat); for Cityscapes register at "
    "https://www.cityscapes-dataset.com/ and download leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip. To try the task at once, make road scenes in both layouts with "
    "`python -m data.prepare scenes --root DIR` and run `python -m tasks.segmentation fit --config "
    "configs/scenes.yaml --data.root DIR`."
)


class SourceAndTarget(ResumableDataModule):
    """A labelled source to train on and a labelled target that is only scored.

    Each root has GTA5's or Cityscapes' layout, whichever is found there. Scored are the source's
    validation part and the target's: of Cityscapes' layout its ``val``, of GTA5's that of
    split.mat, or all images where there is none.

    Args:
        root: folder in which roots that are not found from here are looked for.
        source_root: of the source.
        target_root: of the target.
        source_name: true name of a source that is not the whole of GTA5 or Cityscapes; None takes
            its folder's name. The result's name adds the numbers of images.
        target_name: the same of the target.
        batch_size: images of an optimiser step, which processes share out and
            ``--trainer.accumulate_grad_batches`` cuts into smaller forwards.
        eval_batch_size: most images in a batch of evaluation, a process.
        workers: processes that decode and augment.
        crop_size: side of the training crops, in pixels.
        scale: range of the random factor on the images' size.
        rotate: largest random angle, in degrees.
        blur: blur half of the crops.
        flip: mirror half of the crops.
        pad: where a scaled image is smaller than the crop, fill up with ignored pixels of the mean
            colour; without it, such sizes are refused.
        verify: read every image and its labels before the run, to name all that cannot be used.
        predict_root: folder of images for ``predict``, searched through its folders; None predicts
            the target's.
        mean: of the input normalisation, in [0, 1], by channel.
        std: of the input normalisation, by channel.

    The other argument is that of :class:`data.loading.ResumableDataModule`.

    Raises:
        DataNotFoundError: a root is not there, and no `predict_root` is given.
    """

    NEUTRAL = ResumableDataModule.NEUTRAL | {"verify", "predict_root"}
    SIZE, SIZED_BY = 713, "crop_size"
    LOCATIONS = ("root", "source_root", "target_root", "predict_root")
    # Whose last part names the data, unless this option does.
    NAMED = MappingProxyType({"source_root": "source_name", "target_root": "target_name"})
    num_classes = len(CLASSES)
    class_names = CLASSES

    def __init__(
        self,
        root: str = "~/datasets",
        source_root: str = "gta5",
        target_root: str = "cityscapes",
        *,
        source_name: str | None = None,
        target_name: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        workers: int = 4,
        crop_size: int = 713,
        scale: tuple[float, float] = (0.5, 2.0),
        rotate: float = 10.0,
        blur: bool = True,
        flip: bool = True,
        pad: bool = True,
        verify: bool = False,
        predict_root: str | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **options: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, workers=workers, **options
        )
        require_at_least(crop_size=(crop_size, 1))
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"Expected `scale` to be a rising range above 0, but got {scale}.")
        if not 0 <= rotate <= 180:
            raise ValueError(f"Expected `rotate` to be in [0, 180] degrees, but got {rotate}.")
        self.roots = tuple(_placed(place, root) for place in (source_root, target_root))
        self.names = source_name, target_name
        self.pad, self.verify = pad, verify
        self.predict_root = None if predict_root is None else Path(predict_root).expanduser()
        self.mean, self.std = check_statistics(mean, std)
        self.transform = JointTransform(
            crop_size,
            scale=(scale[0], scale[1]),
            rotate=rotate,
            blur=blur,
            flip=flip,
            fill=[round(255 * channel) for channel in mean],
        )
        self.found: tuple[Collection, Collection] | None = None
        self.plain: PlainImages | None = None
        if predict_root is None:
            # At once: before weights are fetched for data that are not there.
            self._require_roots()

    @property
    def source(self) -> Collection:
        assert self.found is not None
        return self.found[0]

    @property
    def target(self) -> Collection:
        assert self.found is not None
        return self.found[1]

    # ------------------------------------------------------------------------------ what is there

    def setup(self, stage: str) -> None:
        if stage == "predict" and self.predict_root is not None:
            self.plain = PlainImages(_images_below(self.predict_root), self.predict_root)
            return
        if self.found is None:
            self._require_roots()
            source = open_collection(self.roots[0], ("train", "val"))
            target = open_collection(self.roots[1], ("val",))
            self.found = source, target
            for note in source.notes + target.notes:
                rank_zero_info(note)
            self._check_crop()
            if self.verify:
                parts = (*source.parts.values(), *target.parts.values())
                verify_pairs([pair for pairs in parts for pair in pairs])
        if stage != "predict":
            self._check_labels(("train", "val") if stage == "fit" else ("val",))
        if stage == "fit":
            self._record_lists()
        if stage == "predict":
            pairs = self.target.parts["val"]
            images = [(pair.name, pair.image) for pair in pairs]
            self.plain = PlainImages(images, self.target.root)

    def _require_roots(self) -> None:
        missing = [
            f"the {domain} in {root}"
            for domain, root in zip(DOMAINS, self.roots, strict=True)
            if find_layout(root) is None
        ]
        if missing:
            raise DataNotFoundError(
                f"Expected the source in {self.roots[0]} and the target in {self.roots[1]} "
                "(`--data.source_root`, `--data.target_root`), each as images/NNNNN.png with "
                "labels/NNNNN.png (GTA5's layout) or as leftImg8bit/<split>/<city>/ with "
                f"gtFine/<split>/<city>/ (Cityscapes'), but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not there. {_HOW_TO_GET}"
            )

    def _check_labels(self, parts: Sequence[str]) -> None:
        """Whether what is trained and scored on has labels, in the coding that their names say."""
        for found in (self.source, self.target):
            for part in parts:
                pairs = found.parts.get(part, [])
                where = f"the {part} part of {found.root}"
                if pairs:
                    check_part([(pair.label, pair.kind) for pair in pairs], where)

    def _check_crop(self) -> None:
        if self.pad:
            return
        crop, least = self.transform.crop_size, self.transform.scale[0]
        smallest = min(self.source.parts["train"], key=lambda p: min(p.height, p.width))
        if round(least * min(smallest.height, smallest.width)) < crop:
            raise ValueError(
                f"Expected `crop_size` to fit into every image, but got {crop}, and "
                f"{smallest.name} of {smallest.width}x{smallest.height} pixels scaled by {least} "
                "is smaller: take a smaller crop, a larger `scale`, or `--data.pad true`."
            )

    def _record_lists(self) -> None:
        """Write which images the run trains on and is scored on into its directory."""
        if process_rank()[0] or self.trainer is None:
            return
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        lists = {
            domain: {
                "fingerprint": found.fingerprint(),
                **{part: [pair.name for pair in pairs] for part, pairs in found.parts.items()},
                "left out": found.left_out,
            }
            for domain, found in (("source", self.source), ("target", self.target))
        }
        with replacing(folder / "images.json", mark=os.getpid()) as part:
            part.write_text(json.dumps(lists, indent=0) + "\n")

    def describe(self) -> dict[str, Any]:
        """What a result must say of its data: true name, fingerprint, counts."""
        counts = [
            len(pairs) for pairs in (*self.source.parts.values(), *self.target.parts.values())
        ]
        train, val, target = counts
        names = [
            found.title or name or found.root.resolve().name
            for found, name in zip((self.source, self.target), self.names, strict=True)
        ]
        title = " -> ".join(names)
        if not (self.source.title and self.target.title):
            title += f" ({train}+{val} and {target} images)"
        return {
            "dataset": title,
            "fingerprint": f"{self.source.fingerprint()}-{self.target.fingerprint()}",
            "n_train": train,
            "n_test": val + target,
            "n_source": val,
            "n_target": target,
            "left_out": [
                name
                for found in (self.source, self.target)
                for names in found.left_out.values()
                for name in names
            ],
        }

    def training_fingerprint(self) -> str | None:
        return self.source.fingerprint(("train",))

    # ------------------------------------------------------------------------------------- loaders

    def train_dataloader(self) -> TrainLoader:
        accumulated = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        _, world = process_rank()
        if self.batch_size % accumulated or self.batch_size // accumulated < 2 * world:
            raise ValueError(
                f"Expected `batch_size` ({self.batch_size}) to be a multiple of "
                f"`accumulate_grad_batches` ({accumulated}), with at least 2 images left for each "
                f"of {world} processes in a forward: it is the batch of an optimiser step."
            )
        crops = TrainingCrops(
            self.source.parts["train"], self.transform, seed=derive_seed(self.seed, "crops")
        )
        loader = TrainLoader(
            crops,
            batch_size=self.batch_size // accumulated,
            seed=derive_seed(self.seed, "batches"),
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )
        return self.resumable(loader)

    def evaluation_images(self) -> EvaluationImages:
        """What is scored: the source's validation part, then the target's."""
        return EvaluationImages([self.source.parts["val"], self.target.parts["val"]])

    def examples(self, n: int) -> list[tuple[str, Tensor, Tensor]]:
        """Name, image uint8 (3, H, W) and training ids uint8 (H, W) of about `n` scored images.

        The same ones each time, spread evenly over source and target.
        """
        chosen = []
        for domain, found, count in zip(
            DOMAINS, (self.source, self.target), (n // 2, n - n // 2), strict=True
        ):
            pairs = found.parts["val"]
            count = min(count, len(pairs))
            for i in range(count):
                pair = pairs[(2 * i + 1) * len(pairs) // (2 * count)]
                chosen.append((f"{domain} {pair.name}", *read_pair(pair)))
        return chosen

    def _evaluation(self) -> DataLoader[Batch]:
        images = self.evaluation_images()
        return self._in_batches(images, size_batches(images.sizes, self.eval_batch_size))

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation()

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._evaluation()

    def predict_dataloader(self) -> DataLoader[Batch]:
        assert self.plain is not None
        return self._in_batches(self.plain, [[i] for i in range(len(self.plain))])

    def _in_batches(self, images: Any, batches: list[list[int]]) -> DataLoader[Batch]:
        rank, world = process_rank()
        return WorkerLoader(
            images,
            batch_size=None,
            sampler=batches[rank::world],
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
        )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        batch["image"] = normalise(batch["image"], self.mean, self.std)
        if "label" in batch:
            batch["label"] = batch["label"].long()
        return batch

    def normalised(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) as the network takes it, (1, 3, H, W)."""
        return normalise(image[None], self.mean, self.std)


# The server finds a prediction by <city>_<sequence>_<frame>*.png, in any folder.
_CITYSCAPES_FRAME = re.compile(r"([^_]+_\d{6}_\d{6})_leftImg8bit")


def _placed(place: str, root: str) -> Path:
    """`place` seen from here, or else in `root`."""
    path = Path(place).expanduser()
    inside = Path(root).expanduser() / path
    return inside if not path.exists() and not path.is_absolute() else path


def _images_below(folder: Path) -> list[tuple[str, Path]]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if is_image(path) and not any(map(is_hidden, path.relative_to(folder).parts))
    )
    if not paths:
        raise DataNotFoundError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {folder}, but found none: give "
            "another `--data.predict_root`."
        )
    names = ["__".join(path.relative_to(folder).with_suffix("").parts) for path in paths]
    frames = [_CITYSCAPES_FRAME.fullmatch(path.stem) for path in paths]
    if all(frames):
        short = [frame[1] for frame in frames if frame]
        names = short if len(set(short)) == len(short) else names
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        same = (path for path, own in zip(paths, names, strict=True) if own == name)
        first = " and ".join(map(str, same))
        raise ValueError(
            f"Expected the images in {folder} to differ in more than the ending of their names, as "
            f"predictions are written as PNGs of the same names, but got {first}: rename them."
        )
    return list(zip(names, paths, strict=True))
