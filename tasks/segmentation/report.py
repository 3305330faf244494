"""The table that a segmentation's test prints in the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_segmentation"]


def print_segmentation(record: dict[str, Any]) -> None:
    """IoU of each class on source and target, and their means; all in percent."""
    table = Table(title=f"IoU in %, {record['dataset']}, seed {record['seed']}")
    domains = list(record["iou"])
    table.add_column("class")
    for domain in domains:
        table.add_column(domain, justify="right")
    for name in record["iou"][domains[0]]:
        values = [record["iou"][domain][name] for domain in domains]
        if not all(math.isnan(value) for value in values):
            table.add_row(name, *("absent" if math.isnan(v) else f"{100 * v:.1f}" for v in values))
    table.add_section()
    for title, key in (("mIoU", "miou"), ("pixel accuracy", "accuracy")):
        values = [
            next(v for name, v in record["summary"].items() if name.startswith(f"{domain}_{key}"))
            for domain in domains
        ]
        table.add_row(title, *(f"{100 * value:.1f}" for value in values))
    console = Console(width=100)
    console.print(table)
    counted = {
        domain: sum(not math.isnan(value) for value in record["iou"][domain].values())
        for domain in domains
    }
    classes = ", ".join(f"mean of {n} classes in the {domain}" for domain, n in counted.items())
    console.print(f"{record['n_source']} source and {record['n_target']} target images, {classes}")
    console.print(f"Scored on {record['evaluation']}; {record['selection']}.")
