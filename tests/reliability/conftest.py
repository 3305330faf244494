"""Every test here keeps a promise to the user, and an audit counts them.

    make audit          # the whole suite, slow tests included; writes runs/results/audit.md

A test names its promise, ``@pytest.mark.promise("a killed run resumes bit-identically")``, or a
file does for its tests, by ``pytestmark``. Tests with the same words share a row. Each parameter of
a test is a case; a test that tries several says how many: ``record_property("cases", 100)``.
"""

from __future__ import annotations

import platform
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import machine
from tasks.runs.environment import git_commit
from tests.local_server import Server, serving

# Fixtures: a warm process that starts the tasks in a moment, and small data of all of them.
from tests.reliability.runs import data, warm  # noqa: F401

HERE = Path(__file__).parent
COLUMNS = ("promise", "cases tried", "passed", "skipped")
TITLE = "# Reliability: what is promised, and how often it was tried"
CASES = """A case is one fault, hostile file, mistake, batch or configuration that is tried: each
parameter of a test, and as many as a test counts, such as its kills. A case that failed is tried
and not passed; one is skipped where the machine lacks what it needs."""


class Audit:
    """A plugin: cases tried, passed and skipped of each promise, and their table."""

    def __init__(self, path: str | None = None, command: str = "make audit") -> None:
        self.path = path  # where the table is also written
        self.command = command
        self.counts: dict[str, Counter[str]] = {}
        self.files: dict[str, set[str]] = {}  # that hold each promise's tests
        self.begun = time.monotonic()
        self.commit = git_commit() if path else None  # when it begins

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        promise = properties.get("promise")
        # A case is decided by its call, or by what failed or was skipped before it.
        if promise is None or (report.when != "call" and report.passed):
            return
        count = self.counts.setdefault(str(promise), Counter())
        self.files.setdefault(str(promise), set()).add(Path(report.nodeid.split("::")[0]).name)
        cases = int(str(properties.get("cases", 1)))
        if report.when == "teardown":  # The call passed, and the case failed all the same.
            count["passed"] -= cases
        elif report.skipped and not hasattr(report, "wasxfail"):
            count["skipped"] += cases
        else:
            count["tried"] += cases
            count["passed"] += cases * report.passed

    def rows(self) -> list[tuple[str, ...]]:
        """The table: one row a promise, and their sum."""
        kinds = ("tried", "passed", "skipped")
        rows = [
            (promise, *(str(count[kind]) for kind in kinds))
            for promise, count in sorted(self.counts.items())
        ]
        total = (sum(count[kind] for count in self.counts.values()) for kind in kinds)
        return [COLUMNS, *rows, ("all", *map(str, total))]

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        if not self.counts:
            return
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        terminalreporter.section("promises")
        for name, *numbers in rows:
            cells = [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
            terminalreporter.write_line("  ".join([name.ljust(widths[0]), *cells]))
        whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if self.path and whole:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            Path(self.path).write_text(self.markdown())
        elif self.path:
            terminalreporter.write_line(f"Not written to {self.path}: the run was interrupted.")

    def markdown(self) -> str:
        """The table as a file of results/."""
        head, *rows = self.rows()
        named = [", ".join(sorted(self.files.get(promise, ()))) for promise, *_ in rows]
        lines = [
            (*head, "tests/reliability/"),
            ("---", "---:", "---:", "---:", "---"),
            *((*row, files) for row, files in zip(rows, named, strict=True)),
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{TITLE}\n\n{CASES}\n\n{table}\n\n{self.made_by()}\n"

    def made_by(self) -> str:
        """Machine, time, command and commit, as under every table of results/."""
        minutes = (time.monotonic() - self.begun) / 60
        system = f"{platform.system()}, Python {platform.python_version()}"
        return (
            f"{machine()}, {system}. {minutes:.0f} minutes. Made by `{self.command}` at commit "
            f"{self.commit or 'unknown'}."
        )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--audit", metavar="FILE", help="also write the table of promises there")
    parser.addoption("--kills", type=int, metavar="N", help="of the slow test; 100 by default")


def pytest_configure(config: pytest.Config) -> None:
    # A process of xdist has the arguments of the one that asked it.
    command = shlex.join(["python", "-m", "pytest", *config.invocation_params.args])
    config.pluginmanager.register(Audit(config.getoption("--audit", None), command), "audit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        marker = item.get_closest_marker("promise")
        if marker is None:
            raise pytest.UsageError(
                f"Expected {item.nodeid} to name the promise that it keeps, but it has no "
                '`@pytest.mark.promise("...")`.'
            )
        # Properties, unlike markers, travel from the processes of xdist.
        item.user_properties.append(("promise", marker.args[0]))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(Server()) as server:
        yield server
