"""CIFAR-10, CIFAR-100 and their corrupted test sets, for `data.prepare`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import get_args

from data.classification.cifar import SETS as LAYOUTS
from data.classification.cifar import CIFARName, folder_of, read_cifar
from data.errors import DataNotFoundError
from data.files import format_bytes, only_one, require_writable, say
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
from data.prepare.download import difference

__all__ = ["SETS"]


def _missing_cifar(name: CIFARName, root: Path) -> str:
    layout = LAYOUTS[name]
    for file, md5 in (layout.train | layout.test).items():
        problem = difference(root / layout.folder / file, md5=md5)
        if problem:
            return f"{root / layout.folder / file}: {problem}"
    return ""


def _missing_corrupted(folder: str, count: int, root: Path) -> str:
    from data.corruptions.arrays import open_corrupted
    from data.corruptions.recipes import ALL_CORRUPTIONS

    try:
        open_corrupted(root / folder, ALL_CORRUPTIONS, n=count)
    except (OSError, ValueError) as error:
        return str(error).rstrip(".")
    return ""


def _corrupt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=folder_path,
        help='folder to make; default: beside the root, its name with "-C" after it',
    )
    parser.add_argument(
        "--name",
        choices=("cifar10", "cifar100"),
        help="which set, where the root holds both",
    )
    parser.add_argument("--seed", type=natural, default=0, help="of everything random (0)")
    parser.add_argument("--workers", type=positive, help="cores to use; default: all of them")
    parser.add_argument(
        "--corruptions", nargs="+", metavar="NAME", help="only these; default: all 19"
    )


def _corrupt(options: argparse.Namespace) -> None:
    """Make <corruption>.npy and labels.npy from the test images of a CIFAR-layout root."""
    # torch only where it is needed: the rest of this command answers at once
    from data.corruptions.arrays import open_corrupted, write_corrupted
    from data.corruptions.recipes import ALL_CORRUPTIONS

    names = among("--corruptions", options.corruptions or ALL_CORRUPTIONS, ALL_CORRUPTIONS)
    name, out = _which_cifar(options)
    images, labels = read_cifar(options.root, name, train=False)
    with only_one(out.with_name(f".{out.name}.lock")):
        absent = [name for name in names if not (out / f"{name}.npy").exists()]
        if absent:
            say(
                f"Corrupting the {len(images)} test images of {options.root}: {len(absent)} of "
                f"{len(names)} corruptions at 5 severities, seed {options.seed}, "
                f"{format_bytes(5 * images.nbytes * len(absent))}, into {out}"
            )
        # Also where nothing is to do: it refuses a folder made from other images or another seed.
        write_corrupted(
            images, labels, out, corruptions=names, seed=options.seed, workers=options.workers
        )
        open_corrupted(out, names, n=len(images))
    if absent:
        say(f"Done: {out}")


def _which_cifar(options: argparse.Namespace) -> tuple[CIFARName, Path]:
    """Which set the root holds, and where its corrupted images go."""
    root: Path = options.root
    found: list[CIFARName] = []
    for candidate in get_args(CIFARName):
        with suppress(DataNotFoundError):
            folder_of(root, candidate)
            found.append(candidate)
    name: CIFARName = options.name or (found[0] if found else "cifar10")
    if name not in found:
        folder_of(root, name)  # raises the error that says what was expected
    if len(found) > 1 and not (options.name and options.out):
        raise ValueError(
            f"{root} holds {' and '.join(found)}: say which by --name, and by --out where its "
            "corrupted images go."
        )
    out: Path = options.out or root.with_name(root.name + "-C")
    require_writable(out, "choose another folder by --out")
    return name, out


_CIFAR = "https://www.cs.toronto.edu/~kriz/"

SETS: dict[str, Published | Made] = {
    # MD5: https://www.cs.toronto.edu/~kriz/cifar.html. Sizes and SHA-256 are not given there;
    # they are those that Keras' and torchdata's loaders and download logs agree on.
    "cifar10": Published(
        title="CIFAR-10",
        about="60,000 colour images of 32x32 in 10 classes (Krizhevsky 2009)",
        files=(
            RemoteFile(
                url=_CIFAR + "cifar-10-python.tar.gz",
                size=170_498_071,
                md5="c58f30108f718f92721af3b95e74349a",
                sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                folder="cifar-10-batches-py",
                unpacked=186_400_000,
            ),
        ),
        missing=partial(_missing_cifar, "cifar10"),
    ),
    "cifar100": Published(
        title="CIFAR-100",
        about="60,000 colour images of 32x32 in 100 classes (Krizhevsky 2009)",
        files=(
            RemoteFile(
                url=_CIFAR + "cifar-100-python.tar.gz",
                size=169_001_437,
                md5="eb9058c3a382ffc7106e4002c42a8d85",
                sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
                folder="cifar-100-python",
                unpacked=186_400_000,
            ),
        ),
        missing=partial(_missing_cifar, "cifar100"),
    ),
    # MD5 and size: the Zenodo record, https://zenodo.org/records/2535967. SHA-256:
    # tensorflow_datasets/url_checksums/cifar10_corrupted.txt in tensorflow/datasets.
    "cifar10c": Published(
        title="CIFAR-10-C",
        about="CIFAR-10's test images under 19 corruptions (Hendrycks & Dietterich 2019)",
        files=(
            RemoteFile(
                url=ZENODO + "2535967/files/CIFAR-10-C.tar",
                size=2_918_471_680,
                md5="56bf5dcef84df0e2308c6dcbcbbd8499",
                sha256="c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
                folder="CIFAR-10-C",
                unpacked=2_918_471_680,
            ),
        ),
        missing=partial(_missing_corrupted, "CIFAR-10-C", 10_000),
    ),
    # MD5 and size: the Zenodo record, https://zenodo.org/records/3555552. No SHA-256 is published.
    "cifar100c": Published(
        title="CIFAR-100-C",
        about="CIFAR-100's test images under 19 corruptions (Hendrycks & Dietterich 2019)",
        files=(
            RemoteFile(
                url=ZENODO + "3555552/files/CIFAR-100-C.tar",
                size=2_918_473_216,
                md5="11f0ed0f1191edbf9fa23466ae6021d3",
                folder="CIFAR-100-C",
                unpacked=2_918_473_216,
            ),
        ),
        missing=partial(_missing_corrupted, "CIFAR-100-C", 10_000),
    ),
    "corrupt": Made(
        title="corrupted test images",
        about="make the 19 corruptions of the test images of any root in CIFAR's layout",
        add_options=_corrupt_options,
        make=_corrupt,
    ),
}
