"""`python -m data.prepare resized --root DIR --out DIR`: a smaller copy that decodes faster.

The copy has the same layout and names, so `--data.source_root` takes it as it takes the original.
Images are averaged down, labels take the nearest pixel; both stay lossless PNGs, with the weakest
compression. Interrupted, the same command goes on; every file that is read is checked.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from data.errors import DataNotFoundError, listed
from data.files import (
    UNREADABLE,
    only_one,
    open_image,
    read_record,
    replacing,
    require_writable,
    say,
    to_rgb,
    write_record,
)
from data.prepare.catalogue import Made, folder_path, positive
from data.processes import worker_pool

__all__ = ["SETS", "write_resized"]

_RECORD = "resized.json"
_FAST = 1  # of zlib's levels


def write_resized(root: Path, out: Path, *, scale: float, workers: int | None = None) -> int:
    """Make the copy of `root` in `out`.

    Args:
        root: in GTA5's or Cityscapes' layout, with its labels.
        out: folder to make or complete.
        scale: factor on both sides, in (0, 1].
        workers: processes; None takes all cores.

    Returns:
        Number of files that were made now.

    Raises:
        DataNotFoundError: no known layout.
        ValueError: files that cannot be read or hold unknown labels, or an `out` that was made
            otherwise.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"Expected --scale to be in (0, 1], but got {scale}.")
    if out.resolve() == root.resolve():
        raise ValueError(f"Expected --out to be another folder than --root, but got {out} twice.")
    _claim(out, {"scale": scale})
    _copy_split(root, out)
    jobs = [
        _Job(file, (out / file.relative_to(root)).with_suffix(".png"), is_label, scale)
        for file, is_label in _files(root)
    ]
    todo = [job for job in jobs if not job.made.is_file()]
    with worker_pool(workers or os.cpu_count() or 1) as pool:
        results: Iterable[str | None] = pool.map(_resize, todo, chunksize=4)
        bar = tqdm(results, total=len(todo), desc="resizing", unit="file", disable=None)
        problems = [problem for problem in bar if problem]
    if problems:
        raise ValueError(
            f"{len(problems)} of {len(todo)} files could not be resized: "
            f"{listed([one.rstrip('.') for one in problems], separator='; ')}. The others are in "
            f"{out}; run again when these are replaced."
        )
    return len(todo)


def _claim(out: Path, options: dict[str, float]) -> None:
    """Write what the copy is, or check that it is the same."""
    record = out / _RECORD
    found = read_record(record)
    if found is None and out.is_dir() and any(p.name[0] != "." for p in out.iterdir()):
        raise ValueError(
            f"Expected {out} to be empty or a resized copy, but got other files: choose another "
            "--out."
        )
    if found is not None and found != options:
        raise ValueError(
            f"Expected {out} to be a copy made with {options}, but got one made with {found}: "
            "choose another --out, or delete it."
        )
    out.mkdir(parents=True, exist_ok=True)
    if found is None:
        write_record(record, options)


def _copy_split(root: Path, out: Path) -> None:
    """Before the images: a copy that was broken off must not be split in another way."""
    from data.segmentation.splits import split_file

    split = split_file(root)
    if split is not None:
        with replacing(out / split.name) as part:
            shutil.copyfile(split, part)


def _files(root: Path) -> list[tuple[Path, bool]]:
    """Images and label images to copy, and which of the two each is."""
    from data.segmentation.layouts import find_layout, is_image

    layout = find_layout(root)
    if layout is None:
        raise DataNotFoundError(
            f"Expected GTA5's layout (images/, labels/) or Cityscapes' (leftImg8bit/, gtFine/) in "
            f"{root}, but found neither: give the folder that holds them as --root."
        )
    if layout == "gta5":
        labels = "labels" if (root / "labels").is_dir() else "labels_mapped"
        folders = [(root / "images", "*", False), (root / labels, "*", True)]
    else:
        folders = [(root / "leftImg8bit", "*/*/*_leftImg8bit.*", False)]
        folders += [(root / "gtFine", "*/*/*_gtFine_label*.png", True)]
    return [
        (path, is_label)
        for folder, pattern, is_label in folders
        for path in sorted(folder.glob(pattern))
        if is_image(path)
    ]


class _Job(NamedTuple):
    source: Path
    made: Path
    is_label: bool
    scale: float


def _resize(job: _Job) -> str | None:
    """Make one file; returns what is wrong with it, or None."""
    from data.segmentation.label_files import read_label
    from data.segmentation.labels import LabelError

    source, made, is_label, scale = job
    try:
        if is_label:
            mapped = source.parent.name == "labels_mapped" or "TrainIds" in source.name
            read_label(source, "train_ids" if mapped else "ids")
        with open_image(source) as image:
            size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
            # Of a palette image, nearest keeps the indices and the palette.
            filtering = Image.Resampling.NEAREST if is_label else Image.Resampling.BILINEAR
            small = (image if is_label else to_rgb(image)).resize(size, filtering)
        made.parent.mkdir(parents=True, exist_ok=True)
        with replacing(made, sync=False) as part:
            small.save(part, "PNG", compress_level=_FAST)
    except LabelError as error:
        return str(error)
    except UNREADABLE as error:
        return f"{source} cannot be read ({error})."
    return None


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=folder_path, required=True, metavar="DIR", help="folder of the copy"
    )
    parser.add_argument("--scale", type=float, default=0.5, help="factor on both sides (0.5)")
    parser.add_argument("--workers", type=positive, help="processes; default: all cores")


def _make(options: argparse.Namespace) -> None:
    require_writable(options.out, "choose another --out")
    with only_one(options.out.with_name(f".{options.out.name}.lock")):
        made = write_resized(
            options.root, options.out, scale=options.scale, workers=options.workers
        )
    say(f"Done: {made:,} new files in {options.out}." if made else f"{options.out} is complete.")


SETS: dict[str, Made] = {
    "resized": Made(
        title="resized copy",
        about="make a smaller, faster copy of a root in GTA5's or Cityscapes' layout",
        add_options=_options,
        make=_make,
    ),
}
