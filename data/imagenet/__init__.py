"""ImageNet and any folder of images in its layout."""

from data.imagenet.module import ImageNet

__all__ = ["ImageNet"]
