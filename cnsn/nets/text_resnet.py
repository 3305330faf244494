"""A deeper, residual text classifier: He et al.'s blocks with 1-d convolutions over words. Ours.

As in :mod:`cnsn.nets.text_cnn`, padding is worth nothing: normalisation and statistics pass over
it, and what a convolution reads beyond a text's end is zero, as at the end of the batch.

Source of the blocks: He et al. 2016, https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.nets.text_cnn import TextNetwork, mask_of
from cnsn.sites import SitedBlock

__all__ = ["MaskedBatchNorm", "ResidualBlock1d", "TextResNet"]


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the positions that count; the others become zero.

    Shape: (B, C, L) with a mask bool (B, L), returned as it came.
    """

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        by_position = x.transpose(1, 2)
        out = torch.zeros_like(by_position)
        out[mask] = super().forward(by_position[mask]).to(out.dtype)
        return out.transpose(1, 2)


class ResidualBlock1d(SitedBlock):
    """conv-BN-ReLU-conv-BN and the shortcut, with the five sites of every residual block."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = MaskedBatchNorm(out_channels)
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = MaskedBatchNorm(out_channels)
        self.projection: nn.Conv1d | None = None
        self.projection_bn: MaskedBatchNorm | None = None
        if stride != 1 or in_channels != out_channels:
            self.projection = nn.Conv1d(in_channels, out_channels, 1, stride, bias=False)
            self.projection_bn = MaskedBatchNorm(out_channels)

    def site_channels(self) -> Mapping[str, int]:
        out = self.conv2.out_channels
        return dict.fromkeys(self.SITES, out) | {"pre": self.conv1.in_channels}

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, L) that is zero beyond each length; the result is so too, with its lengths."""
        before = mask_of(lengths, x.shape[2])
        lengths = (lengths + self.stride - 1) // self.stride
        mask = mask_of(lengths, (x.shape[2] + self.stride - 1) // self.stride)
        branch = self.conv1(self.at("pre", x, before))
        branch = self.conv2(F.relu(self.bn1(branch, mask)))
        branch = self.at("residual", self.bn2(branch, mask), mask)
        identity = x
        if self.projection is not None and self.projection_bn is not None:
            identity = self.projection_bn(self.projection(x), mask)
        total = branch + self.at("identity", identity, mask)
        return self.at("out", F.relu(self.at("post", total, mask)), mask), lengths


class TextResNet(TextNetwork):
    """A residual network over words: a convolution of width 3, stages of blocks, maximum, linear.

    Args:
        vocabulary_size: words, with padding (0) and unknown (1).
        dimension: of the word vectors.
        channels: of each stage; every stage after the first halves the length.
        blocks: in each stage.
        dropout: of the maxima.
        num_classes: outputs.
        freeze_embedding: leave the word vectors as they are loaded.

    Shape: tokens int64 (B, L) and lengths int64 (B,), to (B, num_classes).
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        dimension: int = 300,
        channels: Sequence[int] = (64, 128, 256),
        blocks: int = 2,
        dropout: float = 0.5,
        num_classes: int = 2,
        freeze_embedding: bool = False,
    ) -> None:
        super().__init__(
            vocabulary_size=vocabulary_size,
            dimension=dimension,
            freeze_embedding=freeze_embedding,
            dropout=dropout,
        )
        if not channels or min(channels) < 1 or blocks < 1 or num_classes < 1:
            raise ValueError(
                "Expected `channels`, `blocks` and `num_classes` to be at least 1, but got "
                f"{tuple(channels)}, {blocks} and {num_classes}."
            )
        self.conv = nn.Conv1d(dimension, channels[0], 3, padding=1, bias=False)
        self.bn = MaskedBatchNorm(channels[0])
        self.stages = nn.ModuleList()
        before = channels[0]
        for number, width in enumerate(channels):
            first = ResidualBlock1d(before, width, 1 if number == 0 else 2)
            others = (ResidualBlock1d(width, width, 1) for _ in range(blocks - 1))
            self.stages.append(nn.ModuleList([first, *others]))
            before = width
        self.fc = nn.Linear(before, num_classes)
        self.options |= {
            "channels": list(channels),
            "blocks": blocks,
            "num_classes": num_classes,
        }

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        self._check(tokens, lengths)
        mask = mask_of(lengths, tokens.shape[1])
        x = self.embedding(tokens).transpose(1, 2)
        x = F.relu(self.bn(self.conv(x), mask))
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]  # a ModuleList
                x, lengths = block(x, lengths)
        # After ReLU nothing is below the zeros of padding.
        return self.fc(F.dropout(x.amax(2), self.dropout, self.training))
