"""Two processes: the same figures as one, one stop for all, and an end when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment

from data.text import cache as text_cache
from tasks.runs.checkpoints import damage_of
from tasks.runs.processes import WatchingLauncher
from tests.reliability.evaluated import OPTION, VARIABLE, samples_tested
from tests.reliability.faults import Fault
from tests.reliability.launcher import Launcher
from tests.reliability.runs import (
    OPTIONS,
    ROOT,
    checkpoint,
    options,
    results_of,
    run_directory,
    succeeded,
)
from tests.reliability.together import TWO, finished, free_port, slurm, together, torchrun

pytestmark = pytest.mark.promise("several processes train, stop and resume as one")


def test_one_signal_stops_both_and_one_process_resumes(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    """A network without batch statistics ends with the same weights, up to rounding."""
    plain = ["--model.cnsn.kind=none", "--model.network.init_args.dropout=0"]
    command = ["fit", *options("text", data, tmp_path / "two", *plain)]
    processes = together(warm, "text", command, (None, Fault("step", 2, "SIGTERM")))
    assert [process.wait() for process in processes] == [128 + signal.SIGTERM] * 2
    assert checkpoint(tmp_path / "two")["global_step"] == 3
    output = succeeded(warm.run("text", command))
    assert "last.ckpt: step 3, epoch 1" in output
    alone = ["fit", *options("text", data, tmp_path / "one", *plain)]
    succeeded(warm.run("text", alone))
    one, two = (checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 10
    torch.testing.assert_close(one["state_dict"], two["state_dict"], rtol=1e-3, atol=1e-4)


def test_a_signal_is_answered_though_the_other_process_is_stopped(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    """It waits in a collective for the other one, where Python hears nothing."""
    command = ["fit", *options("text", data, tmp_path, *TWO), "--save_every=1"]
    port, fault = free_port(), asdict(Fault("step", 3, "SIGSTOP"))
    function = "tests.reliability.unread.fit_impatiently"
    first, stopped = [
        warm.call(function, command, planned, **torchrun(rank, port))
        for rank, planned in enumerate([None, fault])
    ]
    try:
        state = Path(f"/proc/{stopped.pid}/stat")
        wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", 200)
        first.kill(signal.SIGTERM)
        assert first.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        stopped.kill()
    assert "Told to end by SIGTERM, but another process of this run" in first.output()
    assert "does not answer: it may be stopped. The same command resumes" in first.output()
    assert checkpoint(tmp_path)["global_step"] == 3


def test_one_process_prepares_and_the_others_wait(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are the data that a training prepares by itself; `data.prepare` has a lock, too."""
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path))
    read, calls = text_cache.read_imdb, []

    def slowly(path: Path) -> Any:
        calls.append(path)
        time.sleep(0.3)
        return read(path)

    monkeypatch.setattr(text_cache, "read_imdb", slowly)
    folder = data / "text"
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(text_cache.open_corpus, folder, folder, min_count=1, max_words=None)
            for _ in range(3)
        ]
    assert len({corpus.result().fingerprint for corpus in asked}) == 1
    assert len(calls) == 1


