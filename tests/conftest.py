"""What several tests need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# Two threads of tiny tensors are slower than one, and the dashboard must not look for a network.
torch.set_num_threads(1)
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands name files of configs/, and Lightning looks at the process's own arguments."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["pytest"])


@pytest.fixture(autouse=True)
def end_of_dashboard_runs() -> Iterator[None]:
    """A process has one dashboard run, and a test's must not go on into the next test."""
    yield
    wandb = sys.modules.get("wandb")
    if getattr(wandb, "run", None) is not None:
        wandb.finish()  # type: ignore[union-attr]
