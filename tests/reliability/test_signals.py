"""Signals as terminals, torchrun and SLURM send them: to every process of a run, workers too."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from data.loading import TrainLoader, evaluation_loader
from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher
from tests.reliability.runs import assert_equal_trainings, checkpoint, options, succeeded
from tests.reliability.steps import OPTION, VARIABLE, noted

pytestmark = pytest.mark.promise(
    "stopped at any step in any way, a run ends with bit-identical weights, metrics and results"
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Numbers:
    def __len__(self) -> int:
        return 40

    def __getitem__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        return {"index": torch.as_tensor(positions)}


def loaders() -> list[Callable[[], object]]:
    return [
        lambda: TrainLoader(Numbers(), batch_size=2, seed=0, workers=2),
        lambda: evaluation_loader(Numbers(), batch_size=2, workers=2),
    ]


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("make", loaders(), ids=["training", "evaluation"])
def test_workers_outlive_what_the_training_process_must_see(
    make: Callable[[], object], number: signal.Signals
) -> None:
    loader = make()
    batches = iter(loader)  # type: ignore[call-overload]
    found = [next(batches), next(batches)]  # one of each worker
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    # By another process: what this one sends is meant.
    subprocess.run(
        ["kill", f"-{int(number)}", *(str(worker.pid) for worker in workers)], check=True
    )
    time.sleep(0.1)
    found += batches
    assert sorted(i for batch in found for i in batch["index"].tolist()) == list(range(40))
    # They end when the loader is no longer there, or this process tells them.
    workers[0].terminate()
    workers[0].join(10)
    assert workers[0].exitcode == 0
    del batches, loader
    workers[1].terminate()
    workers[1].join(10)
    assert workers[1].exitcode == 0


def test_a_second_ctrl_c_stops_at_once(warm: Launcher, data: Path, tmp_path: Path) -> None:
    command = ["fit", *options("text", data, tmp_path), "--save_every=1"]
    process = warm.run("text", command, Fault("step", 2, "twice"))
    assert process.code == 128 + signal.SIGINT
    assert "Ctrl-C again stops at once" in process.output()
    assert "Interrupted. The same command resumes" in process.output()
    assert checkpoint(tmp_path)["global_step"] == 2  # Not that of the step in progress.
    assert "last.ckpt: step 2," in succeeded(warm.run("text", command))


def test_without_a_checkpoint_none_is_promised(warm: Launcher, data: Path, tmp_path: Path) -> None:
    command = ["fit", *options("text", data, tmp_path)]
    process = warm.run("text", command, Fault("step", 0, "twice"))
    assert process.code == 128 + signal.SIGINT
    said = "Interrupted. There is no checkpoint yet: the same command starts from the beginning."
    assert said in process.output() and "resumes" not in process.output()
    assert "Resuming" not in succeeded(warm.run("text", command))


def test_a_fresh_run_goes_on_as_it_says(warm: Launcher, data: Path, tmp_path: Path) -> None:
    """The command as it was would train another one."""
    command = ["fit", *options("text", data, tmp_path), "--fresh=true"]
    assert warm.run("text", command, Fault("step", 2, "SIGINT")).code == 128 + signal.SIGINT
    process = warm.run("text", command, Fault("step", 3, "SIGINT"))
    found = re.search(r"Interrupted. With (\w+)=(\S+) the same command res", process.output())
    assert found and found[2].endswith(".2")
    output = succeeded(warm.start("text", command, environment={found[1]: found[2]}))
    assert f"Resuming {found[2]} from last.ckpt: step 4," in output
    assert "last.ckpt: step 3," in succeeded(warm.run("text", command[:-1]))


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, "pipe"), (signal.SIGTERM, "pipe"), (signal.SIGHUP, "terminal")],
)
def test_whoever_reads_it_saves(
    warm: Launcher, data: Path, tmp_path: Path, number: signal.Signals, kind: str
) -> None:
    command = ["fit", *options("text", data, tmp_path), "--trainer.enable_progress_bar=true"]
    fault = asdict(Fault("step", 2, number.name))  # type: ignore[arg-type]
    process = warm.call("tests.reliability.unread.fit", command, kind, fault, "SIG_DFL")
    assert process.wait() == 128 + number
    assert checkpoint(tmp_path)["global_step"] == 3
    assert "last.ckpt: step 3," in succeeded(warm.run("text", command))


def test_what_nohup_started_outlives_its_terminal(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    command = ["fit", *options("text", data, tmp_path)]
    fault = asdict(Fault("step", 2, "SIGHUP"))
    process = warm.call("tests.reliability.unread.fit", command, "terminal", fault, "SIG_IGN")
    assert process.wait() == 0 and checkpoint(tmp_path)["global_step"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_saves_first(
    warm: Launcher, data: Path, tmp_path: Path, number: signal.Signals, accumulated: int
) -> None:
    more = ["--data.workers=2", f"--trainer.accumulate_grad_batches={accumulated}"]
    more += ["--trainer.max_epochs=6"]
    whole = ["fit", *options("text", data, tmp_path / "whole", *more), OPTION]
    succeeded(warm.start("text", whole, environment={VARIABLE: str(tmp_path / "all")}))
    command = ["fit", *options("text", data, tmp_path / "parts", *more), OPTION]
    stopped = 0
    for after in (2, 9, 17):
        notes = tmp_path / f"steps{after}"
        process = warm.start("text", command, environment={VARIABLE: str(notes)})
        while process.poll() is None and (noted(notes) or [0])[-1] < after:
            time.sleep(0.002)
        if process.poll() is None:
            for pid in (*children(process.pid), process.pid):
                os.kill(pid, number)
        if process.wait() == 0:
            break  # It was faster than the signal.
        assert process.code == 128 + number, process.output()
        assert "The same command resumes from the last checkpoint" in process.output()
        # Nothing is lost: what was begun is finished and saved.
        steps = -(-5 // accumulated)
        begun = noted(notes)[-1] + 1
        done = begun // 5 * steps + -(-(begun % 5) // accumulated)
        assert checkpoint(tmp_path / "parts")["global_step"] == done
        stopped += 1
    assert stopped
    succeeded(warm.start("text", command, environment={VARIABLE: str(tmp_path / "last")}))
    assert_equal_trainings(tmp_path / "parts", tmp_path / "whole")
