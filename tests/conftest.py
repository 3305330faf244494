"""What several tests need."""

from __future__ import annotations

import os
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
