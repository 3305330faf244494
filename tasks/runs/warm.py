"""Commands that start in a moment: forks of one process that has imported what they all import.

    with Warm(["package"], environment) as warm:
        process = warm.start([sys.executable, "-m", "package", "argument"], log=path)
        code = process.wait()

Where several short trainings run on a CPU, half of their time is imports. A fork is otherwise the
process that the command alone would be: its own environment, output, group for signals and exit.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Forked", "Warm"]

MOMENT = 0.02  # seconds between two looks at whether a process has ended


class Forked:
    """A started command, with what of :class:`subprocess.Popen` its users need."""

    def __init__(self, warm: Warm, pid: int) -> None:
        self.warm, self.pid = warm, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or minus the signal's number; None as long as it runs."""
        if self.returncode is None:
            self.returncode = self.warm.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        """The exit code.

        Raises:
            TimeoutError: it runs longer than `timeout` seconds.
        """
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError(f"still running after {timeout} s")
            time.sleep(MOMENT)
        assert self.returncode is not None
        return self.returncode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Warm:
    """Owns the warm process, which ends with its owner.

    Args:
        modules: what it imports.
        environment: what it is imported under, such as the number of threads.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__, *modules],
            env={**environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        with suppress(OSError):  # what it no longer reads
            self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> Forked:
        """Start ``[sys.executable, "-m", module, *arguments]``, which appends its output to `log`.

        Raises:
            OSError: the warm process has ended.
        """
        environment = None if env is None else {**env}
        request = {"command": [*command[2:]], "log": str(log), "environment": environment}
        return Forked(self, self.ask(request))

    def ask(self, request: dict[str, Any]) -> Any:
        """What the warm process answers."""
        assert self._server.stdin is not None and self._server.stdout is not None
        with self._lock:
            print(json.dumps(request), file=self._server.stdin, flush=True)
            answer = self._server.stdout.readline()
        if not answer:
            raise OSError("the process that starts others has ended")
        return json.loads(answer)


def _serve() -> None:
    """Answer requests, a line each; in a fork, be the command."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()  # what all forks share is not written to by looking for what none needs
    for line in requests:
        request = json.loads(line)
        if "poll" in request:
            found, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if found else None
        else:
            answer = os.fork()
            if answer == 0:
                for stream in (requests, answers):
                    stream.close()
                _become(request)
                return
            os.setpgid(answer, answer)  # as the fork does, whichever is first
        print(json.dumps(answer), file=answers, flush=True)


def _become(request: dict[str, Any]) -> None:
    os.setpgid(0, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    if request["environment"] is not None:
        os.environ.clear()
        os.environ.update(request["environment"])
    module, *arguments = request["command"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
