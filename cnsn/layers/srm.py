"""SRM: SelfNorm's formula, found before it for another purpose; its weights start at zero.

Source: Lee et al., "SRM: A Style-based Recalibration Module for Convolutional Neural Networks",
ICCV 2019, https://arxiv.org/abs/1903.10829
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cnsn.layers.selfnorm import SelfNorm

__all__ = ["SRM"]

# Ours, and those of the released layer, whose weight is (C, 2).
KEYS = {"g_fc.weight": "cfc"} | {
    f"g_bn.{name}": f"bn.{name}"
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
}


class SRM(SelfNorm):
    """Rescales each channel by a gate learnt from its mean and standard deviation.

    Args:
        channels: C of the input.
        channel_dim: 1, or -1 for channels-last maps and tokens.
        prefix_tokens: how many of the first tokens pass unchanged and count in no statistics.

    Shape and errors: see :class:`cnsn.SelfNorm`, whose parameters it has, so that weights of one
    load into the other. A state dict of the released layer loads too, and :meth:`released` gives
    one.
    """

    def __init__(self, channels: int, *, channel_dim: int = 1, prefix_tokens: int = 0) -> None:
        super().__init__(channels, channel_dim=channel_dim, prefix_tokens=prefix_tokens)
        nn.init.zeros_(self.g_fc.weight)

    def released(self) -> dict[str, Tensor]:
        """The state dict under the released layer's names and shapes."""
        own = self.state_dict()
        return {name: own[key].flatten(1) if key == "g_fc.weight" else own[key]
                for key, name in KEYS.items()}  # fmt: skip

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for key, name in KEYS.items():
            if prefix + name in state_dict:
                value = state_dict.pop(prefix + name)
                state_dict[prefix + key] = value.unsqueeze(1) if name == "cfc" else value
        super()._load_from_state_dict(state_dict, prefix, *others)
