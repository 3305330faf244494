"""What a measurement was made on, and by what."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path

import numpy as np
import torch

from tasks.runs.environment import git_commit, processor

__all__ = ["command", "machine"]


def machine() -> str:
    """Processor, cores, accelerator, versions and commit in one phrase."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor()} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores{gpu}, "
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, "
        f"commit {git_commit() or 'unknown'}"
    )


def command() -> str:
    """This process's command line, without where its results go."""
    main = sys.modules["__main__"]
    name = main.__spec__.name if main.__spec__ is not None else Path(sys.argv[0]).stem
    words = sys.argv[1:]
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    return shlex.join(["python", "-m", name, *words])