def test_who_died_is_said_though_its_connections_went_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = WatchingLauncher(LightningEnvironment(), 2, 1)
    launcher.outlook = str
    dying = ["sh", "-c", "sleep 0.3; kill -9 $$"]

    def start() -> None:
        launcher.procs = [subprocess.Popen(dying)]

    def lose() -> None:
        assert launcher._dead() is None
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(launcher, "_call_children_scripts", start)
    monkeypatch.setattr("tasks.runs.processes.lost_process", lambda error: True)
    with pytest.raises(RuntimeError):
        launcher.launch(lose)
    assert "error: process 1 of 2 has ended (killed by signal 9)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "how"), [(0, "SIGKILL"), (1, "SIGKILL"), (0, "raise"), (1, "raise")]
)
def test_a_process_that_dies_ends_the_job(
    warm: Launcher, data: Path, tmp_path: Path, rank: int, how: Any
) -> None:
    command = ["fit", *options("text", data, tmp_path), "--save_every=1"]
    fault = Fault("step", 6, how)
    processes = together(warm, "text", command, (fault, None) if rank == 0 else (None, fault))
    assert processes[rank].wait() == (-signal.SIGKILL if how == "SIGKILL" else 1)
    died = time.monotonic()
    assert processes[1 - rank].wait(timeout=60) == 1
    assert time.monotonic() - died < 60
    output = processes[1 - rank].output()
    assert "Another process of this training has ended. The same command resumes" in output
    assert checkpoint(tmp_path)["global_step"] in (5, 6)
    finished(together(warm, "text", command))
    assert checkpoint(tmp_path)["global_step"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("task", list(OPTIONS))
@pytest.mark.parametrize("variables", [torchrun, slurm])
def test_every_task_trains_and_is_tested_as_by_one(
    warm: Launcher, data: Path, tmp_path: Path, task: str, variables: Any
) -> None:
    whole = [part for part in options(task, data, tmp_path) if "limit_" not in part]
    short = [*whole, "--trainer.limit_train_batches=3"]
    even = ["--data.batch_size=8"] if task in ("segmentation", "adaptation") else []
    finished(together(warm, task, ["fit", *short, *even], variables=variables))
    clean = ["--data.corruptions=[]"] if task in ("classification", "fixmatch") else []
    test = ["test", *short, *even, *clean, OPTION]
    noted = tmp_path / "two", tmp_path / "one"
    for folder in noted:
        folder.mkdir()
    finished(together(warm, task, test, variables=variables, environment={VARIABLE: str(noted[0])}))
    succeeded(warm.start(task, test, environment={VARIABLE: str(noted[1])}))
    parallel, alone = results_of(task, tmp_path)
    assert parallel["config_hash"] == alone["config_hash"]
    for name, value in alone["summary"].items():
        # One sample whose two best classes are equal but for rounding may differ.
        assert parallel["summary"][name] == pytest.approx(value, abs=1.01 / alone["n_test"] + 2e-3)
    assert counts(parallel) == counts(alone)
    parts, (whole,) = samples_tested(noted[0]), samples_tested(noted[1])
    assert len(parts) == 2 and all(parts)
    together_tested = [sample for part in parts for sample in part]
    assert len(whole) >= alone["n_test"] == parallel["n_test"]
    assert len(set(whole)) > 0.9 * len(whole)  # Hardly two are alike.
    assert sorted(together_tested) == sorted(whole)


def counts(record: dict[str, Any]) -> list[int]:
    """How many samples a test's figures were made of, wherever it says so; not scores of pixels."""
    found = [entry["n"] for part in ("conditions", "test_sets") for entry in record.get(part, [])]
    found += [sum(map(sum, record["confusion"]))] if "confusion" in record else []
    found += [sum(bins["n"]) for bins in record.get("reliability", {}).values()]
    assert all(found) and (found or "iou" in record)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["both", "the first", "the second"])
def test_a_signal_during_validation_ends_all(
    warm: Launcher, data: Path, tmp_path: Path, asked: str
) -> None:
    """There processes do different numbers of batches, and cannot agree."""
    command = ["fit", *options("text", data, tmp_path)]
    fault = Fault("validation", 0, "SIGTERM")
    faults = (None if asked == "the second" else fault, None if asked == "the first" else fault)
    first, second = together(warm, "text", command, faults)
    assert first.wait(timeout=120) == 128 + signal.SIGTERM
    # The other one may see that its partner has gone before it hears why.
    assert second.wait(timeout=60) in (1, 128 + signal.SIGTERM)
    for process in (first, second):
        assert "The same command resumes from the last checkpoint" in process.output()
    assert checkpoint(tmp_path)["global_step"] in (5, 6)
    finished(together(warm, "text", command))
    assert checkpoint(tmp_path)["global_step"] == 10


