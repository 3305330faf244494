"""CrossNorm and SelfNorm as modules, CNSN, which holds both, their bases and their relatives."""

from cnsn.layers.base import Gate, Restyling
from cnsn.layers.cnsn import CNSN
from cnsn.layers.covariance import CovarianceExchange
from cnsn.layers.crossnorm import Crop, CrossNorm, Mode
from cnsn.layers.dsu import DSU
from cnsn.layers.efdmix import EFDMix
from cnsn.layers.mixstyle import MixStyle
from cnsn.layers.moments import MomentExchange
from cnsn.layers.padain import PAdaIN
from cnsn.layers.perturbation import NP, NPPlus
from cnsn.layers.selfnorm import SelfNorm
from cnsn.layers.snr import SNR
from cnsn.layers.squeeze import ECA, SE, StyleSE
from cnsn.layers.srm import SRM

__all__ = [
    "CNSN",
    "DSU",
    "ECA",
    "NP",
    "SE",
    "SNR",
    "SRM",
    "CovarianceExchange",
    "Crop",
    "CrossNorm",
    "EFDMix",
    "Gate",
    "MixStyle",
    "Mode",
    "MomentExchange",
    "NPPlus",
    "PAdaIN",
    "Restyling",
    "SelfNorm",
    "StyleSE",
]
