"""CIFAR-10 and CIFAR-100: the files, and the data module."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from data.classification.module import SEVERITIES, Arrays, ImageClassificationData
from data.corruptions.arrays import open_corrupted, origin_of, require_array
from data.errors import DataNotFoundError, quoted
from data.images import Group

__all__ = [
    "CIFAR",
    "TITLE",
    "CIFARName",
    "CIFARSet",
    "is_original",
    "read_cifar",
]

# Beside the files of a set that is no subset: what it is called.
TITLE = "title.txt"
CIFARName = Literal["cifar10", "cifar100"]


class CIFARSet(NamedTuple):
    """Layout of one of the two sets, and the published files' MD5."""

    title: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    label_key: str
    num_classes: int


SETS: dict[str, CIFARSet] = {
    # MD5 sums as in torchvision.datasets.CIFAR10 and CIFAR100.
    "cifar10": CIFARSet(
        "CIFAR-10",
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        "labels",
        10,
    ),
    "cifar100": CIFARSet(
        "CIFAR-100",
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "fine_labels",
        100,
    ),
}


class _ArraysOnly(pickle.Unpickler):
    """Reads the published pickles, which hold plain containers and NumPy arrays, and no others."""

    ALLOWED = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def folder_of(root: str | Path, name: CIFARName) -> Path:
    """The folder of the batches: `root` itself or the usual folder in it."""
    root, layout = Path(root).expanduser(), SETS[name]
    for folder in (root / layout.folder, root):
        if all((folder / file).is_file() for file in (*layout.train, *layout.test)):
            return folder
    raise DataNotFoundError(
        f"Expected {layout.title} in {root}, as {layout.folder}/ with the files "
        f"{', '.join((*layout.train, *layout.test))}, but they are not there. Fetch them with "
        f"`python -m data.prepare {name} --root {root}`, or try the task on bundled data with "
        "`python -m tasks.classification fit --config configs/digits.yaml` or "
        "`python -m tasks.fixmatch fit --config configs/fixmatch_digits.yaml`."
    )


def read_cifar(
    root: str | Path, name: CIFARName = "cifar10", *, train: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,) of the training or test part.

    Raises:
        DataNotFoundError: nothing in this layout at `root`.
        ValueError: a file that is damaged, holds code, or whose labels do not fit its images.
    """
    folder, layout = folder_of(root, name), SETS[name]
    parts = [
        _read_batch(folder / file, layout) for file in (layout.train if train else layout.test)
    ]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    if not len(labels):
        part = "training" if train else "test"
        raise ValueError(f"Expected {part} images in {folder}, but its files hold none: fetch it.")
    return np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _check_memo(content: bytes) -> None:
    """Raise ValueError where a number in the memo, for which memory is made, is out of proportion.

    Ten bytes of pickle can ask Python's reader for 32 GB that way.
    """
    for code, argument, _ in pickletools.genops(content):
        if "PUT" in code.name and isinstance(argument, int) and argument > len(content):
            raise ValueError("it counts more objects than it has bytes")


def _read_batch(path: Path, layout: CIFARSet) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = path.read_bytes()
        _check_memo(content)
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        images = np.asarray(batch["data"])
        if images.nbytes > len(content):
            raise ValueError("its array claims more bytes than the file has")
        labels = np.asarray(batch[layout.label_key], dtype=np.int64)
    except Exception as error:
        raise ValueError(
            f"Expected {path} to be a pickled batch of {layout.title}'s layout, but it could not "
            f"be read ({quoted(error)}). Delete it and fetch the set again."
        ) from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise ValueError(
            f"Expected {path} to hold images as uint8 (N, 3072), but got {images.dtype} "
            f"{images.shape}."
        )
    if labels.shape != (len(images),):
        raise ValueError(
            f"Expected {path} to hold one label for each of {len(images)} images, but got "
            f"{labels.size} labels."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < layout.num_classes:
        raise ValueError(
            f"Expected the labels in {path} to be from 0 to {layout.num_classes - 1}, but got "
            f"{labels.min()} to {labels.max()}."
        )
    return images, labels


def is_original(root: str | Path, name: CIFARName) -> bool:
    """Whether every file has the published MD5."""
    folder, layout = folder_of(root, name), SETS[name]
    published = layout.train | layout.test
    return all(
        hashlib.md5((folder / file).read_bytes()).hexdigest() == md5
        for file, md5 in published.items()
    )


class CIFAR(ImageClassificationData):
    """CIFAR-10 or CIFAR-100 from the published files, or a subset in the same layout.

    Args:
        root: folder that holds the batches or their usual folder.
        name: "cifar10" or "cifar100".
        corrupted: folder of the corrupted test set (``<corruption>.npy``, ``labels.npy``); None
            looks for CIFAR-10-C or CIFAR-100-C in `root`, then for the folder `root` + "-C".

    The other arguments are those of :class:`ImageClassificationData`.
    """

    MEASURED = ImageClassificationData.MEASURED | {"corrupted"}
    SIZE = 32

    def __init__(
        self,
        root: str = "~/datasets",
        name: CIFARName = "cifar10",
        corrupted: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
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
        given = folder_of(self.root, self.name) / TITLE
        own = given.read_text().strip() if given.is_file() else f"{self.name}-subset"
        self.title = title if is_original(self.root, self.name) else f"{own} ({counts})"
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
