"""The table that a test of the text task prints in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.engine.media import log_matrix

__all__ = [
    "log_test_sets",
    "print_text",
]


def print_text(record: dict[str, Any]) -> None:
    """Accuracy with its interval, calibration and confusion of every test set."""
    table = Table(title=f"Accuracy in %, {record['dataset']}, seed {record['seed']}")
    for header in ("test set", "n", "accuracy", "95 % interval", "ECE"):
        table.add_column(header, justify="left" if header == "test set" else "right")
    for header in ("neg as neg", "neg as pos", "pos as neg", "pos as pos"):
        table.add_column(header, justify="right")
    for entry in record["test_sets"]:
        low, high = entry["interval_95"]
        cells = [cell for row in entry["confusion"] for cell in row]
        table.add_row(
            entry["set"],
            str(entry["n"]),
            f"{100 * entry['accuracy']:.2f}",
            f"{100 * low:.2f} to {100 * high:.2f}",
            f"{100 * entry['ece']:.2f}",
            *map(str, cells),
        )
    console = Console(width=110)
    console.print(table)
    vectors = record["word_vectors"]
    covered = (
        f", {100 * vectors['text_covered']:.1f} % of text" if "text_covered" in vectors else ""
    )
    console.print(
        f"{record['n_train']} training reviews, {record['words']} words, word vectors: "
        f"{vectors['source']}{covered}. All of SST-2 that was scored: "
        f"{100 * record['summary']['sst2_accuracy']:.2f} %. {record['test_in_training']} of IMDb's "
        "test reviews also stand among the training reviews."
    )


def log_test_sets(loggers: Iterable[Any], sets: Iterable[Mapping[str, Any]]) -> None:
    """Accuracy and calibration error of each test set, in percent."""
    found = {
        entry["set"]: {"accuracy": 100 * entry["accuracy"], "ECE": 100 * entry["ece"]}
        for entry in sets
    }
    log_matrix(loggers, "test/sets", found, corner="test set", title="in %")
