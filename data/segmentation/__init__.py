"""GTA5, Cityscapes and other sets in their layouts."""

from data.segmentation.module import SourceAndTarget

__all__ = ["SourceAndTarget"]
