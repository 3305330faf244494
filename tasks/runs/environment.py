"""The machine and the code that a run was trained and tested with.

Digits move with the processor's instructions, with threads and with versions, so each result says
which they were: of its test, and of every start that trained its weights.
"""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import ROOT

if TYPE_CHECKING:
    import torch

__all__ = ["commit_at_start", "environment", "git_commit", "processor"]

Record = dict[str, Any]


def environment(used: torch.device) -> Record:
    """Versions, commit and machine; `used` is the device that computes."""
    import lightning
    import numpy as np
    import torch
    import torchvision

    device = torch.cuda.get_device_name(used) if used.type == "cuda" else platform.machine()
    return {
        "commit": commit_at_start(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device,
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's model, such as "AMD EPYC 7763 64-Core Processor"."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def commit_at_start() -> str | None:
    """Of the code that this process has loaded, whatever is committed while it trains."""
    return git_commit()


def git_commit() -> str | None:
    """The commit that runs, with "+" where the code differs from it; None outside a checkout.

    What runs write, results/ and the pages made from it, is no difference.
    """
    written = (":!results", ":!README.md", ":!docs")
    commit = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    return None if commit is None else commit + ("+" if changes else "")


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()
