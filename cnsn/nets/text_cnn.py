"""Kim's convolutional text classifier, and what every network over words shares.

The networks take numbers of words (B, L), padded with 0, and each text's length (B,). Padding is
worth nothing: it enters neither statistics nor maxima nor neighbouring convolutions, so that a
text's result does not depend on what it was batched with.

Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification",
https://arxiv.org/abs/1408.5882
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.sites import SitedBlock

__all__ = ["TextCNN", "TextConvolution", "TextNetwork", "mask_of"]

PAD = 0


class TextNetwork(nn.Module):
    """What the networks share: word vectors, and the check of their input.

    Attributes:
        embedding: the word vectors; row 0 is padding and stays zero.
        options: the arguments that build the same network again.
    """

    def __init__(
        self, *, vocabulary_size: int, dimension: int, freeze_embedding: bool, dropout: float
    ) -> None:
        super().__init__()
        if vocabulary_size < 2 or dimension < 1:
            raise ValueError(
                "Expected `vocabulary_size` to be at least 2 and `dimension` at least 1, but got "
                f"{vocabulary_size} and {dimension}."
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"Expected `dropout` to be in [0, 1), but got {dropout}.")
        self.embedding = nn.Embedding(vocabulary_size, dimension, padding_idx=PAD)
        # Kim's range, chosen to have about the variance of pretrained vectors.
        with torch.no_grad():
            self.embedding.weight.uniform_(-0.25, 0.25)
            self.embedding.weight[PAD] = 0
        self.embedding.weight.requires_grad_(not freeze_embedding)
        self.dropout = dropout
        self.options: dict[str, Any] = {
            "vocabulary_size": vocabulary_size,
            "dimension": dimension,
            "freeze_embedding": freeze_embedding,
            "dropout": dropout,
        }

    def load_embedding(self, vectors: Tensor, known: Tensor) -> None:
        """Begin from these word vectors where they are known.

        Args:
            vectors: (vocabulary_size, dimension).
            known: bool (vocabulary_size,); the other words keep their random vectors.

        Raises:
            ValueError: for other shapes.
        """
        weight = self.embedding.weight
        if vectors.shape != weight.shape or known.shape != weight.shape[:1]:
            raise ValueError(
                f"Expected `vectors` to be of shape {tuple(weight.shape)}, with one flag in "
                f"`known` for each row, but got {tuple(vectors.shape)} and {tuple(known.shape)}."
            )
        known = known.clone()
        known[PAD] = False
        with torch.no_grad():
            weight[known] = vectors[known].to(weight)

    def _check(self, tokens: Tensor, lengths: Tensor) -> None:
        if tokens.ndim != 2 or lengths.shape != tokens.shape[:1]:
            raise ValueError(
                "Expected `tokens` of shape (B, L) and `lengths` of shape (B,), but got "
                f"{tuple(tokens.shape)} and {tuple(lengths.shape)}."
            )


def mask_of(lengths: Tensor, positions: int) -> Tensor:
    """bool (B, positions): which positions lie within each length."""
    return torch.arange(positions, device=lengths.device) < lengths[:, None]


class TextConvolution(SitedBlock):
    """A convolution over words, ReLU, and the maximum over time; the sites are between them."""

    SITES: ClassVar[tuple[str, ...]] = ("conv", "act")

    def __init__(self, dimension: int, filters: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dimension, filters, width)

    @property
    def width(self) -> int:
        return self.conv.kernel_size[0]

    def site_channels(self) -> Mapping[str, int]:
        return dict.fromkeys(self.SITES, self.conv.out_channels)

    def forward(self, maps: Tensor, lengths: Tensor) -> Tensor:
        """(B, filters), of the convolution's (B, filters, L - width + 1) and the texts' lengths.

        A text shorter than the filter has one position, which sees it whole, with zeros after it.
        """
        mask = mask_of((lengths - self.width + 1).clamp(min=1), maps.shape[2])
        maps = self.at("conv", maps, mask)
        if "act" in (self.cnsn_site, self.crossnorm_site):
            maps = self.at("act", F.relu(maps), mask)
        # The maximum's ReLU is the maximum of ReLUs, and a hundredth of the work.
        return F.relu(torch.where(mask[:, None], maps, -torch.inf).max(2).values)


class TextCNN(TextNetwork):
    """Kim's network: filters of several widths, their maxima over time, dropout, one linear layer.

    Args:
        vocabulary_size: words, with padding (0) and unknown (1).
        dimension: of the word vectors.
        widths: of the filters, in words.
        filters: of each width.
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
        widths: Sequence[int] = (3, 4, 5),
        filters: int = 100,
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
        if not widths or min(widths) < 1 or filters < 1 or num_classes < 1:
            raise ValueError(
                "Expected `widths`, `filters` and `num_classes` to be at least 1, but got "
                f"{tuple(widths)}, {filters} and {num_classes}."
            )
        self.convolutions = nn.ModuleList(
            TextConvolution(dimension, filters, width) for width in widths
        )
        self.fc = nn.Linear(len(widths) * filters, num_classes)
        self.options |= {
            "widths": list(widths),
            "filters": filters,
            "num_classes": num_classes,
        }

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        self._check(tokens, lengths)
        blocks = [block for block in self.convolutions if isinstance(block, TextConvolution)]
        short = max(block.width for block in blocks) - tokens.shape[1]
        if short > 0:
            tokens = F.pad(tokens, (0, short), value=PAD)
        if tokens.device.type == "cpu":
            maps = self._maps_by_word(tokens, blocks)
        else:
            words = self.embedding(tokens).transpose(1, 2)
            maps = [block.conv(words) for block in blocks]
        maxima = [block(own, lengths) for block, own in zip(blocks, maps, strict=True)]
        return self.fc(F.dropout(torch.cat(maxima, 1), self.dropout, self.training))

    def _maps_by_word(self, tokens: Tensor, blocks: list[TextConvolution]) -> list[Tensor]:
        """The convolutions' results, with each different word multiplied once.

        conv(x)[l] = sum_j W_j e[t_(l+j)]: a batch of 50 reviews has a quarter as many different
        words as words, and on CPU the products are what takes the time.
        """
        words, places = tokens.unique(return_inverse=True)
        vectors = self.embedding(words)
        maps = []
        for block in blocks:
            filters, dimension, width = block.conv.weight.shape
            # Row w * width + j of the table: word w under tap j; the bias comes with tap 0.
            weight = block.conv.weight.permute(2, 0, 1).reshape(-1, dimension)
            assert block.conv.bias is not None
            bias = F.pad(block.conv.bias, (0, (width - 1) * filters))
            table = F.linear(vectors, weight, bias).view(-1, filters)
            rows = places.unfold(1, width, 1) * width + torch.arange(width)
            summed = F.embedding_bag(rows.reshape(-1, width), table, mode="sum")
            maps.append(summed.view(*rows.shape[:2], filters).transpose(1, 2))
        return maps
