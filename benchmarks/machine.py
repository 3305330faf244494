"""What a measurement was made on, and by what."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path

import torch

__all__ = ["command", "machine"]


def machine() -> str:
    """Processor, cores, accelerator and versions in one phrase."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = [line for line in information.read_text().splitlines() if "model name" in line]
        model = names[0].partition(": ")[2] if names else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


def command() -> str:
    """This process's command line, without where its results go."""
    main = sys.modules["__main__"]
    name = main.__spec__.name if main.__spec__ is not None else Path(sys.argv[0]).stem
    words = sys.argv[1:]
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    return shlex.join(["python", "-m", name, *words])
