"""Every task, stopped in every way that a machine or a user has, ends bit-identical."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher
from tests.reliability.runs import (
    EPOCH,
    OPTIONS,
    TEST,
    assert_equal_trainings,
    checkpoint,
    differing,
    options,
    results_of,
    run_directory,
    succeeded,
)

pytestmark = pytest.mark.promise(
    "stopped at any step in any way, a run ends with bit-identical weights, metrics and results"
)
CODES = {
    "SIGINT": 128 + signal.SIGINT,
    "SIGTERM": 128 + signal.SIGTERM,
    "SIGKILL": -signal.SIGKILL,
    "raise": 1,
    "full": 1,
    "twice": 128 + signal.SIGINT,
}


def faults(task: str, accumulated: int) -> list[tuple[Fault, int | None]]:
    """A run's misfortunes, in order, each with the step at which it is then found again.

    None where nothing was saved yet. Batches are counted from 0, steps from 1.
    """
    n = EPOCH[task]
    steps = -(-n // accumulated)  # of an epoch
    mid = 2 * accumulated - 1  # the batch that ends step 2
    planned = [
        (Fault("step", 0, "raise"), None),
        (Fault("loader", accumulated, "raise"), 1),
        (Fault("step", mid, "SIGTERM"), 2),
        # The last batch of the epoch: validation is still to come.
        (Fault("step", n - 1, "SIGINT"), steps),
        (Fault("validation", 0, "SIGTERM"), steps),
        (Fault("validation", 0, "SIGKILL"), steps),
        (Fault("step", n, "SIGKILL"), steps),
        (Fault("saved", steps + 1, "SIGKILL"), steps + 1),
        (Fault("writing", steps + 2, "full"), steps + 1),
        (Fault("writing", steps + 2, "SIGKILL"), steps + 1),
        (Fault("synchronising", steps + 2, "SIGKILL"), steps + 1),
        (Fault("keeping", steps + 2, "SIGKILL"), steps + 1),
        (Fault("step", 2 * n - 1, "SIGTERM"), 2 * steps),
        (Fault("saved", 2 * steps, "SIGKILL"), 2 * steps),
    ]
    # Of an epoch of two steps, the second is its end.
    return [p for p in planned if p[0] != Fault("step", mid, "SIGTERM") or mid < n - 1]


def misfortunes(
    warm: Launcher, task: str, command: list[str], place: Path, planned: list[Any], workers: bool
) -> None:
    """Start the same command again and again, each time with its fault; then to the end."""
    for number, (fault, found) in enumerate(planned):
        more = [f"--data.workers={2 * (number % 2)}"] if workers else []
        process = warm.run(task, [*command, *more], fault)
        output = process.output()
        assert process.code == CODES[fault.do], f"{fault}: {process.code}\n{output}"
        if fault.do in ("SIGINT", "SIGTERM", "full"):
            assert "ame command" in output and "resumes from the last checkpoint" in output
        if found is None:
            assert not list(run_directory(place).glob("checkpoints/*.ckpt"))
            continue
        assert checkpoint(place)["global_step"] == found, f"{fault}\n{output}"
    output = succeeded(warm.run(task, command))
    assert f"last.ckpt: step {planned[-1][1]}," in output


@pytest.mark.parametrize(
    ("task", "accumulated"),
    [
        ("text", 1),
        pytest.param("text", 2, marks=pytest.mark.slow),
        *(
            pytest.param(task, accumulated, marks=pytest.mark.slow)
            for task in OPTIONS
            for accumulated in (1, 2)
            if task != "text"
        ),
    ],
)
def test_stopped_in_every_way(
    warm: Launcher, data: Path, tmp_path: Path, task: str, accumulated: int, record_property: Any
) -> None:
    more = [f"--trainer.accumulate_grad_batches={accumulated}"]
    whole = ["fit", *options(task, data, tmp_path / "whole", *more)]
    succeeded(warm.run(task, whole))
    command = ["fit", *options(task, data, tmp_path / "parts", *more), "--save_every=1"]
    planned = faults(task, accumulated)
    # Domain images are read once, by threads.
    misfortunes(warm, task, command, tmp_path / "parts", planned, task != "adaptation")
    lost = frozenset(
        fault.number - 1 for fault, _ in planned if (fault.at, fault.do) == ("saved", "SIGKILL")
    )
    assert_equal_trainings(tmp_path / "parts", tmp_path / "whole", lost)
    for place in ("parts", "whole"):
        test = options(task, data, tmp_path / place, *more, *TEST.get(task, []))
        succeeded(warm.run(task, ["test", *test]))
    lines = [results_of(task, tmp_path / place) for place in ("parts", "whole")]
    assert len(lines[0]) == 1 and not list(differing(*lines))
    record_property("cases", len(planned))
