"""Whether a user's own numbers agree with the published ones, row by row.

Two rows agree where the difference of their means over seeds is no larger than seeds alone explain:
Student's t-test of two samples with one variance (two-sided, at 1 %).

    t = (a - b) / (s sqrt(1/n + 1/m)),   s^2 = (sum (a_i - a)^2 + sum (b_j - b)^2) / (n + m - 2)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from tasks.tables.cells import Lines, spread
from tasks.tables.lines import same_measure, same_recipe
from tasks.tables.numbers import Sheet

__all__ = ["LEVEL", "agreement", "chance"]

Record = dict[str, Any]

# Of the test: so rare is a difference as large between two samples of one distribution.
LEVEL = 0.01


def chance(one: Sequence[float], other: Sequence[float]) -> float | None:
    """How likely means at least as far apart are if only the seeds differ; None where none can say.

    That is, where there are too few values to know a spread by.
    """
    from scipy import stats

    difference = statistics.mean(one) - statistics.mean(other)
    if difference == 0:
        return 1.0
    free = len(one) + len(other) - 2
    if free < 1:
        return None
    squares = sum((len(v) - 1) * statistics.variance(v) for v in (one, other) if len(v) > 1)
    error = math.sqrt(squares / free * (1 / len(one) + 1 / len(other)))
    return 0.0 if error == 0 else float(2 * stats.t.sf(abs(difference) / error, free))


def agreement(own: Sheet, published: Sheet) -> tuple[Lines, str]:
    """A line a row with both means of the table's main value, and a sentence on all of them."""
    name = own.table.columns[own.table.metric]
    lines = [["method", f"{name}, own", "published", "difference", "agree"]]
    verdicts = []
    for row in own.table.rows:
        mine, theirs = own.of(row), published.of(row)
        if not mine or not theirs:
            continue
        values = [sheet.number(row).values for sheet in (own, published)]
        difference = statistics.mean(values[0]) - statistics.mean(values[1])
        verdict = _verdict(mine[0], theirs[0], values)
        verdicts.append(verdict)
        lines.append([own.name(row), *map(spread, values), f"{difference:+.1f}", verdict])
    return lines, _sentence(verdicts)


def _verdict(mine: Record, theirs: Record, values: Sequence[Sequence[float]]) -> str:
    if mine["fingerprint"] != theirs["fingerprint"]:
        return "other data"
    if not same_recipe(mine["recipe"], theirs["recipe"]):
        return "another recipe"
    if not same_measure(mine, theirs):
        return "another definition"
    likely = chance(*values)
    return "one seed each" if likely is None else "yes" if likely >= LEVEL else "NO"


def _sentence(verdicts: Sequence[str]) -> str:
    compared = [verdict for verdict in verdicts if verdict in ("yes", "NO")]
    if not verdicts:
        return "None of these rows is published: there is nothing to compare."
    if not compared:
        return (
            "Not compared: by another recipe or definition, on other data or from one seed, values "
            "may differ."
        )
    agree = compared.count("yes")
    whether = "agree" if agree == len(compared) else f"agree in {agree} of {len(compared)} rows"
    return (
        f"Own and published numbers {whether}: means over seeds differ by no more than seeds "
        f"explain (t-test, {100 * LEVEL:g} %)."
    )
