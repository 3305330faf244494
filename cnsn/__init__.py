"""CrossNorm and SelfNorm (Tang et al., ICCV 2021): layers, and their insertion into networks."""

from cnsn import functional, losses
from cnsn.checkpoint import load_official
from cnsn.insert import CNSNSpec, crossnorm_active, insert
from cnsn.layers import CNSN, CrossNorm, SelfNorm

__version__ = "0.1.0"

__all__ = [
    "CNSN",
    "CNSNSpec",
    "CrossNorm",
    "SelfNorm",
    "crossnorm_active",
    "functional",
    "insert",
    "load_official",
    "losses",
]
