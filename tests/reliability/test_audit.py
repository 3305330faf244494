"""The table of `make audit`."""

from __future__ import annotations

import os
from typing import Any, Literal

import pytest

from tests.reliability.conftest import Audit

pytestmark = pytest.mark.promise("the audit counts every case once, and failures as failures")


def report(
    promise: str,
    outcome: Literal["passed", "failed", "skipped"],
    when: Literal["setup", "call", "teardown"] = "call",
    **properties: int,
) -> pytest.TestReport:
    kept: list[Any] = [("promise", promise), *properties.items()]
    return pytest.TestReport("a::b", ("a", 1, "b"), {}, outcome, None, when, user_properties=kept)


def counted(*reports: pytest.TestReport) -> list[tuple[str, ...]]:
    audit = Audit()
    for one in reports:
        audit.pytest_runtest_logreport(one)
    return audit.rows()[1:]


@pytest.mark.parametrize(
    ("reports", "row"),
    [
        ([report("p", "passed", when) for when in ("setup", "call", "teardown")], (1, 1, 0)),
        ([report("p", "passed"), report("p", "failed")], (2, 1, 0)),
        ([report("p", "passed", cases=100), report("p", "passed")], (101, 101, 0)),
        ([report("p", "failed", cases=100)], (100, 0, 0)),
        ([report("p", "failed", "setup")], (1, 0, 0)),
        ([report("p", "passed"), report("p", "failed", "teardown")], (1, 0, 0)),
        ([report("p", "skipped", "setup")], (0, 0, 1)),
    ],
)
def test_counts(reports: list[pytest.TestReport], row: tuple[int, ...]) -> None:
    numbers = tuple(map(str, row))
    assert counted(*reports) == [("p", *numbers), ("all", *numbers)]


def test_a_row_for_each_promise_and_none_for_other_tests() -> None:
    other = report("p", "passed")
    other.user_properties = []
    rows = counted(report("q", "passed"), report("p", "failed"), other)
    assert rows == [("p", "1", "0", "0"), ("q", "1", "1", "0"), ("all", "2", "1", "0")]


def test_the_table_says_where_how_and_on_what_machine() -> None:
    audit = Audit(command="python -m pytest a")
    for one in (report("q", "passed"), report("p", "failed"), report("p", "skipped", "setup")):
        audit.pytest_runtest_logreport(one)
    lines = audit.markdown().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[2:] == ["| p | 1 | 0 | 1 | a |", "| q | 1 | 1 | 0 | a |", "| all | 2 | 1 | 1 |  |"]
    assert f"{os.cpu_count()} cores" in lines[-1] and "Made by `python -m pytest a`" in lines[-1]
