"""Runs the rows of a table: each is a `fit` and a `test` of a task's ordinary command line.

Finished runs are known by their result line and are not run again (published lines count where that
is asked for); two runners never train the same run at once (a lock that the system frees when its
holder dies); a run that fails is tried again, which resumes it, and is then reported with its log.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import Timeout

from data.errors import NO_DATA
from data.locks import Lock
from tasks import ROOT
from tasks.runs.warm import Forked, Warm
from tasks.tables.states import Places, Run, State, measured, row_states, runs_of
from tasks.tables.time_left import TimeLeft

__all__ = ["Places", "Run", "State", "row_states", "run_all", "runs_of", "slurm_submit"]

INTERRUPTED = 130
# Exit codes after which another attempt would end the same way.
HOPELESS = {NO_DATA: "failed, as its data are missing", 2: "failed, as its options are refused"}
# The first is ignored by what a shell starts in the background, until it is handled.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds to try a lock for: whoever looks whether it is held holds it for an instant.
MOMENT = 1.0


class Processes:
    """The runner's children: each hears of an interruption once, however it came.

    A terminal's Ctrl-C goes to every process of its group, that of `kill` to the runner alone; a
    task that hears of it twice ends without saving. So children are in groups of their own.
    """

    def __init__(self, warm: Warm | None = None) -> None:
        self.stopped = threading.Event()
        self._warm = warm
        self._running: set[subprocess.Popen[bytes] | Forked] = set()
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], log: Path | None, env: Mapping[str, str]) -> int:
        """The exit code of a command; INTERRUPTED where it may no longer start.

        Its output goes to the end of `log`, or to the terminal.
        """
        with self._lock:
            if self.stopped.is_set():
                return INTERRUPTED
            process = self._start(command, log, env)
            self._running.add(process)
        try:
            return process.wait()
        except OSError:  # Whoever started it was killed; it may still run, and its lock says so.
            return 1
        finally:
            with self._lock:
                self._running.discard(process)

    def _start(
        self, command: Sequence[str], log: Path | None, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | Forked:
        if self._warm is not None and log is not None and command[1] == "-m":
            with suppress(OSError):  # it was killed: what it saves is only time
                return self._warm.start(command, log=log, env=env)
        with open(log or os.devnull, "a") as file:
            output = None if log is None else file
            return subprocess.Popen(
                command, start_new_session=True, env=env, stdout=output, stderr=output
            )

    def interrupt(self) -> None:
        """Start no more, and let those that run save and end."""
        with self._lock:
            self.stopped.set()
            for process in self._running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal interrupt what runs within it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(runs: Sequence[Run], *, jobs: int, gpus: Sequence[str], retries: int) -> list[str]:
    """Run what has no result yet and return the titles of what failed.

    Args:
        runs: in the order in which they start.
        jobs: how many at once, where no GPUs are given.
        gpus: one process on each of these devices at a time.
        retries: further attempts at a run that failed; each resumes the one before.
    """
    failed: list[str] = []
    waiting: list[Run] = []
    for run, state in row_states(runs):
        if state == "done":
            _say(f"{run.title}: done")
        elif state == "refused" or not run.digests():
            _say(f"{run.title}: its options are refused")
            failed.append(run.title)
        else:
            waiting.append(run)
    # Rows that test what others train come last; they would wait for those.
    waiting.sort(key=lambda run: bool(run.row.trained_as))
    slots: queue.Queue[str | None] = queue.Queue()
    for slot in gpus or [None] * jobs:  # type: ignore[list-item]
        slots.put(slot)
    workers = slots.qsize()
    warm = _warm(waiting, workers) if workers > 1 and not gpus else None
    processes = Processes(warm)
    ahead = TimeLeft(len(waiting), workers)

    def work(run: Run) -> int:
        slot, code = slots.get(), INTERRUPTED
        ahead.start(run.title)
        try:
            if not processes.stopped.is_set():
                code = _attempts(run, slot, workers, retries, processes)
            return code
        finally:
            where = ahead.end(run.title, counts=code == 0)
            if not processes.stopped.is_set():
                _say(where)
            slots.put(slot)

    # One run alone shows its own progress in the terminal.
    beating = ahead.beating(_say) if workers > 1 and waiting else nullcontext()
    with interruptible(), warm or nullcontext(), beating, ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, run) for run in waiting]
        try:
            codes = [future.result() for future in futures]
        except KeyboardInterrupt:
            _end(processes, futures)
            raise
    return failed + [run.title for run, code in zip(waiting, codes, strict=True) if code]


def _warm(runs: Sequence[Run], workers: int) -> Warm | None:
    """What short runs on a CPU start from; with a device in use no process may fork."""
    if len(runs) < 2 or sys.platform != "linux" or torch.cuda.is_available():
        return None
    modules = {f"tasks.{run.table.task}" for run in runs}
    return Warm(["tasks.engine.cli", *sorted(modules)], _environment(None, workers))


def _end(processes: Processes, futures: Sequence[Future[int]]) -> None:
    """Pass the interruption on and wait; a second one is passed on too, and ends them at once."""
    while True:
        processes.interrupt()
        try:
            wait(futures)
            return
        except KeyboardInterrupt:
            continue


def _attempts(run: Run, gpu: str | None, workers: int, retries: int, processes: Processes) -> int:
    try:
        # What another row of this runner is training is worth waiting for.
        with _acquired(run.lock(), bool(run.row.trained_as), processes):
            # Another runner may have finished it since this one looked.
            if run.result(measured(run.places, run.table)) is not None:
                _say(f"{run.title}: done")
                return 0
            if run.abandoned():
                raise Timeout("")
            code = 1
            for attempt in range(1 + retries):
                _say(f"{run.title}: {'running' if attempt == 0 else 'trying again'}")
                code = _train_and_test(run, gpu, workers, processes)
                if code == 0 or code in HOPELESS or _was_stopped(code):
                    break
                if processes.stopped.is_set():
                    break
            _say(f"{run.title}: {_outcome(run, code, workers)}")
            return code
    except Timeout:
        _say(f"{run.title}: another process is running it; passed over.{run.way_out()}")
        return 0


def _acquired(lock: Lock, patient: bool, processes: Processes) -> Lock:
    """The lock, held from now on; one that waits for it stops waiting on an interruption."""
    while True:
        try:
            return lock.acquire(timeout=MOMENT)
        except Timeout:
            if not patient or processes.stopped.is_set():
                raise


def _train_and_test(run: Run, gpu: str | None, workers: int, processes: Processes) -> int:
    """Both commands; several at once share the cores and write to a log each."""
    # Started where the runner is, so that relative places are the same for both.
    environment = _environment(gpu, workers)
    run.log.parent.mkdir(parents=True, exist_ok=True)
    run.failure.unlink(missing_ok=True)
    code = 0
    for command in run.commands():
        if code == 0:
            code = processes.run(command, run.log if workers > 1 else None, environment)
    if code and not _was_stopped(code):
        run.failure.touch()
    return code


def _environment(gpu: str | None, workers: int) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": _path()}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    return environment


def _path() -> str:
    """PYTHONPATH with which the tasks are found from any working directory."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _was_stopped(code: int) -> bool:
    """Whether a command ended by a signal that asks for its end: it is no failure."""
    return code in (-n for n in STOPS) or code in (128 + n for n in STOPS)


