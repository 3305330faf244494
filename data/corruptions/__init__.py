"""The corruptions of CIFAR-10-C for other images."""

from data.corruptions.recipes import CORRUPTIONS

__all__ = ["CORRUPTIONS"]
