"""timm's normaliser-free blocks: NFNet, NF-ResNet, NF-RegNet, ECA-NFNet.

There is no activation behind the sum, thus no site `out`. `residual` is the branch before
stochastic depth and the two scales that it is multiplied by.
"""

from __future__ import annotations

from timm.models import nfnet
from timm.models._features_fx import register_notrace_module
from torch import Tensor

from cnsn.backbones import register_block
from cnsn.backbones.residual import SitedPreactivation

__all__ = ["SitedNormFreeBlock"]


# As its base: torch.fx would lose the multiplication in place.
@register_notrace_module
class SitedNormFreeBlock(SitedPreactivation, nfnet.NormFreeBlock):
    """Three convolutions, or four, and attention between or behind them."""

    OTHERS = ("act1",)
    BRANCH = (
        *("conv1", "act2", "conv2", "act2b", "conv2b", "attn"),
        *("act3", "conv3", "attn_last"),
    )
    OUT = "conv3"
    DROP = "drop_path"
    SHORTCUT = "downsample"

    def activate(self, x: Tensor) -> Tensor:
        return self.act1(x) * self.beta

    def chain(self, names: tuple[str | None, ...], x: Tensor) -> Tensor:
        for name in names:
            x = super().chain((name,), x)
            if name in ("attn", "attn_last") and getattr(self, name) is not None:
                x = self.attn_gain * x
            if name == "drop_path":
                x = x if self.skipinit_gain is None else x * self.skipinit_gain
                x = x * self.alpha
        return x


register_block(nfnet.NormFreeBlock, SitedNormFreeBlock)
