"""A callback that writes down every sample of a test, so that all processes' can be counted.

Each process has a file of its own: the folder that the environment names, then its rank.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch

VARIABLE = "CNSN_TEST_SAMPLES"
OPTION = f'--trainer.callbacks=[{{"class_path": "{__name__}.NoteSamples"}}]'
Sample = tuple[int, int]  # its part of the test, such as a corruption or a domain, and its number


class NoteSamples(L.Callback):
    """Adds part and number of each sample that the network is tested on."""

    def on_test_batch_start(
        self, trainer: L.Trainer, module: Any, batch: Any, _: int, __: int = 0
    ) -> None:
        index = batch["index"]
        part = torch.as_tensor(batch.get("group", batch.get("domain", 0))).expand(len(index))
        with (Path(os.environ[VARIABLE]) / str(trainer.global_rank)).open("a") as file:
            file.writelines(
                f"{p} {i}\n" for p, i in zip(part.tolist(), index.tolist(), strict=True)
            )


def tested(folder: Path) -> list[list[Sample]]:
    """The samples of each process, by rank."""
    paths = sorted(folder.iterdir(), key=lambda path: int(path.name))
    return [
        [(int(part), int(index)) for part, index in map(str.split, path.read_text().splitlines())]
        for path in paths
    ]
