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

from tasks.table_records import Runs, same_measure, same_recipe
from tasks.table_spec import Row, Table
from tasks.table_text import Lines, spread
from tasks.tables import values_of

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


def agreement(table: Table, own: Runs, published: Runs) -> tuple[Lines, str]:
    """A line a row with both means, and a sentence on all of them.

    Args:
        table: whose main value is compared.
        own: records of each row on one data set, by the row's key.
        published: the same.
    """
    name = table.columns[table.metric]
    lines = [["method", f"{name}, own", "published", "difference", "agree"]]
    verdicts = []
    for row in table.rows:
        mine, theirs = own.get(row.key, []), published.get(row.key, [])
        if not mine or not theirs:
            continue
        values = [values_of(table, records, table.metric) for records in (mine, theirs)]
        difference = statistics.mean(values[0]) - statistics.mean(values[1])
        verdict = _verdict(mine[0], theirs[0], values)
        verdicts.append(verdict)
        lines.append([_title(table, row), *map(spread, values), f"{difference:+.1f}", verdict])
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


def _title(table: Table, row: Row) -> str:
    several = len({(r.network, r.setting) for r in table.rows}) > 1
    parts = (row.network, row.setting, row.name) if several else (row.name,)
    return " ".join(filter(None, parts))


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
