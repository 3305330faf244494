"""Segmentation across domains: GTA5 to Cityscapes."""

from tasks.segmentation.module import TASK, Segmentation, main

__all__ = ["TASK", "Segmentation", "main"]
