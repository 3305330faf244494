"""From text to numbers: cleaning, torchtext's tokeniser, and the vocabulary of the training text.

torchtext 0.6.0 is the last pure-Python release. Its `Vocab` and "basic_english" tokeniser are used;
its downloads and word vectors are not: those switch certificate checks off for the whole process.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from torchtext.data.utils import get_tokenizer
from torchtext.vocab import Vocab

__all__ = ["PAD", "UNKNOWN", "Vocabulary", "clean", "tokenise", "undo_treebank"]

PAD, UNKNOWN = 0, 1  # indices of the two special entries
SPECIALS = ["<pad>", "<unk>"]  # torchtext expects the second under this very name

_basic_english = get_tokenizer("basic_english")
_LINE_BREAK = re.compile(r"<\s*/?\s*(?:br|p|hr|i|b|em|strong)\s*/?\s*>", re.IGNORECASE)
_ESCAPE = re.compile(r"\\([/*'\"])")
_PLAIN = str.maketrans(
    {
        "‘": "'", "’": "'", "‛": "'", "′": "'", "´": "'",
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "″": '"',
        "–": " - ", "—": " - ", "―": " - ", "−": "-", "‐": "-", "‑": "-",
        "…": "...", "\u00ad": "", "\u200b": "", "\ufeff": "", "\ufffd": " ",
    }
)  # fmt: skip
# Windows-1252 bytes that were stored as if they were Latin-1: \x85 is an ellipsis, and so on.
_CONTROL = {code: bytes([code]).decode("cp1252", errors="replace") for code in range(0x80, 0xA0)}
# What the treebank's tokeniser did to plain text.
_TREEBANK = (
    (re.compile(r"-lrb-", re.IGNORECASE), "("),
    (re.compile(r"-rrb-", re.IGNORECASE), ")"),
    (re.compile(r"``|''"), '"'),
    (re.compile(r"(?<=\w) (n't)\b", re.IGNORECASE), r"\1"),
)


def clean(text: str) -> str:
    """`text` without mark-up, entities, escapes and typographic variants of the same sign."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _LINE_BREAK.sub(" ", text)
    if "\\" in text:
        text = _ESCAPE.sub(r"\1", text)
    if not text.isascii():
        text = text.translate(_CONTROL).translate(_PLAIN)
        text = unicodedata.normalize("NFKC", text)
    return text.replace("`", "'")


def undo_treebank(text: str) -> str:
    """A sentence of the treebank as one would write it, so that its words are those of reviews.

    "is n't" becomes "isn't", "-LRB-" a bracket, and `` and '' become quotation marks.
    """
    for pattern, replacement in _TREEBANK:
        text = pattern.sub(replacement, text)
    return text


def tokenise(text: str) -> list[str]:
    """Lower-case words and marks of `text`; "don't" becomes don ' t, as torchtext splits it."""
    return _basic_english(clean(text))


class Vocabulary:
    """The words that have a number: 0 is padding, 1 any unknown word.

    Args:
        counts: how often each word occurs in the training text.
        min_count: rarer words stay unknown.
        max_words: only so many of the most frequent words; None keeps all.

    Words come by falling count, then alphabetically, so that equal texts give equal numbers.
    """

    def __init__(
        self, counts: Counter[str], *, min_count: int = 1, max_words: int | None = None
    ) -> None:
        self._vocab = Vocab(counts, max_size=max_words, min_freq=min_count, specials=SPECIALS)

    @classmethod
    def of_texts(
        cls, texts: Iterable[Sequence[str]], *, min_count: int = 1, max_words: int | None = None
    ) -> Vocabulary:
        """The vocabulary of tokenised texts."""
        counts: Counter[str] = Counter()
        for words in texts:
            counts.update(words)
        return cls(counts, min_count=min_count, max_words=max_words)

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Vocabulary:
        """The vocabulary whose `words` are these, in this order, as a checkpoint keeps them."""
        if list(words[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"Expected the words to begin with {SPECIALS}, but got {words[:2]}.")
        own = words[len(SPECIALS) :]
        return cls(Counter({word: len(own) - place for place, word in enumerate(own)}))

    @property
    def words(self) -> list[str]:
        """Every entry, the special ones first; a word's place is its number."""
        return list(self._vocab.itos)

    def __len__(self) -> int:
        return len(self._vocab)

    def encode(self, words: Sequence[str]) -> np.ndarray:
        """int32 (len(words),): the words' numbers."""
        number = self._vocab.stoi.get
        # "<PAD>" in a text is a word that nobody knows, never padding.
        return np.fromiter(
            (number(word, UNKNOWN) or UNKNOWN for word in words), np.int32, len(words)
        )
