"""Where configurations and published result lines name the networks of segmentation."""

from tasks.segmentation.networks import FCNResNet50, SmallFPN

__all__ = ["FCNResNet50", "SmallFPN"]
