"""Image classification and its corrupted versions: CIFAR, ImageNet, digits."""

from tasks.classification.module import TASK, Classification, main

__all__ = ["TASK", "Classification", "main"]
