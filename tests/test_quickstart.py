from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.quickstart import STEPS, faults


@pytest.mark.parametrize(
    ("steps", "momentum", "trained"), [(STEPS, 1.0, True), (STEPS, 0.0, False), (0, 1.0, False)]
)
def test_the_check_of_the_quickstart_sees_what_was_not_trained(
    tmp_path: Path, steps: int, momentum: float, trained: bool
) -> None:
    """Results alone, such as the published ones, are no training."""
    assert f"baseline: 0 optimiser steps, expected {STEPS}" in faults(tmp_path)
    folder = tmp_path / "runs" / "classification" / "quickstart" / "Net" / "baseline" / "seed0-0"
    (folder / "checkpoints").mkdir(parents=True)
    optimizer = {"state": {0: {"momentum_buffer": torch.full((2,), momentum)}}}
    state = {"global_step": steps, "optimizer_states": [optimizer]}
    torch.save(state, folder / "checkpoints" / "last.ckpt")
    assert any(x.startswith("baseline:") and "steps" in x for x in faults(tmp_path)) != trained
    assert "baseline: no row in the table, expected a value" in faults(tmp_path)