def _outcome(run: Run, code: int, workers: int) -> str:
    if code == 0:
        return "done"
    if _was_stopped(code):
        return "stopped; the same command continues it"
    why = HOPELESS.get(code, "failed")
    return f"{why}, see {run.log}" if workers > 1 else why


def _say(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # In one piece, as several threads say something.


def slurm_submit(
    runs: Sequence[Run], *, cluster: str, parameters: dict[str, Any], retries: int
) -> list[Any]:
    """Submit every run that has no result yet as a job of its own, through submitit.

    Args:
        runs: what to submit.
        cluster: "slurm", or "local" for processes on this machine.
        parameters: of submitit's executor, such as slurm_partition, timeout_min, gpus_per_node.
        retries: see :func:`run_all`.

    Returns:
        submitit's jobs; a job's result is the run's exit code.
    """
    import submitit

    waiting = []
    for run, state in row_states(runs):
        _say(
            f"{run.title}: {'submitted' if state not in ('done', 'running', 'refused') else state}"
        )
        if state not in ("done", "running", "refused"):
            waiting.append(run)
    if not waiting:
        return []
    folder = runs[0].places.runs / "submitit"
    os.environ["PYTHONPATH"] = _path()  # Jobs inherit it.
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
    with executor.batch():
        return [executor.submit(_job, run, retries) for run in waiting]


def _job(run: Run, retries: int) -> int:
    return _attempts(run, None, 1, retries, Processes())
