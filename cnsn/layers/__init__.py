"""CrossNorm and SelfNorm as modules, CNSN, which holds both, and their bases."""

from cnsn.layers.base import Gate, Restyling
from cnsn.layers.cnsn import CNSN
from cnsn.layers.crossnorm import Crop, CrossNorm, Mode
from cnsn.layers.selfnorm import SelfNorm

__all__ = ["CNSN", "Crop", "CrossNorm", "Gate", "Mode", "Restyling", "SelfNorm"]
