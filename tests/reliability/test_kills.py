"""SIGKILL at random moments of a short training, from its start-up to its last step.

After every kill both checkpoints on the disk are read and what was lost is counted; then the same
command goes on. A training that ends is compared with an uninterrupted one, and another begins.

    pytest tests/reliability/test_kills.py -m slow --kills 1000
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.runs.checkpoints import damage_of
from tests.reliability.launcher import Launcher
from tests.reliability.runs import checkpoint, differing, options, training_of
from tests.reliability.steps import OPTION, VARIABLE, noted

pytestmark = pytest.mark.promise(
    "SIGKILL at a random moment loses at most the steps since the last checkpoint"
)
EVERY = 3  # steps between two checkpoints
EPOCHS = 5


class Victim:
    """A training that is killed and started again, in a directory of its own."""

    def __init__(self, warm: Launcher, data: Path, place: Path) -> None:
        self.warm, self.place = warm, place
        place.mkdir()
        epochs = [f"--trainer.max_epochs={EPOCHS}", f"--save_every={EVERY}"]
        self.command = ["fit", *options("text", data, place, *epochs), OPTION]
        self.starts = self.saved = 0
        # Of the last start, until it ended: from its fork, and from its first batch.
        self.seconds = self.trained = 0.0

    def start(self, delay: float | None, workers: int = 0, training: bool = False) -> str:
        """Start it, and kill it `delay` seconds later, or later than its first batch.

        Returns what was going on when it died, or "finished".
        """
        self.starts += 1
        notes = self.place / f"steps{self.starts}"
        command = [*self.command, f"--data.workers={workers}"]
        process = self.warm.start("text", command, environment={VARIABLE: str(notes)})
        began = time.monotonic()
        first: float | None = None
        while process.poll() is None:
            now = time.monotonic()
            if first is None and notes.is_file():
                first = now
            since = first if training else began
            if delay is not None and since is not None and now - since >= delay:
                process.kill()
                break
            time.sleep(0.005)
        code = process.wait()
        self.seconds = time.monotonic() - began
        self.trained = 0.0 if first is None else time.monotonic() - first
        if code == 0:
            return "finished"
        assert code == -signal.SIGKILL, f"exit code {code}:\n{process.output()}"
        return self.examine(noted(notes))

    def examine(self, begun: list[int]) -> str:
        """The state on the disk after a kill within batch ``begun[-1]``."""
        folders = list(self.place.glob("runs/*/*/seed*/checkpoints"))
        for path in [path for folder in folders for path in folder.glob("*.ckpt")]:
            assert damage_of(path) is None
        parts = [path for folder in folders for path in folder.glob("*.part")]
        there = any((folder / "last.ckpt").is_file() for folder in folders)
        found = checkpoint(self.place)["global_step"] if there else 0
        if begun:
            assert begun == list(range(self.saved, begun[-1] + 1)), "steps left out or done twice"
        done = begun[-1] if begun else self.saved  # All batches before the last one begun.
        assert found >= done - done % EVERY, f"{found} is saved, {done} were done"
        assert self.saved <= found <= done + 1
        self.saved = found
        return "writing a checkpoint" if parts else "training" if begun else "starting"


def kill_repeatedly(warm: Launcher, data: Path, place: Path, kills: int) -> Counter[str]:
    """Moments of the kills by what was going on; "finished" counts the trainings."""
    whole = Victim(warm, data, place / "whole")
    assert whole.start(None) == "finished"
    longest = whole.seconds, whole.trained
    expected = training_of(whole.place)
    draw = random.Random(0)
    moments: Counter[str] = Counter()
    victim = Victim(warm, data, place / "0")
    while sum(moments.values()) - moments["finished"] < kills:
        training = victim.starts % 2 == 0  # Else start-up, which is longer, would get most.
        delay, workers = draw.uniform(0, longest[training]), 2 * (victim.starts % 8 == 4)
        moment = victim.start(delay, workers, training)
        moments[moment] += 1
        print(f"start {sum(moments.values())}: {moment}, step {victim.saved}", flush=True)
        if moment == "finished":
            compare(victim.place, expected)
            if victim.starts == 1:  # The machine may be busier or idler by now.
                longest = victim.seconds, victim.trained
            victim = Victim(warm, data, place / str(moments["finished"]))
    assert victim.start(None) == "finished"
    moments["finished"] += 1
    compare(victim.place, expected)
    return moments


def compare(place: Path, expected: dict[str, Any]) -> None:
    """Bit by bit. Figures logged since the last writing of the curve go with a kill."""
    found = training_of(place)
    figures = {key: expected["metrics"].get(key) for key in found["metrics"]}
    assert not list(differing(found, {**expected, "metrics": figures}))
    last = max(step for step, _ in expected["metrics"])
    assert {key for key in expected["metrics"] if key[0] == last} <= set(found["metrics"])


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(
    warm: Launcher,
    data: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Any,
    kills: int,
) -> None:
    if kills == 100:
        kills = request.config.getoption("--kills", None) or kills
    moments = kill_repeatedly(warm, data, tmp_path, kills)
    print(f"{kills} kills: {dict(moments)}")
    assert moments["training"] + moments["writing a checkpoint"] > 0
    record_property("cases", kills)
