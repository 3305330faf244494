"""Error and calibration of every test condition in one pass over all of them.

    ECE = sum_b n_b / n * |accuracy_b - confidence_b|       (15 equal bins of confidence)

Source of ECE: Guo et al. 2017, https://arxiv.org/abs/1706.04599. mCE on CIFAR is the plain mean
over corruptions of the mean error over severities; ImageNet-C's divides each corruption's mean by
AlexNet's (Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261).

The mean corruption ECE, ``corrupted_ece``, is that same mean of every condition's own ECE. The
pooled ECE of reliability diagrams is another number: conditions and seeds share one set of bins
there, in which gaps of opposite sign cancel, so that it is never larger (equal counts).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = [
    "ConfusionMatrices",
    "GroupedErrors",
    "not_finite_in",
    "reliability",
]


class GroupedErrors(Metric):
    """Top-1 error and expected calibration error of each group of samples.

    Args:
        groups: number of groups.
        bins: equal bins of confidence.
        pooled: have one more entry, these groups as one.

    State is a table of sums, so that it is exact over processes and batch sizes, and nothing
    leaves the device before :meth:`compute`.
    """

    full_state_update = False
    table: Tensor

    def __init__(self, groups: int, bins: int = 15, *, pooled: slice | None = None) -> None:
        super().__init__()
        self.bins = bins
        self.pooled = pooled
        # For each group and bin: samples, correct ones, sum of confidences.
        zeros = torch.zeros(groups, bins, 3, dtype=torch.float64)
        self.add_state("table", zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor, group: Tensor) -> None:
        """Add a batch: logits (B, classes), label (B,), group (B,)."""
        confidence, predicted = torch.softmax(logits.float(), dim=-1).max(-1)
        # In the sums, NaN says that an output was NaN or infinite: nothing waits for the device.
        confidence = confidence.masked_fill(~logits.isfinite().all(-1), torch.nan)
        # Bins are open on the left, as in the reference: a confidence of 1 belongs to the last.
        bin_ = (confidence.nan_to_num() * self.bins).ceil().long().clamp(min=1) - 1
        row = torch.stack(
            [torch.ones_like(confidence), (predicted == label).float(), confidence], dim=-1
        )
        self.table.view(-1, 3).index_add_(0, group * self.bins + bin_, row.double())

    def compute(self) -> dict[str, Tensor]:
        """``error`` and ``ece`` in [0, 1], and ``n``: each (groups,), or one more if pooled.

        NaN for an empty group, and for one of which an output of the network was not finite.
        """
        table = self.table
        if self.pooled is not None:
            table = torch.cat([table, table[self.pooled].sum(0, keepdim=True)])
        n = table[..., 0].sum(-1)
        correct, confidence = table[..., 1], table[..., 2]
        ece = (correct - confidence).abs().sum(-1) / n
        return {
            "error": (1 - correct.sum(-1) / n).masked_fill(ece.isnan(), torch.nan),
            "ece": ece,
            "n": n.long(),
        }

    def counts(self) -> Tensor:
        """The sums that :meth:`compute` is made of, of all processes: (groups, bins, 3)."""
        with self.sync_context():
            return self.table.clone()


class ConfusionMatrices(Metric):
    """Counts of samples, or of pixels, by (group, true class, predicted class).

    Whole numbers, so the sum is exact over processes and batch sizes.

    Args:
        groups: number of groups.
        classes: number of classes.
        ignore: label of what is not counted; None counts all.
    """

    full_state_update = False
    counts: Tensor
    unknown: Tensor

    def __init__(self, groups: int, classes: int, *, ignore: int | None = None) -> None:
        super().__init__()
        self.classes, self.ignore = classes, ignore
        zeros = torch.zeros(groups, classes, classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")
        self.add_state("unknown", zeros[:, 0, 0].clone(), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, label: Tensor, group: Tensor | int) -> None:
        """Add class numbers, int64 (...), their labels (...), and the group of each or of all.

        A class number below 0 says that the network gave none.
        """
        # What is left out has places of its own, since to select would wait for the device.
        places = self.counts.numel()
        cell = (group * self.classes + label) * self.classes + predicted
        cell = torch.where(predicted < 0, places + 1 + group, cell)
        if self.ignore is not None:
            cell = torch.where(label == self.ignore, places, cell)
        cell = cell.flatten()
        found = torch.zeros(places + 1 + len(self.unknown), dtype=torch.int64, device=cell.device)
        found.scatter_add_(0, cell, torch.ones_like(cell))
        self.unknown += found[places + 1 :]
        self.counts += found[:places].view_as(self.counts)

    def compute(self) -> Tensor:
        """int64 (groups, classes, classes), rows the truth."""
        return self.counts

    def without_class(self) -> Tensor:
        """What has a label and was given no class, of all processes: int64 (groups,)."""
        with self.sync_context():
            return self.unknown.clone()


def not_finite_in(values: Mapping[str, Any], names: Iterable[Any]) -> list[str]:
    """The groups of which an output of the network was NaN or infinite.

    Args:
        values: ``error`` and ``n``, from :meth:`GroupedErrors.compute`.
        names: of the groups, or corruption and severity of each.
    """
    error, n = (torch.as_tensor(values[key]).reshape(-1).tolist() for key in ("error", "n"))
    found = []
    for name, e, count in zip(names, error, n, strict=False):
        if count and math.isnan(e):
            condition = name[:1] if name == ("clean", 0) else name
            found.append(name if isinstance(name, str) else " ".join(map(str, condition)))
    return found


def reliability(
    counts: Tensor, parts: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, list[float]]]:
    """What reliability diagrams are drawn from: ``n``, ``accuracy`` and ``confidence`` by bin.

    An empty bin has accuracy and confidence 0. The groups of a part share the bins, whose ECE is
    therefore the pooled one.

    Args:
        counts: from :meth:`GroupedErrors.counts`.
        parts: groups that count together, by name; a part without groups is left out.
    """
    found = {}
    for name, groups in parts.items():
        if not groups:
            continue
        n, correct, confidence = counts[list(groups)].sum(0).cpu().unbind(-1)
        filled = n.clamp(min=1)
        found[name] = {
            "n": n.long().tolist(),
            "accuracy": (correct / filled).tolist(),
            "confidence": (confidence / filled).tolist(),
        }
    return found
