"""What a measurement was made on, and by what."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import torch

from tasks.runs.environment import processor

__all__ = ["command", "machine"]


def machine() -> str:
    """Processor, cores, accelerator and versions in one phrase."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


def command() -> str:
    """This process's command line, without where its results go."""
    main = sys.modules["__main__"]
    name = main.__spec__.name if main.__spec__ is not None else Path(sys.argv[0]).stem
    words = sys.argv[1:]
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    return shlex.join(["python", "-m", name, *words])
