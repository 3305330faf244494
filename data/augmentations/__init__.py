"""Augmentations of batches, on the device, with parameters of each image's own."""

from data.augmentations.steps import AugMix, AutoAugment, CutMix, Cutout, Mixup

__all__ = ["AugMix", "AutoAugment", "CutMix", "Cutout", "Mixup"]
