"""What follows from the confusion matrix of a whole set.

    IoU_c = TP_c / (TP_c + FP_c + FN_c),    mIoU = mean over the classes in truth or prediction

over the labelled pixels, as evalPixelLevelSemanticLabeling.py in
https://github.com/mcordts/cityscapesScripts computes them (Cordts et al. 2016,
https://arxiv.org/abs/1604.01685). So a class that is predicted and never true has an IoU of 0,
which counts; one that is neither is absent, and its IoU NaN.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["iou_of"]


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
