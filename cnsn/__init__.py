"""CrossNorm and SelfNorm (Tang et al., ICCV 2021): layers, and their insertion into networks."""

from cnsn.backbones import register_block
from cnsn.checkpoint import load_official
from cnsn.insert import CNSNSpec, crossnorm_active, crossnorm_sites, insert
from cnsn.insertion.remove import remove
from cnsn.layers import (
    CNSN,
    DSU,
    ECA,
    NP,
    SE,
    SNR,
    SRM,
    CovarianceExchange,
    CrossNorm,
    EFDMix,
    MixStyle,
    MomentExchange,
    NPPlus,
    PAdaIN,
    SelfNorm,
    StyleSE,
)
from cnsn.norms import replace_norms
from cnsn.sites import SitedBlock

__version__ = "0.1.0"

__all__ = [
    "CNSN",
    "DSU",
    "ECA",
    "NP",
    "SE",
    "SNR",
    "SRM",
    "CNSNSpec",
    "CovarianceExchange",
    "CrossNorm",
    "EFDMix",
    "MixStyle",
    "MomentExchange",
    "NPPlus",
    "PAdaIN",
    "SelfNorm",
    "SitedBlock",
    "StyleSE",
    "crossnorm_active",
    "crossnorm_sites",
    "functional",
    "insert",
    "load_official",
    "losses",
    "register_block",
    "remove",
    "replace_norms",
]
