"""CIFAR and digits."""

from data.classification.cifar import CIFAR
from data.classification.digits import Digits

__all__ = ["CIFAR", "Digits"]
