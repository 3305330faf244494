"""Command lines of the tasks as processes that start in a moment: forks of one that is warm.

    with Launcher(root) as launcher:
        process = launcher.start("text", ["fit", ...], Fault("step", 3, "SIGKILL"))
        code = process.wait()

A fork is a process of its own: it can be killed, and several of them train together.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.reliability.faults import Fault, Patches

TASKS = ("classification", "fixmatch", "segmentation", "text", "adaptation")


class Process:
    """A started command line; `log` holds what it printed."""

    def __init__(self, launcher: Launcher, pid: int, log: Path) -> None:
        self.launcher, self.pid, self.log = launcher, pid, log
        self.code: int | None = None

    def wait(self, timeout: float = 400.0) -> int:
        """The exit code, or minus the signal's number."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"still running after {timeout} s:\n{self.output()}")
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.launcher._ask({"poll": self.pid})
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


class Launcher:
    """Owns the warm process."""

    def __init__(self, root: Path, logs: Path) -> None:
        self.logs = logs
        self.count = 0
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.launcher"],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server.stdin is not None
        # Its input may not end: what this process has forked holds it open too.
        print(json.dumps({"end": True}), file=self.server.stdin, flush=True)
        self.server.wait(timeout=60)

    def start(
        self,
        task: str,
        arguments: Sequence[str],
        fault: Fault | None = None,
        environment: dict[str, str] | None = None,
    ) -> Process:
        self.count += 1
        log = self.logs / f"{self.count:04d}.log"
        planned = None if fault is None else asdict(fault)
        request = {"task": task, "arguments": list(arguments), "fault": planned, "log": str(log)}
        return Process(self, self._ask({**request, "environment": environment or {}}), log)

    def call(self, function: str, *arguments: Any, **environment: str) -> Process:
        """A function by its full name, in place of a command line."""
        self.count += 1
        log = self.logs / f"{self.count:04d}.log"
        request = {"call": function, "arguments": arguments, "log": str(log)}
        return Process(self, self._ask({**request, "environment": environment}), log)

    def run(self, task: str, arguments: Sequence[str], fault: Fault | None = None) -> Process:
        process = self.start(task, arguments, fault)
        process.wait()
        return process

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self.server.stdin is not None and self.server.stdout is not None
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return json.loads(self.server.stdout.readline())


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _child(request: dict[str, Any]) -> None:
    """In the fork: what the command line does, from its start to the exit code."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for target in (1, 2):
        os.dup2(log, target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    if "call" in request:
        name, _, function = request["call"].rpartition(".")
        getattr(importlib.import_module(name), function)(*request["arguments"])
        return
    sys.argv = ["task", *request["arguments"]]
    _forget_parents_rank()
    module = importlib.import_module(f"tasks.{request['task']}")
    if request["fault"] is not None:
        Fault(**request["fault"]).plan(module.TASK, Patches)
    module.main(request["arguments"])


def _exit_code(request: dict[str, Any]) -> int:
    """What Python makes of the ways to end."""
    try:
        _child(request)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """At once: to take down a process of this size takes longer than a tiny training."""
    for worker in multiprocessing.active_children():
        worker.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _forget_parents_rank() -> None:
    """Lightning reads the rank where it is imported."""
    from lightning.pytorch.utilities import rank_zero_only

    variables = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    ranks = [int(os.environ[name]) for name in variables if name in os.environ]
    rank_zero_only.rank = ranks[0] if ranks else 0


def serve() -> None:
    """Answer requests, a line each, until there are no more."""
    import torch

    torch.set_num_threads(1)
    for task in TASKS:
        importlib.import_module(f"tasks.{task}")
    importlib.import_module("tasks.engine.cli")
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "end" in request:
            return
        if "poll" in request:
            print(json.dumps(_poll(request["poll"])), file=answers, flush=True)
            continue
        if "call" in request:  # once, before the fork
            importlib.import_module(request["call"].rpartition(".")[0])
        pid = os.fork()
        if pid == 0:
            answers.close()
            _end(_exit_code(request))
        print(json.dumps(pid), file=answers, flush=True)


if __name__ == "__main__":
    serve()
