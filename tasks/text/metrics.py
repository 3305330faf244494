"""Accuracy with its interval, calibration and confusion of every test set, and of SST-2 as a whole.

Wilson's interval: Wilson 1927, "Probable inference, the law of succession, and statistical
inference"; unlike p +- z * sqrt(p (1 - p) / n) it stays within [0, 1] and holds near its ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["summarise", "wilson_interval"]

Z_95 = 1.959964  # of the two-sided 95 % interval of a normal distribution


def wilson_interval(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Interval of a probability of which `correct` of `n` independent trials came true.

    Without a trial it is all of [0, 1].
    """
    if not 0 <= correct <= n:
        raise ValueError(f"Expected `correct` to be from 0 to `n`, but got {correct} and {n}.")
    if n == 0:
        return 0.0, 1.0
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def summarise(
    values: dict[str, Tensor], confusion: Tensor, groups: Sequence[str]
) -> dict[str, Any]:
    """A test's figures: a summary, and for each test set n, accuracy, interval, ECE, confusion.

    In the summary ``accuracy``, ``error`` and ``ece`` are IMDb's; ``sst2_...`` are those of all
    scored sentences of SST-2 together, and ``sst2_<split>_accuracy`` those of one split.

    Args:
        values: of the pooled :class:`tasks.engine.metrics.GroupedErrors`.
        confusion: int64 (groups, true, predicted).
        groups: names of the test sets, IMDb's first.
    """
    error = values["error"].reshape(-1).tolist()
    ece = values["ece"].reshape(-1).tolist()
    counts = values["n"].reshape(-1).tolist()
    sets = []
    for place, group in enumerate(groups):
        rows = confusion[place].tolist()
        correct = sum(row[label] for label, row in enumerate(rows))
        sets.append(
            {
                "set": group,
                "n": counts[place],
                "accuracy": correct / counts[place] if counts[place] else math.nan,
                "interval_95": wilson_interval(correct, counts[place]),
                "ece": ece[place],
                "confusion": rows,
            }
        )
    summary = {
        "accuracy": 1 - error[0],
        "sst2_accuracy": 1 - error[-1],
        "error": error[0],
        "sst2_error": error[-1],
        "ece": ece[0],
        "sst2_ece": ece[-1],
    }
    for entry in sets[1:]:
        summary[f"{entry['set'].replace('-', '_')}_accuracy"] = entry["accuracy"]
    breakdown = {entry["set"]: entry["accuracy"] for entry in sets}
    return {"summary": summary, "breakdown": breakdown, "test_sets": sets}
