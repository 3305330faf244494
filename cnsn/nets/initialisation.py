"""How the networks draw their first weights."""

from __future__ import annotations

from torch import nn

__all__ = ["draw_convolutions"]


def draw_convolutions(net: nn.Module) -> None:
    """Draw every convolution's weight from N(0, 2 / n), n = kernel positions x output channels.

    He et al. 2015, arXiv 1502.01852, backward form; grouped convolutions count all their channels,
    as the official code does.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
