"""Labelled and unlabelled batches for FixMatch."""

from data.fixmatch.module import CIFAR, Digits

__all__ = ["CIFAR", "Digits"]
