"""What a classifier takes for what: accuracy, by class too, and calibration, from sums.

class accuracy = mean over classes of (correct of the class / images of the class)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.engine.media import log_matrix
from tasks.engine.metrics import ConfusionMatrices, GroupedErrors, reliability

__all__ = [
    "log_confusion",
    "print_confusion",
    "summarise",
]


def summarise(errors: GroupedErrors, matrices: ConfusionMatrices) -> dict[str, Any]:
    """A test's ``summary``, ``reliability`` and ``confusion``: counts, rows are the truth.

    Args:
        errors: of the target's images, one group.
        matrices: of the same.
    """
    counts = matrices.compute()[0].double().cpu()
    correct = counts.diagonal()
    ece = errors.compute()["ece"].item()
    summary = {
        "accuracy": (correct.sum() / counts.sum()).item(),
        "class_accuracy": (correct / counts.sum(1)).mean().item(),
        "ece": ece,
    }
    if math.isnan(ece):  # an output of the network was not finite
        summary = dict.fromkeys(summary, math.nan)
    return {
        "summary": summary,
        "reliability": reliability(errors.counts(), {"target": [0]}),
        "confusion": counts.long().tolist(),
    }


def print_confusion(record: dict[str, Any]) -> None:
    """Print accuracy by class, what each class is most often taken for, and the summary."""
    direction = f"{record['source']} -> {record['target']}"
    table = Table(
        title=f"Accuracy in %, {record['dataset']}, {direction}, {record['n_train']} source and "
        f"{record['n_test']} target {record['unit']}, seed {record['seed']}"
    )
    table.add_column("class")
    table.add_column("accuracy", justify="right")
    table.add_column("images", justify="right")
    table.add_column("most often taken for")
    for i, (name, row) in enumerate(zip(record["classes"], record["confusion"], strict=True)):
        wrong = [0 if j == i else n for j, n in enumerate(row)]
        worst = max(wrong)
        taken = f"{record['classes'][wrong.index(worst)]} ({worst})" if worst else ""
        table.add_row(name, f"{100 * row[i] / sum(row):.1f}", str(sum(row)), taken)
    console = Console(width=110)
    console.print(table)
    console.print(", ".join(f"{k} {100 * v:.2f} %" for k, v in record["summary"].items()))


def log_confusion(
    loggers: Iterable[Any], classes: Sequence[str], counts: Sequence[Sequence[int]]
) -> None:
    """Of each true class, how many samples were taken for each class."""
    found = {
        true: dict(zip(classes, map(float, row), strict=True))
        for true, row in zip(classes, counts, strict=True)
    }
    log_matrix(loggers, "test/confusion", found, corner="true class", title="samples")
