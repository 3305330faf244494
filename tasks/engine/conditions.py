"""Clean images and corruptions by severity: the measures, their means, and their table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from data.corruptions.recipes import CORRUPTIONS
from tasks.engine.media import log_matrix

__all__ = [
    "clean_and_corrupted",
    "log_conditions",
    "mean_over_corruptions",
    "print_conditions",
    "summarise",
]


def log_conditions(loggers: Iterable[Any], conditions: Iterable[Mapping[str, Any]]) -> None:
    """Error and ECE by corruption and severity, in percent, with the mean over severities."""
    conditions = list(conditions)
    for value, name in (("error", "error"), ("ece", "calibration error")):
        found: dict[str, dict[str, float]] = {}
        for condition in conditions:
            row = found.setdefault(condition["corruption"], {})
            row[f"severity {condition['severity']}"] = 100 * condition[value]
        for row in found.values():
            row["mean"] = sum(row.values()) / len(row)
        key = f"test/{value}_by_corruption"
        log_matrix(loggers, key, found, corner="corruption", title=f"{name} in %")


Condition = tuple[str, int]


SEVERITIES = (1, 2, 3, 4, 5)


def clean_and_corrupted(conditions: Sequence[Condition]) -> dict[str, list[int]]:
    """The conditions of the clean test, and all those that count in its mean over corruptions."""
    corrupted = [i for i, (name, _) in enumerate(conditions) if name in CORRUPTIONS]
    return {"clean": [0], "corrupted": corrupted}


def corruption_means(
    values: Sequence[float], conditions: Sequence[Condition], corruptions: Sequence[str]
) -> dict[str, float]:
    """Of each of `corruptions`, the mean over its severities.

    Raises:
        ValueError: if a corruption or a severity that the others have is missing: a mean over
            another set of conditions could not be compared with the published ones.
    """
    by_corruption: dict[str, dict[int, float]] = defaultdict(dict)
    for value, (corruption, severity) in zip(values, conditions, strict=True):
        by_corruption[corruption][severity] = value
    severities = {s for name in corruptions for s in by_corruption[name]}
    for name in corruptions:
        missing = severities - by_corruption[name].keys()
        if missing or not severities:
            raise ValueError(f"Expected {name} at severities {sorted(severities)}, but got none.")
    return {c: sum(by_corruption[c].values()) / len(by_corruption[c]) for c in corruptions}


def mean_over_corruptions(
    values: Sequence[float],
    conditions: Sequence[Condition],
    corruptions: Sequence[str],
    reference: Mapping[str, float] | None = None,
) -> float:
    """Mean over `corruptions` of the mean over their severities.

    Args:
        values: one a condition.
        conditions: corruption and severity of each.
        corruptions: which to use.
        reference: errors by corruption of a reference network (AlexNet, for ImageNet-C), by which
            each corruption's mean is divided first.

    Raises:
        ValueError: see :func:`corruption_means`.
    """
    means = corruption_means(values, conditions, corruptions)
    if reference is not None:
        means = {name: value / reference[name] for name, value in means.items()}
    return sum(means.values()) / len(means)


def summarise(
    values: dict[str, list[float]],
    conditions: list[tuple[str, int]],
    *,
    complete: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The figures of a test: a summary, and error, ECE and n of every condition.

    ``mce`` and ``corrupted_ece`` are means over the corruptions tested, the four extra ones left
    out, of error and of ECE, each condition's from bins of its own; ``corruptions`` says which
    those were. They are called ``partial_mce`` and ``partial_corrupted_ece`` where those are not
    all of `complete` at all five severities.

    Args:
        values: ``error``, ``ece`` and ``n``, each one a condition; the first is the clean one.
        conditions: corruption and severity of each.
        complete: the corruptions of the data set's mean corruption error; None takes any.
        reference: also report ``mce_alexnet``, divided by these errors, where the mean is complete.
    """
    tested = [c for c in CORRUPTIONS if any(c == name for name, _ in conditions)]
    summary = {"error": values["error"][0], "ece": values["ece"][0]}
    if tested:
        wanted = {(name, severity) for name in complete or () for severity in SEVERITIES}
        found = {(name, severity) for name, severity in conditions if name in tested}
        whole = complete is None or found == wanted
        means = {"mce": "error", "corrupted_ece": "ece"}
        for name, value in means.items():
            key = name if whole else f"partial_{name}"
            summary[key] = mean_over_corruptions(values[value], conditions, tested)
        if whole and reference is not None:
            mce = mean_over_corruptions(values["error"], conditions, tested, reference)
            summary["mce_alexnet"] = mce
    by_condition = [
        {"corruption": name, "severity": severity, "error": error, "ece": ece, "n": n}
        for (name, severity), error, ece, n in zip(
            conditions, values["error"], values["ece"], values["n"], strict=True
        )
    ]
    return {"summary": summary, "corruptions": tested, "conditions": by_condition}


def print_conditions(record: dict[str, Any]) -> None:
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
