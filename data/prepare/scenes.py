"""Generated road scenes, for `data.prepare`."""

from __future__ import annotations

import argparse

from data.files import only_one, require_writable, say
from data.generated.scenes import SOURCE, TARGET, write_scenes
from data.prepare.catalogue import Made, natural, positive

__all__ = [
    "SETS",
]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=positive, default=240, help="source images (240)")
    parser.add_argument("--target", type=positive, default=60, help="target images (60)")
    parser.add_argument("--width", type=positive, default=256, help="pixels (256)")
    parser.add_argument("--height", type=positive, default=128, help="pixels (128)")
    parser.add_argument("--seed", type=natural, default=0, help="of everything random (0)")


def _make(options: argparse.Namespace) -> None:
    require_writable(options.root, "choose another --root")
    with only_one(options.root / ".scenes.lock"):
        changed = write_scenes(
            options.root,
            source=options.source,
            target=options.target,
            width=options.width,
            height=options.height,
            seed=options.seed,
        )
    if not changed:
        say(f"The generated scenes are complete in {options.root}: nothing to do.")
        return
    say(
        f"Done: {options.root / SOURCE} and {options.root / TARGET}. Train on them with `python -m "
        f"tasks.segmentation fit --config configs/scenes.yaml --data.root {options.root}`."
    )


SETS: dict[str, Made] = {
    "scenes": Made(
        title="generated road scenes",
        about="draw labelled road scenes, by day in GTA5's layout and at dusk in Cityscapes'",
        add_options=_options,
        make=_make,
    ),
}
