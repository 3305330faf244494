"""Pseudo-labels of FixMatch, and how good they are.

    q = softmax(weak logits / T),  label = argmax q,  kept where max q >= threshold

Source: Sohn et al. 2020, https://arxiv.org/abs/2001.07685
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["PseudoLabels", "pseudo_label"]


def pseudo_label(
    logits: Tensor, *, threshold: float, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Labels from the logits of the weak view; no gradient flows through them.

    Args:
        logits: (B, classes).
        threshold: least confidence of a label that counts, in [0, 1].
        temperature: divides the logits; below 1 it sharpens the confidences.

    Returns:
        ``label`` int64 (B,) and ``kept`` bool (B,).
    """
    confidence, label = torch.softmax(logits.detach().float() / temperature, dim=-1).max(-1)
    return label, confidence >= threshold


class PseudoLabels(Metric):
    """Counts of pseudo-labels, by the class that they name.

    Args:
        num_classes: classes.

    State is a table of sums, exact over processes; nothing leaves the device before `compute`.
    """

    full_state_update = False
    table: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        # For each class that was named: labels, right ones, kept ones, kept and right ones.
        zeros = torch.zeros(num_classes, 4, dtype=torch.int64)
        self.add_state("table", zeros, dist_reduce_fx="sum")

    def update(self, label: Tensor, kept: Tensor, truth: Tensor) -> None:
        """Add a batch of pseudo-labels (B,), whether each is kept (B,), and the true ones (B,)."""
        right = label == truth
        row = torch.stack([torch.ones_like(right), right, kept, kept & right], dim=-1)
        self.table.index_add_(0, label, row.long())

    def compute(self) -> dict[str, Any]:
        """Figures in [0, 1]; NaN where nothing was counted.

        ``mask_rate``: share of labels kept. ``accuracy``: of the kept ones. ``accuracy_all``: of
        all. ``classes``: share of each class among the kept ones.
        """
        drawn, right, kept, kept_right = self.table.double().sum(0)
        return {
            "mask_rate": (kept / drawn).item(),
            "accuracy": (kept_right / kept).item(),
            "accuracy_all": (right / drawn).item(),
            "classes": (self.table[:, 2] / kept).tolist(),
        }
