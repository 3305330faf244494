"""A training that ends by an error at the steps that a test names."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["Interruption", "interrupt"]


class Interruption(Exception):
    """Ends the training."""


def interrupt(patch: pytest.MonkeyPatch, module_class: type[Any], *steps: int) -> list[int]:
    """Let a task's training end once before each of these global steps.

    Returns:
        The steps that are still to come.
    """
    original, left = module_class.training_step, list(steps)

    def training_step(module: Any, batch: dict[str, Any], batch_idx: int) -> Any:
        if module.global_step in left:
            left.remove(module.global_step)
            raise Interruption
        return original(module, batch, batch_idx)

    patch.setattr(module_class, "training_step", training_step)
    return left