@pytest.mark.slow
def test_slurm_s_warning_saves_and_requeues(
    warm: Launcher, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    scontrol.chmod(0o755)

    def variables(rank: int, port: str) -> dict[str, str]:
        return {**slurm(rank, port), "PATH": f"{scontrol.parent}:/usr/bin:/bin"}

    command = ["fit", *options("text", data, tmp_path)]
    fault = Fault("step", 2, "SIGUSR1")
    processes = together(warm, "text", command, (fault, fault), variables)
    assert [process.wait() for process in processes] == [128 + signal.SIGUSR1] * 2
    assert asked.read_text() == "requeue 77\n"
    assert checkpoint(tmp_path)["global_step"] == 3


def children(pid: int) -> list[int]:
    """Ranks that a process has started; what it forks for other programs knows no rank."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if _is_rank(Path(f"/proc/{child}"))]


def _is_rank(process: Path) -> bool:
    try:
        command, variables = ((process / name).read_bytes() for name in ("cmdline", "environ"))
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"tasks.text" in command and b"LOCAL_RANK=" in variables


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # Ended, and its parent has not asked yet.


def wait_for(happened: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the started one at once", "the started one", "the first one"])
def test_processes_that_the_command_starts_end_together(
    warm: Launcher, data: Path, tmp_path: Path, victim: str
) -> None:
    """One command starts the others by itself, as most users do."""
    command = ["fit", *options("text", data, tmp_path, "--trainer.max_epochs=40"), "--save_every=1"]
    log = tmp_path / "log"
    with log.open("w") as file:
        first = subprocess.Popen(
            [sys.executable, "-m", "tasks.text", *command, *TWO],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=file,
        )
    wait_for(lambda: first.poll() is not None or children(first.pid), 200)
    (started,) = children(first.pid)
    if victim != "the started one at once":
        saved = "runs/*/*/*/checkpoints/previous.ckpt"
        wait_for(lambda: first.poll() is not None or list(tmp_path.glob(saved)), 400)
    assert first.poll() is None
    os.kill(first.pid if victim == "the first one" else started, signal.SIGKILL)
    if victim == "the first one":
        first.wait()
        wait_for(lambda: gone(started), 60)
    else:
        assert first.wait(timeout=60) == 1
        assert "error: process 1 of 2 has ended (killed by signal 9)" in log.read_text()
        nothing = "There is no checkpoint yet: the same command starts from the beginning."
        resumes = "The same command resumes from the last checkpoint."
        early = victim == "the started one at once"
        assert [said in log.read_text() for said in (nothing, resumes)] == [early, not early]
    for path in tmp_path.glob("runs/*/*/*/checkpoints/*.ckpt"):
        assert damage_of(path) is None
    output = succeeded(warm.run("text", command))
    assert ("last.ckpt: step " in output) == (victim != "the started one at once")
    assert checkpoint(tmp_path)["global_step"] == 200


@pytest.mark.slow
def test_torchrun_ends_with_a_dead_process_and_resumes(
    warm: Launcher, data: Path, tmp_path: Path
) -> None:
    """The real program, as a user starts it, and no variables of ours."""
    plain = ["--model.cnsn.kind=none", "--model.network.init_args.dropout=0"]
    chosen = [*plain, "--trainer.max_epochs=40", "--save_every=1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    asked = ["-m", "tasks.text", "fit", *options("text", data, tmp_path / "two", *chosen), *TWO]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([*torchrun, *asked], cwd=ROOT, env=environment)
    saved_twice = "two/runs/*/*/*/checkpoints/previous.ckpt"
    wait_for(lambda: job.poll() is not None or list(tmp_path.glob(saved_twice)), 400)
    assert job.poll() is None
    os.kill(children(job.pid)[-1], signal.SIGKILL)
    assert job.wait(timeout=60) == 1
    saved = checkpoint(tmp_path / "two")["global_step"]
    assert 2 <= saved < 200 and run_directory(tmp_path / "two").is_dir()
    done = subprocess.run(
        [*torchrun, *asked], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert f"last.ckpt: step {saved}," in done.stdout + done.stderr
    succeeded(warm.run("text", ["fit", *options("text", data, tmp_path / "one", *chosen)]))
    one, two = (checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 200
    torch.testing.assert_close(one["state_dict"], two["state_dict"], rtol=1e-2, atol=1e-3)
