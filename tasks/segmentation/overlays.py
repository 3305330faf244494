"""Predictions of several runs side by side, laid over the target's images.

    python -m tasks.segmentation.overlays --target DIR --out FILE.png baseline=FOLDER CNSN=FOLDER

FOLDER is what ``predict`` names at its end, or a run's directory with one such folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from data.segmentation.label_files import read_label
from data.segmentation.layouts import open_collection
from data.segmentation.sets import read_pair
from tasks.segmentation.pictures import Row, overlay, sheet

__all__ = ["compare", "main"]


def compare(target: Path, runs: dict[str, Path], frames: int) -> Image.Image:
    """One row a frame: the image, its truth and each run's prediction laid over it.

    Args:
        target: root of the target.
        runs: folders of predictions, or directories of runs, by title.
        frames: how many, evenly spread over the target.

    Raises:
        ValueError: a run without a prediction of one of the frames, or with several.
    """
    pairs = open_collection(target, ("val",)).parts["val"]
    frames = min(frames, len(pairs))
    masks = {title: _masks(run) for title, run in runs.items()}
    rows, truths = [], []
    for i in range(frames):
        pair = pairs[(2 * i + 1) * len(pairs) // (2 * frames)]
        image, truth = (x.numpy() for x in read_pair(pair))
        image = image.transpose(1, 2, 0)
        panels = [image, overlay(image, truth)]
        for title, folder in masks.items():
            path = folder / f"{pair.name}.png"
            if not path.is_file():
                raise ValueError(
                    f"Expected a prediction of {title} in {path}, but there is none: run `python "
                    "-m tasks.segmentation predict` with the run's options first."
                )
            predicted = read_label(path, "ids")
            panels.append(overlay(image, predicted))
        rows.append(Row(pair.name, panels))
        truths.append(truth)
    return sheet(["image", "truth", *runs], rows, truths)


def _masks(run: Path) -> Path:
    """The folder ids/ of predictions, given their folder or the run's directory."""
    found = [run / "ids", run / "predictions" / "ids", *sorted(run.glob("predictions/*/ids"))]
    found = [folder for folder in found if folder.is_dir()]
    if len(found) > 1:
        named = ", ".join(str(folder.parent) for folder in found)
        raise ValueError(f"Expected one folder of predictions in {run}, but got {named}: name one.")
    return found[0] if found else run / "ids"


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
