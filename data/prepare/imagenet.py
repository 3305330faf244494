"""ImageNet and ImageNet-C, for `data.prepare`."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.errors import DataNotFoundError
from data.files import format_bytes, is_hidden, only_one, require_writable, say
from data.imagenet.layout import (
    BY_HAND,
    CLASSES,
    FAMILIES,
    TRAINING,
    VALIDATION,
    condition_folders,
    part_of,
)
from data.prepare.catalogue import (
    ZENODO,
    Made,
    Published,
    RemoteFile,
    among,
    folder_path,
    natural,
    positive,
)

__all__ = ["SETS"]

# MD5 as the record https://zenodo.org/records/2235448 lists them. Sizes: the record's metadata as
# quoted by a third party, which the rounded sizes in the record's description agree with.
ARCHIVES = {
    "noise": (22_565_673_785, "e80562d7f6c3f8834afb1ecf27252745"),
    "blur": (7_112_704_951, "2d8e81fdd8e07fef67b9334fa635e45c"),
    "weather": (12_797_438_995, "33ffea4db4d93fe4a428c40a6ce0c25d"),
    "digital": (7_757_510_705, "89157860d7b10d5797849337ca2e5c03"),
    "extra": (15_789_490_144, "d492dfba5fc162d8ec2c3cd8ee672984"),
}
REGISTERED = (
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "ILSVRC2012_devkit_t12.tar.gz",
)
SEVERITIES = (1, 2, 3, 4, 5)
UNPACKED = {"train": 150_000_000_000, "val": 6_800_000_000}  # bytes, rounded up


def _counts(folder: Path) -> tuple[int, int]:
    """Classes and images of a folder by class; a quick look that opens no file."""
    if not folder.is_dir():
        return 0, 0
    classes = [e.path for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name)]
    images = (sum(not is_hidden(name) for name in os.listdir(path)) for path in classes)
    return len(classes), sum(images)


def _missing_corrupted(families: Sequence[str], root: Path) -> str:
    names = [name for family in families for name in FAMILIES[family]]
    for folder in condition_folders(root / "ImageNet-C", names, SEVERITIES).values():
        classes, images = _counts(folder)
        if (classes, images) != (CLASSES, VALIDATION):
            return f"{folder} has {images} images of {classes} classes"
    return ""


def _imagenet_c(families: Sequence[str], title: str, about: str) -> Published:
    files = tuple(
        RemoteFile(
            url=f"{ZENODO}2235448/files/{family}.tar",
            size=ARCHIVES[family][0],
            md5=ARCHIVES[family][1],
            # An archive has no top folder but those of its corruptions.
            folder=f"ImageNet-C/{family}",
            # Nothing in it is compressed.
            unpacked=ARCHIVES[family][0],
        )
        for family in families
    )
    missing = partial(_missing_corrupted, families)
    return Published(title=title, about=about, files=files, missing=missing)


def _lacking(root: Path) -> str:
    """What is not complete of ImageNet, in words; "" when all is."""
    for part, expected in (("train", TRAINING), ("val", VALIDATION)):
        classes, images = _counts(root / part)
        if (classes, images) != (CLASSES, expected):
            return f"{root / part} has {images} images of {classes} classes"
    return ""


def _unpack_imagenet(options: argparse.Namespace) -> None:
    """Sort the registered archives' images into folders of their classes."""
    root: Path = options.root
    if not _lacking(root):
        say(f"ImageNet is complete in {root}: nothing to do.")
        return
    absent = [name for name in REGISTERED if not (root / name).is_file()]
    if absent:
        raise DataNotFoundError(
            f"{BY_HAND}. Put them into {root} and run the same command again, which sorts their "
            f"images into folders of their classes; missing are {', '.join(absent)}."
        )
    require_writable(root, "choose another --root")
    with only_one(root / ".prepare.lock"):
        for part in ("train", "val"):
            _unpack_part(root, part)
    if problem := _lacking(root):
        raise DataNotFoundError(f"{problem}: move it away and run the same command again.")
    say(f"Done: ImageNet is complete in {root}. The archives may be deleted.")


