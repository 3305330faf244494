"""Encoded texts in one flat array, padded batches of them, and orders that keep padding small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.loading import shuffled
from data.text.tokens import PAD

__all__ = ["EncodedTexts", "bucketed_order", "evaluation_order", "padding_share"]

BUCKET = 50  # batches that are sorted by length together: the paper's task has 500 an epoch


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as numbers.

    Attributes:
        tokens: int32 (all words of all texts,), one text after the other.
        starts: int64 (N + 1,), where each text begins; the last is where the last one ends.
        labels: int64 (N,).
        groups: int64 (N,), the test set that each text belongs to; None while training.

    ``texts[positions]`` is a batch: ``tokens`` int64 (B, L), padded with 0 to the longest of
    them, ``length`` int64 (B,), ``label`` (B,), ``index`` (B,), and ``group`` (B,) where there are
    groups.
    """

    tokens: Tensor
    starts: Tensor
    labels: Tensor
    groups: Tensor | None = None

    @classmethod
    def of_arrays(cls, rows: list[np.ndarray], labels: list[int]) -> EncodedTexts:
        """From one array of numbers for each text."""
        lengths = np.array([0, *map(len, rows)], np.int64)
        tokens = np.concatenate(rows) if rows else np.empty(0, np.int32)
        return cls(
            torch.from_numpy(tokens.astype(np.int32, copy=False)),
            torch.from_numpy(lengths.cumsum()),
            torch.tensor(labels, dtype=torch.int64),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Tensor:
        """int64 (N,)."""
        return self.starts.diff()

    def __getitem__(self, positions: list[int] | Tensor) -> dict[str, Any]:
        index = torch.as_tensor(positions, dtype=torch.int64)
        start = self.starts[index]
        length = self.starts[index + 1] - start
        place = torch.arange(int(length.max()))
        inside = place < length[:, None]
        # Places beyond a text read its first word, which is then replaced by padding.
        tokens = self.tokens[start[:, None] + place * inside].long().masked_fill(~inside, PAD)
        batch = {"tokens": tokens, "length": length, "label": self.labels[index], "index": index}
        if self.groups is not None:
            batch["group"] = self.groups[index]
        return batch

    def found_in(self, others: EncodedTexts) -> int:
        """How many of the texts also stand, word by word, among `others`."""

        def words(texts: EncodedTexts) -> list[bytes]:
            return [part.numpy().tobytes() for part in texts.tokens.split(texts.lengths.tolist())]

        known = set(words(others))
        return sum(text in known for text in words(self))

    def cut(self, longest: int) -> EncodedTexts:
        """Only the first `longest` words of every text."""
        return self._taken(self.starts[:-1], self.lengths.clamp(max=longest), slice(None))

    def reordered(self, order: Tensor) -> EncodedTexts:
        """The same texts in another order, or some of them."""
        return self._taken(self.starts[:-1][order], self.lengths[order], order)

    def _taken(self, begin: Tensor, lengths: Tensor, rows: Tensor | slice) -> EncodedTexts:
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        shift = torch.repeat_interleave(begin - starts[:-1], lengths)
        tokens = self.tokens[shift + torch.arange(int(starts[-1]))]
        groups = None if self.groups is None else self.groups[rows]
        return EncodedTexts(tokens, starts, self.labels[rows], groups)

    @classmethod
    def joined(cls, sets: list[EncodedTexts]) -> EncodedTexts:
        """Several sets as one, with the set's number as group."""
        ends = [0, *np.cumsum([len(texts.tokens) for texts in sets]).tolist()]
        starts = [texts.starts[:-1] + end for texts, end in zip(sets, ends, strict=False)]
        counts = torch.tensor([len(texts) for texts in sets])
        return cls(
            torch.cat([texts.tokens for texts in sets]),
            torch.cat([*starts, torch.tensor(ends[-1:])]),
            torch.cat([texts.labels for texts in sets]),
            torch.repeat_interleave(torch.arange(len(sets)), counts),
        )


def bucketed_order(lengths: Tensor, batch_size: int, seed: int, epoch: int) -> Tensor:
    """A shuffled order whose consecutive batches hold texts of like length.

    The epoch's permutation is cut into buckets of `BUCKET` batches, each bucket is sorted by
    length and cut into batches, and the batches are shuffled; the smaller last one stays last.

    Returns:
        int64 (N,), a function of the arguments alone.
    """
    order = shuffled(len(lengths), seed, "order", epoch)
    pieces = [
        bucket[lengths[bucket].argsort(stable=True)] for bucket in order.split(BUCKET * batch_size)
    ]
    batches = torch.cat(pieces).split(batch_size)
    whole = len(lengths) // batch_size
    numbers = shuffled(whole, seed, "batches", epoch).tolist()
    return torch.cat([*(batches[number] for number in numbers), *batches[whole:]])


def evaluation_order(lengths: Tensor, processes: int) -> Tensor:
    """Texts by length, so that padding is small and each process's share has all lengths."""
    by_length = lengths.argsort(stable=True)
    return torch.cat([by_length[rank::processes] for rank in range(processes)])


def padding_share(lengths: Tensor, order: Tensor, batch_size: int) -> float:
    """Which part of the positions of all batches of `order` is padding, in [0, 1)."""
    batches = [lengths[batch] for batch in order.split(batch_size)]
    positions = sum(len(batch) * int(batch.max()) for batch in batches)
    return 1 - int(lengths.sum()) / positions
