"""Predictions of several runs side by side, laid over the target's images.

    python -m tasks.segmentation_overlays --target DIR --out FILE.png baseline=RUN CNSN=RUN

RUN is a run's directory in which ``predict`` has written its predictions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from data.segmentation_labels import train_ids
from data.segmentation_layouts import open_collection
from data.segmentation_sets import read_pair
from tasks.segmentation_pictures import Row, overlay, sheet

__all__ = ["compare", "main"]


def compare(target: Path, runs: dict[str, Path], frames: int) -> Image.Image:
    """One row a frame: the image, its truth and each run's prediction laid over it.

    Args:
        target: root of the target.
        runs: directories with ``predictions/ids``, by title.
        frames: how many, evenly spread over the target.

    Raises:
        ValueError: a run without a prediction of one of the frames.
    """
    pairs = open_collection(target, ("val",)).parts["val"]
    frames = min(frames, len(pairs))
    rows, truths = [], []
    for i in range(frames):
        pair = pairs[(2 * i + 1) * len(pairs) // (2 * frames)]
        image, truth = (x.numpy() for x in read_pair(pair))
        image = image.transpose(1, 2, 0)
        panels = [image, overlay(image, truth)]
        for title, run in runs.items():
            path = run / "predictions" / "ids" / f"{pair.name}.png"
            if not path.is_file():
                raise ValueError(
                    f"Expected a prediction of {title} in {path}, but there is none: run `python "
                    "-m tasks.segmentation predict` with the run's options first."
                )
            predicted = train_ids(np.array(Image.open(path)), "ids")
            panels.append(overlay(image, predicted))
        rows.append(Row(pair.name, panels))
        truths.append(truth)
    return sheet(["image", "truth", *runs], rows, truths)


def _run(text: str) -> tuple[str, Path]:
    title, found, path = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"expected TITLE=DIRECTORY, but got {text}")
    return title, Path(path).expanduser()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=_run, metavar="TITLE=RUN")
    parser.add_argument("--target", type=Path, required=True, help="root of the target")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--frames", type=int, default=3, help="rows (3)")
    options = parser.parse_args(arguments)
    try:
        picture = compare(options.target.expanduser(), dict(options.runs), options.frames)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.out)


if __name__ == "__main__":
    main()
