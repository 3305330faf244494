"""The table that a test prints in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_classification"]


def print_classification(record: dict[str, Any]) -> None:
    """Error of each corruption by severity, then the summary; all in percent."""
    counts = f"{record['n_train']} training, {record['n_test']} test images"
    title = f"Error in %, {record['dataset']}, {counts}, seed {record['seed']}"
    table = Table(title=title)
    severities = sorted({c["severity"] for c in record["conditions"]})
    table.add_column("corruption", no_wrap=True, min_width=17)
    for severity in severities:
        table.add_column("clean" if severity == 0 else f"severity {severity}", justify="right")
    table.add_column("mean", justify="right")
    if "adabn" in record:
        table.add_column("mean, AdaBN", justify="right")
    names = list(dict.fromkeys(c["corruption"] for c in record["conditions"]))
    for name in names:
        errors = {
            c["severity"]: c["error"] for c in record["conditions"] if c["corruption"] == name
        }
        cells = [f"{100 * errors[s]:.2f}" if s in errors else "" for s in severities]
        cells.append(f"{100 * sum(errors.values()) / len(errors):.2f}")
        if "adabn" in record:
            own = [c["adabn_error"] for c in record["conditions"] if c["corruption"] == name]
            cells.append(f"{100 * sum(own) / len(own):.2f}")
        table.add_row(name, *cells)
    console = Console(width=120)
    console.print(table)
    summary = ", ".join(f"{name} {100 * v:.2f} %" for name, v in record["summary"].items())
    partial = "partial_mce" in record["summary"]
    what = "partial means, not the set's mCE" if partial else "mCE and corrupted_ece: means"
    console.print(f"{summary} ({what}: over {len(record['corruptions'])} corruptions)")
