"""A callback that writes down every sample of a test, so that all processes' can be counted.

Each process has a file of its own: the folder that the environment names, then its rank.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import lightning as L
import torch

VARIABLE = "CNSN_TEST_SAMPLES"
OPTION = f'--trainer.callbacks=[{{"class_path": "{__name__}.NoteSamples"}}]'
Sample = tuple[int, int]  # its part of the test, such as a corruption or a domain, and a checksum


class NoteSamples(L.Callback):
    """Adds part and checksum of each sample that the network is tested on.

    Not its number, which in a sorted test set depends on the number of processes.
    """

    def on_test_batch_start(
        self, trainer: L.Trainer, module: Any, batch: Any, _: int, __: int = 0
    ) -> None:
        rows = batch["image"] if "image" in batch else batch["tokens"]
        part = torch.as_tensor(batch.get("group", batch.get("domain", 0))).expand(len(rows))
        # Texts are padded to the longest of their batch.
        lengths = batch["length"].tolist() if "length" in batch else [None] * len(rows)
        with (Path(os.environ[VARIABLE]) / str(trainer.global_rank)).open("a") as file:
            for p, row, length in zip(part.tolist(), rows.cpu(), lengths, strict=True):
                file.write(f"{p} {zlib.crc32(row[:length].contiguous().numpy().tobytes())}\n")


def samples_tested(folder: Path) -> list[list[Sample]]:
    """The samples of each process, by rank."""
    paths = sorted(folder.iterdir(), key=lambda path: int(path.name))
    return [
        [(int(part), int(sum_)) for part, sum_ in map(str.split, path.read_text().splitlines())]
        for path in paths
    ]
