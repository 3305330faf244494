"""One confusion matrix a domain over a whole set, and what follows from it.

    IoU_c = TP_c / (TP_c + FP_c + FN_c),    mIoU = mean over the classes in truth or prediction

over the labelled pixels, as evalPixelLevelSemanticLabeling.py in
https://github.com/mcordts/cityscapesScripts computes them (Cordts et al. 2016,
https://arxiv.org/abs/1604.01685). So a class that is predicted and never true has an IoU of 0,
which counts; one that is neither is absent, and its IoU NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from data.segmentation.labels import IGNORE

__all__ = ["ConfusionMatrices", "iou_of"]


class ConfusionMatrices(Metric):
    """Counts of pixels by (domain, true class, predicted class).

    Whole numbers, so the sum is exact over processes and batch sizes.

    Args:
        domains: number of domains.
        classes: number of classes.
    """

    full_state_update = False
    counts: Tensor
    unknown: Tensor

    def __init__(self, domains: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        zeros = torch.zeros(domains, classes, classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")
        self.add_state("unknown", zeros[:, 0, 0].clone(), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, label: Tensor, domain: int) -> None:
        """Add images: class numbers, int64 (...), and labels (...) with 255 for ignored ones.

        A class number below 0 says that the network gave none.
        """
        # Those two have places of their own: to leave them out would wait for the device.
        places = self.classes**2
        pair = torch.where(predicted < 0, places + 1, label * self.classes + predicted)
        pair = torch.where(label == IGNORE, places, pair).flatten()
        found = torch.zeros(places + 2, dtype=torch.int64, device=pair.device)
        found.scatter_add_(0, pair, torch.ones_like(pair))
        self.unknown[domain] += found[places + 1]
        self.counts[domain] += found[:places].view(self.classes, self.classes)

    def compute(self) -> Tensor:
        """int64 (domains, classes, classes), rows the truth."""
        return self.counts

    def without_class(self) -> Tensor:
        """Labelled pixels that the network gave no class, of all processes: int64 (domains,)."""
        with self.sync_context():
            return self.unknown.clone()


def iou_of(confusion: Tensor) -> dict[str, Tensor]:
    """Scores of one confusion matrix (classes, classes).

    Returns:
        ``iou`` (classes,), NaN where absent; ``miou``, its mean over the others; ``accuracy``, the
        share of right pixels; all in float64, in [0, 1].
    """
    counts = confusion.double()
    right, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = right / (truth + predicted - right)  # 0 / 0 where absent
    return {"iou": iou, "miou": iou.nanmean(), "accuracy": right.sum() / counts.sum()}