def _unpack_part(root: Path, part: str) -> None:
    """Into a folder that gets its name when it is complete."""
    # torchvision knows how the archives nest and which class each validation image has, and
    # compares them with their published MD5 first.
    from torchvision.datasets import imagenet

    folder, unfinished = root / part, f"{part}.unfinished"
    if folder.exists():
        say(f"  {folder} is there and left as it is")
        return
    shutil.rmtree(root / unfinished, ignore_errors=True)
    free, needed = shutil.disk_usage(root).free, UNPACKED[part]
    if needed > free:
        raise DataNotFoundError(
            f"{format_bytes(needed)} are needed in {root} but only {format_bytes(free)} are free: "
            "free space or move the archives to another --root."
        )
    say(f"  checking and unpacking {part} ({format_bytes(needed)}) into {folder}: this takes long")
    try:
        if part == "train":
            imagenet.parse_train_archive(root, folder=unfinished)
        else:
            imagenet.parse_devkit_archive(root)
            imagenet.parse_val_archive(root, folder=unfinished)
    except RuntimeError as error:
        raise DataNotFoundError(f"{error} Download it again.") from error
    os.replace(root / unfinished, folder)


def _corrupt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=folder_path, help='folder to make; default: beside the root, its name + "-C"'
    )
    parser.add_argument("--image_size", type=positive, default=224, help="side in pixels (224)")
    parser.add_argument(
        "--resize", type=positive, help="shorter side before the crop; default: 256/224 of the size"
    )
    parser.add_argument("--seed", type=natural, default=0, help="of everything random (0)")
    parser.add_argument("--workers", type=positive, help="cores to use; default: all of them")
    parser.add_argument(
        "--corruptions", nargs="+", metavar="NAME", help="only these; default: the 15 of ImageNet-C"
    )


def _corrupt_folder(options: argparse.Namespace) -> None:
    """Make <corruption>/<severity>/<class>/<image> of the images in the root's ``val``."""
    # torch only where it is needed: the rest of this command answers at once
    from data.corruptions.recipes import ALL_CORRUPTIONS, CORRUPTIONS
    from data.imagenet.corrupted import write_corrupted_folder
    from data.imagenet.folders import list_images

    names = among("--corruptions", options.corruptions or CORRUPTIONS, ALL_CORRUPTIONS)
    root: Path = options.root
    images = list_images(part_of(root, "val"))
    out: Path = options.out or root.with_name(root.name + "-C")
    require_writable(out, "choose another folder by --out")
    size = options.image_size
    with only_one(out.with_name(f".{out.name}.lock")):
        say(f"{len(images)} images of {images.folder} under {len(names)} corruptions into {out}")
        write_corrupted_folder(
            images,
            out,
            conditions=[(name, severity) for name in names for severity in SEVERITIES],
            size=size,
            resize=options.resize or round(size * 256 / 224),
            seed=options.seed,
            workers=options.workers or os.cpu_count() or 1,
        )
    say(f"Done: {out}")


def _no_options(parser: argparse.ArgumentParser) -> None:
    """It has none of its own."""


SETS: dict[str, Published | Made] = {
    "imagenet": Made(
        title="ImageNet",
        about="sort ImageNet's registered archives, downloaded by hand, into folders by class",
        add_options=_no_options,
        make=_unpack_imagenet,
    ),
    "corrupt_folder": Made(
        title="corrupted image folder",
        about="make the 15 corruptions of the validation images of any root in ImageNet's layout",
        add_options=_corrupt_options,
        make=_corrupt_folder,
    ),
    "imagenetc": _imagenet_c(
        ("noise", "blur", "weather", "digital"),
        "ImageNet-C",
        "ImageNet's validation images under 15 corruptions (Hendrycks & Dietterich 2019)",
    ),
    "imagenetc_extra": _imagenet_c(
        ("extra",),
        "ImageNet-C's extra corruptions",
        "ImageNet's validation images under 4 more corruptions, which the mean leaves out",
    ),
}
