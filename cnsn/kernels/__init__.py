"""Fast kernels behind the layers; :mod:`cnsn.functional` is the reference that they are held to.

The layers take them by themselves where they can: strided tensors of float32, float64 or half
precision, on CPU or, with Triton, on CUDA. Under torch.compile, torch.export, torch.func's
transforms and forward-mode differentiation, and for tensor subclasses and masked maps, the
reference runs (compiled layers: see :mod:`cnsn.kernels.compiled`).

    with cnsn.kernels.disabled():        # or CNSN_KERNELS=0 in the environment
        y = layer(x)                     # the reference, whatever `x` is
"""

from cnsn.kernels.autograd import Statistics, exchanged
from cnsn.kernels.compiled import exchange, register, traced_statistics
from cnsn.kernels.dispatch import disabled, suit
from cnsn.kernels.gates import gated, gates

__all__ = [
    "Statistics",
    "disabled",
    "exchange",
    "exchanged",
    "gated",
    "gates",
    "register",
    "suit",
    "traced_statistics",
]
