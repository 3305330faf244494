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
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from data.corruptions import CORRUPTIONS

__all__ = [
    "GroupedErrors",
    "clean_and_corrupted",
    "mean_over_corruptions",
    "not_finite_in",
    "reliability",
    "summarise",
]

Condition = tuple[str, int]
SEVERITIES = (1, 2, 3, 4, 5)


class GroupedErrors(Metric):
    """Top-1 error and expected calibration error of each group of samples.

    Args:
        groups: number of groups.
        bins: equal bins of confidence.

    State is a table of sums, so that it is exact over processes and batch sizes, and nothing
    leaves the device before :meth:`compute`.
    """

    full_state_update = False
    table: Tensor

    def __init__(self, groups: int, bins: int = 15) -> None:
        super().__init__()
        self.bins = bins
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
        """``error`` and ``ece`` in [0, 1], and ``n``: each (groups,).

        NaN for an empty group, and for one of which an output of the network was not finite.
        """
        n = self.table[..., 0].sum(-1)
        correct, confidence = self.table[..., 1], self.table[..., 2]
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


def clean_and_corrupted(conditions: Sequence[Condition]) -> dict[str, list[int]]:
    """The conditions of the clean test, and all those that count in its mean over corruptions."""
    corrupted = [i for i, (name, _) in enumerate(conditions) if name in CORRUPTIONS]
    return {"clean": [0], "corrupted": corrupted}


def corruption_means(
    values: Sequence[float], conditions: Sequence[Condition], corruptions: Sequence[str]
) -> dict[str, float]:
    """Of each of `corruptions`, the mean over its severities.

    Raises:
        ValueError: if a corruption or a severity that the others have is missing: a mean over
            another set of conditions could not be compared with the published ones.
    """
    by_corruption: dict[str, dict[int, float]] = defaultdict(dict)
    for value, (corruption, severity) in zip(values, conditions, strict=True):
        by_corruption[corruption][severity] = value
    severities = {s for name in corruptions for s in by_corruption[name]}
    for name in corruptions:
        missing = severities - by_corruption[name].keys()
        if missing or not severities:
            raise ValueError(f"Expected {name} at severities {sorted(severities)}, but got none.")
    return {c: sum(by_corruption[c].values()) / len(by_corruption[c]) for c in corruptions}


def mean_over_corruptions(
    values: Sequence[float],
    conditions: Sequence[Condition],
    corruptions: Sequence[str],
    reference: Mapping[str, float] | None = None,
) -> float:
    """Mean over `corruptions` of the mean over their severities.

    Args:
        values: one a condition.
        conditions: corruption and severity of each.
        corruptions: which to use.
        reference: errors by corruption of a reference network (AlexNet, for ImageNet-C), by which
            each corruption's mean is divided first.

    Raises:
        ValueError: see :func:`corruption_means`.
    """
    means = corruption_means(values, conditions, corruptions)
    if reference is not None:
        means = {name: value / reference[name] for name, value in means.items()}
    return sum(means.values()) / len(means)


def summarise(
    values: dict[str, list[float]],
    conditions: list[tuple[str, int]],
    *,
    complete: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The figures of a test: a summary, and error, ECE and n of every condition.

    ``mce`` and ``corrupted_ece`` are means over the corruptions tested, the four extra ones left
    out, of error and of ECE, each condition's from bins of its own; ``corruptions`` says which
    those were. They are called ``partial_mce`` and ``partial_corrupted_ece`` where those are not
    all of `complete` at all five severities.

    Args:
        values: ``error``, ``ece`` and ``n``, each one a condition; the first is the clean one.
        conditions: corruption and severity of each.
        complete: the corruptions of the data set's mean corruption error; None takes any.
        reference: also report ``mce_alexnet``, divided by these errors, where the mean is complete.
    """
    tested = [c for c in CORRUPTIONS if any(c == name for name, _ in conditions)]
    summary = {"error": values["error"][0], "ece": values["ece"][0]}
    if tested:
        wanted = {(name, severity) for name in complete or () for severity in SEVERITIES}
        found = {(name, severity) for name, severity in conditions if name in tested}
        whole = complete is None or found == wanted
        means = {"mce": "error", "corrupted_ece": "ece"}
        for name, value in means.items():
            key = name if whole else f"partial_{name}"
            summary[key] = mean_over_corruptions(values[value], conditions, tested)
        if whole and reference is not None:
            mce = mean_over_corruptions(values["error"], conditions, tested, reference)
            summary["mce_alexnet"] = mce
    by_condition = [
        {"corruption": name, "severity": severity, "error": error, "ece": ece, "n": n}
        for (name, severity), error, ece, n in zip(
            conditions, values["error"], values["ece"], values["n"], strict=True
        )
    ]
    return {"summary": summary, "corruptions": tested, "conditions": by_condition}
