"""The classification task on data of which one batch, on one process, is not a number.

python -m tests.reliability.poisoned BATCH RANK fit --config ...
"""

from __future__ import annotations

import sys
from typing import Any

from data.classification.digits import Digits
from data.loading import process_rank
from tasks.classification.module import main


def poison(number: int, rank: int) -> None:
    """Make every image of batch `number` NaN where process `rank` reads it."""
    original = Digits.on_after_batch_transfer

    def poisoned(self: Digits, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        batch = original(self, batch, dataloader_idx)
        if batch.get("number") == number and process_rank()[0] == rank:
            batch["image"] = batch["image"] * float("nan")
        return batch

    Digits.on_after_batch_transfer = poisoned  # type: ignore[method-assign]


if __name__ == "__main__":
    poison(int(sys.argv[1]), int(sys.argv[2]))
    main(sys.argv[3:])
