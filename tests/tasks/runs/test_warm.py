"""Forks of a warm process are the processes that their commands alone would be."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.runs.warm import Warm

ROOT = Path(__file__).resolve().parents[3]
COMMAND = """
import atexit, os, signal, sys, time
atexit.register(print, "bye")
print(__name__, __spec__.name, sys.argv, os.environ.get("ONE"), os.environ.get("TWO"), flush=True)
print("to stderr", file=sys.stderr, flush=True)
if "wait" in sys.argv:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    print("waits", flush=True)
    time.sleep(60)
if "kill" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(3 if "three" in sys.argv else None)
"""


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    (tmp_path / "small_command.py").write_text(COMMAND)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    with Warm(["json"], {**os.environ, "PYTHONPATH": path, "ONE": "1"}) as process:
        yield process


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "small_command", *arguments]


def test_a_fork_is_its_command(warm: Warm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert warm.start(command("a", "b"), log=log).wait() == 0
    changed = {**os.environ, "TWO": "2"}
    assert warm.start(command("three"), log=log, env=changed).wait() == 3
    said = "__main__ small_command ['{}', {}] {} {}\nto stderr\nbye\n"
    file = tmp_path / "small_command.py"
    first = said.format(file, "'a', 'b'", 1, None)
    assert log.read_text() == first + said.format(file, "'three'", None, 2)


def test_signals_reach_the_group_of_a_fork(warm: Warm, tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("one", "two")]
    one, two = (warm.start(command("wait"), log=log) for log in logs)
    until = time.monotonic() + 60
    while not all(p.is_file() and "waits" in p.read_text() for p in logs):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert os.getpgid(one.pid) == one.pid != os.getpgid(0)
    os.killpg(one.pid, signal.SIGINT)
    assert one.wait(60) == 130 and two.poll() is None
    with pytest.raises(TimeoutError, match="still running"):
        two.wait(0.05)
    two.kill()
    assert two.wait(60) == -signal.SIGKILL
    assert warm.start(command("kill"), log=logs[0]).wait(60) == -signal.SIGKILL


def test_a_killed_warm_process_is_said(warm: Warm, tmp_path: Path) -> None:
    warm._server.kill()
    warm._server.wait()
    with pytest.raises(OSError):
        warm.start(command(), log=tmp_path / "log")


@pytest.mark.slow
def test_a_forked_training_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    import subprocess

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = [
        *("--config=configs/digits.yaml", "--trainer.max_epochs=1", "--model.cnsn.kind=cnsn"),
        *("--trainer.limit_train_batches=4", "--trainer.enable_progress_bar=false"),
    ]
    runs = [[f"--runs={tmp_path / name}", f"--results={tmp_path}"] for name in ("one", "two")]
    fits = [[sys.executable, "-m", "tasks.classification", "fit", *options, *r] for r in runs]
    with Warm(["tasks.engine.cli", "tasks.classification"], environment) as warm:
        assert warm.start(fits[0], log=tmp_path / "log").wait() == 0
    subprocess.run(fits[1], cwd=ROOT, env=environment, check=True)
    one, two = (
        torch.load(next((tmp_path / name).rglob("last.ckpt")), weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
