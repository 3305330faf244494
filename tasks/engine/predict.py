"""`python -m tasks.<task> predict`: label and probability of any images, from a run's checkpoint.

    python -m tasks.<task> predict --ckpt_path RUN/checkpoints/last.ckpt --images FOLDER

Each line of output is the label, its probability and the file, separated by tabs. Options and class
names are those of the run's directory; the data that it was trained on are not needed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cnsn.checkpoint import key_report, not_finite, read_state_dict
from data.errors import listed, quoted
from data.files import UNREADABLE, open_image, to_rgb
from tasks.engine.base import CNSNModule
from tasks.engine.parser import instantiate_with
from tasks.runs.directory import CLASSES

__all__ = ["predict"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".tif", ".tiff", ".webp", ".gif")
BATCH = 64
View = Callable[[Any, Any], AbstractContextManager[Any]]


def predict(task: type[CNSNModule], name: str, view: View, arguments: Sequence[str]) -> None:
    """Run the command; a user's error is one sentence and exit code 1.

    Args:
        task: the task's module.
        name: of the task.
        view: within it, the network is used as in a test on the batches of its second argument.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{name} predict",
        description="Label, probability and file, separated by tabs, a line for each image.",
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help=f"of `tasks.{name} fit`")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="files or folders")
    options = parser.parse_args(arguments)
    try:
        paths = _files(options.images)
        module, data, classes = _load(task, name, options.ckpt_path)
        images = torch.stack([_read(path, data) for path in paths])
        for path, row in zip(paths, _probabilities(module, data, view, images), strict=True):
            best = int(row.argmax())
            print(f"{classes[best] if classes else best}\t{row[best]:.4f}\t{path}")
    except (ValueError, OSError) as error:
        if os.environ.get("CNSN_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


def _files(given: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS)
            if not inside:
                raise ValueError(f"Expected images in {path}, but there is none.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"Expected images at {path}, but there is nothing.")
    return found


def _read(path: Path, data: Any) -> Tensor:
    try:
        with open_image(path) as image:
            view: Tensor = data.as_tested(to_rgb(image))
    except UNREADABLE as error:
        raise ValueError(f"Expected {path} to be a readable image, but {quoted(error)}.") from error
    return view


def _load(task: type[CNSNModule], name: str, path: Path) -> tuple[Any, Any, list[str]]:
    """Module and data module of a run's checkpoint, and its classes' names where they are known."""
    run = path.parent.parent
    if not path.is_file() or not (run / "config.yaml").is_file():
        raise ValueError(
            f"Expected {path} to be a checkpoint in a run directory, as RUN/checkpoints/last.ckpt "
            f"beside RUN/config.yaml, but there is none: run `python -m tasks.{name} fit` first."
        )
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    state = read_state_dict(path)
    heads = [v for k, v in state.items() if k.removeprefix("network.").startswith(task.HEADS)]
    named = run / CLASSES
    classes = yaml.safe_load(named.read_text(encoding="utf-8")) if named.is_file() else []
    count = len(classes) or (len(heads[-1]) if heads else 0)
    try:
        module, data = instantiate_with(task, config, num_classes=count)
    except SystemExit as error:
        raise ValueError(f"Expected {path} to be of `python -m tasks.{name} fit`.") from error
    if report := key_report(module, state):
        raise ValueError(f"Expected {path} to hold its network's weights, but {report}.")
    if bad := not_finite(state):
        raise ValueError(f"Expected finite weights in {path}, but NaN or infinite are {bad}.")
    module.load_state_dict(state, strict=True)
    return module.eval(), data, classes


class _Given:
    """The images, as batches of a target domain."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches = batches

    def target_batches(self, device: torch.device) -> Iterator[Tensor]:
        return (batch.to(device) for batch in self.batches)


@torch.inference_mode()
def _probabilities(module: Any, data: Any, view: View, images: Tensor) -> Tensor:
    batches = [data.test_view(part) for part in images.split(BATCH)]
    with view(module, _Given(batches)):
        logits = torch.cat([module(batch) for batch in batches])
    if bad := [str(i + 1) for i in (~logits.isfinite().all(-1)).nonzero().flatten().tolist()]:
        raise ValueError(
            f"Expected finite outputs, but those of image {listed(bad, 3)} are NaN or infinite: "
            "take another checkpoint."
        )
    return logits.softmax(-1)
