"""Data module of the text task: trained on IMDb's reviews, tested on them and on sentences.

Batches are {"tokens": int64 (B, L), padded with 0, "length": (B,), "label": (B,), "index": (B,)};
in evaluation also "group", the number of the test set.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from data.loading import (
    ResumableDataModule,
    TrainLoader,
    evaluation_loader,
    process_rank,
    require_at_least,
    shuffled,
)
from data.randomness import derive_seed
from data.text.batches import EncodedTexts, bucketed_order, evaluation_order, padding_share
from data.text.cache import Corpus, open_corpus
from data.text.glove import WordVectors, read_glove
from data.text.sst2 import SENTENCES, Split

__all__ = ["HELD_OUT", "IMDbToSST2"]

_NAME = re.compile(r"[a-z0-9]+")
IMDB_COUNTS = (25_000, 25_000)
HELD_OUT = "imdb-held-out"  # the set that a validation scores, where there is one


class IMDbToSST2(ResumableDataModule):
    """IMDb's reviews for training and test, SST-2's binary and further sentences as shifted tests.

    Args:
        imdb: aclImdb_v1.tar.gz, its unpacked folder, or a folder that holds one of them.
        sst2: a folder with {train,dev,test}.tsv, with the treebank's trees or its first release,
            a zip of them, or a folder that holds one of these.
        glove: word vectors as .txt, .txt.gz or .zip; None starts from random ones.
        sst2_splits: whose sentences are scored; None means dev and test, as far as they are there
            with labels.
        sentences: further sets that are scored whole, by name: folders in a form of SST-2's.
        held_out: share of IMDb's training reviews that is not trained on, the same for every seed.
            A validation then scores these alone, so that the checkpoint `best` follows them. Their
            words stay in the vocabulary.
        batch_size: of the global batch, which processes share out.
        eval_batch_size: of evaluation, a process.
        min_count: occurrences in the training text below which a word is unknown.
        max_words: size of the vocabulary, at most; None is no limit.
        max_length: words of a review that are read, from its beginning; None reads all.

    The other arguments are those of :class:`data.loading.ResumableDataModule`.
    """

    MEASURED = frozenset({"sst2", "sst2_splits", "sentences"})
    VALIDATED = frozenset(
        {"sst2_splits", "sentences"}
    )  # the sentences are scored after every epoch
    SIZE, SIZED_BY = 400, "max_length"
    LOCATIONS = ("imdb", "sst2", "glove")
    ROOTS = ("imdb", "sst2")  # which one folder may hold
    NAMED = MappingProxyType({"glove": ""})  # the file's name tells word vectors apart
    num_classes = 2

    def __init__(
        self,
        imdb: str = "~/datasets",
        sst2: str = "~/datasets",
        glove: str | None = None,
        *,
        sst2_splits: Sequence[Split] | None = None,
        sentences: dict[str, str] | None = None,
        held_out: float = 0.0,
        batch_size: int = 50,
        eval_batch_size: int = 100,
        min_count: int = 2,
        max_words: int | None = None,
        max_length: int | None = 400,
        **options: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, **options)
        require_at_least(
            min_count=(min_count, 1), max_words=(max_words, 1), max_length=(max_length, 1)
        )
        if sst2_splits is not None and (not sst2_splits or set(sst2_splits) - set(SENTENCES)):
            raise ValueError(
                f"Expected `sst2_splits` to be among {list(SENTENCES)}, but got {sst2_splits}."
            )
        if not 0 <= held_out < 1:
            raise ValueError(f"Expected `held_out` to be from 0 to below 1, but got {held_out}.")
        self.sentences: Mapping[str, str] = sentences or {}
        if bad := [n for n in self.sentences if not _NAME.fullmatch(n) or n in ("imdb", "sst2")]:
            raise ValueError(
                "Expected `sentences` to name further sets by lower-case letters and digits, "
                f"other than imdb and sst2, but got {bad[0]!r}."
            )
        self.held_out = held_out
        self.imdb, self.sst2, self.glove = imdb, sst2, glove
        self.sst2_splits = sst2_splits
        self.min_count = min_count
        self.max_words = max_words
        self.max_length = max_length
        self._corpus: Corpus | None = None
        self._train: EncodedTexts | None = None
        self._vectors: WordVectors | None = None

    @property
    def corpus(self) -> Corpus:
        """Both sets as numbers; read when first asked for, as the network needs the vocabulary."""
        if self._corpus is None:
            self._corpus = open_corpus(
                self.imdb,
                self.sst2,
                min_count=self.min_count,
                max_words=self.max_words,
                sentences=self.sentences,
            )
        return self._corpus

    @property
    def vocabulary_size(self) -> int:
        return len(self.corpus.vocabulary)

    @property
    def splits(self) -> list[Split]:
        """The splits of SST-2 that are scored, the ones of the test first."""
        there = [split for split in SENTENCES if f"sst2-{split}" in self.corpus.parts]
        wanted: Sequence[Split] = self.sst2_splits or ("dev", "test")
        found = [split for split in wanted if split in there]
        if not found or (self.sst2_splits and len(found) < len(wanted)):
            raise ValueError(
                f"Expected labelled sentences of SST-2's {' and '.join(wanted)} at {self.sst2}, "
                f"but there are those of {' and '.join(there)}: name the scored ones by "
                "`--data.sst2_splits`, or fetch the whole set with `python -m data.prepare sst2`."
            )
        return found

    @property
    def groups(self) -> list[str]:
        """The test sets, IMDb's first; a batch's ``group`` counts in this list."""
        return ["imdb-test", *(f"sst2-{split}" for split in self.splits), *self._further]

    @property
    def _further(self) -> list[str]:
        own = [f"{name}-{split}" for name in self.sentences for split in SENTENCES]
        return [part for part in own if part in self.corpus.parts]

    def vectors(self, dimension: int) -> WordVectors | None:
        """The words' GloVe vectors, of `dimension` numbers; None where no file was given."""
        if self.glove is None:
            return None
        if self._vectors is None or self._vectors.vectors.shape[1] != dimension:
            self._vectors = read_glove(self.glove, self.corpus.vocabulary.words, dimension)
        return self._vectors

    def setup(self, stage: str) -> None:
        if self._train is not None:
            return
        parts = self.corpus.parts
        reviews = self._cut(parts["train"])
        order = shuffled(len(reviews), 0, "held out")
        kept_out = round(self.held_out * len(reviews))
        if self.held_out and not 0 < kept_out < len(reviews):
            raise ValueError(
                f"Expected `held_out` to leave some of the {len(reviews)} training reviews on "
                f"either side, but got {self.held_out}."
            )
        self._train = reviews.reordered(order[kept_out:].sort().values) if kept_out else reviews
        self._tests = self._scored([self._cut(parts[g.removeprefix("imdb-")]) for g in self.groups])
        kept = reviews.reordered(order[:kept_out].sort().values)
        self._validated = self._scored([kept]) if kept_out else self._tests
        if stage == "fit":
            start = time.perf_counter()
            order = self.order(0)
            seconds = time.perf_counter() - start
            self.padding = padding_share(self._train.lengths, order, self.batch_size)
            plain = padding_share(
                self._train.lengths, torch.arange(len(self._train)), self.batch_size
            )
            rank_zero_info(
                f"Batches of like length: {100 * self.padding:.1f} % of positions are padding "
                f"(in order of the files: {100 * plain:.1f} %); an epoch's order takes "
                f"{1000 * seconds:.0f} ms."
            )

    @staticmethod
    def _scored(sets: list[EncodedTexts]) -> EncodedTexts:
        texts = EncodedTexts.joined(sets)
        return texts.reordered(evaluation_order(texts.lengths, process_rank()[1]))

    def _cut(self, texts: EncodedTexts) -> EncodedTexts:
        return texts if self.max_length is None else texts.cut(self.max_length)

    def order(self, epoch: int) -> Tensor:
        """The training reviews' order in an epoch."""
        assert self._train is not None
        seed = derive_seed(self.seed, "batches")
        return bucketed_order(self._train.lengths, self.batch_size, seed, epoch)

    def train_dataloader(self) -> TrainLoader:
        assert self._train is not None
        loader = TrainLoader(
            self._train,
            batch_size=self.batch_size,
            seed=self.seed,
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            order=self.order,
        )
        return self.resumable(loader)

    def _evaluation(self, texts: EncodedTexts) -> DataLoader[dict[str, Tensor]]:
        return evaluation_loader(
            texts,
            batch_size=self.eval_batch_size,
            workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._evaluation(self._validated)

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._evaluation(self._tests)

    def describe(self) -> dict[str, Any]:
        """What a result must say of its data: true name, fingerprint, counts, word vectors."""
        parts = self.corpus.parts
        counts = len(parts["train"]), len(parts["test"])
        reviews = (
            "IMDb" if counts == IMDB_COUNTS else f"imdb-subset ({counts[0]}+{counts[1]} reviews)"
        )
        assert self._train is not None
        out = counts[0] - len(self._train)
        reviews += f", {out} held out" if out else ""
        scored = {split: len(parts[f"sst2-{split}"]) for split in self.splits}
        whole = all(SENTENCES[split] == n for split, n in scored.items())
        sentences = ", ".join(f"{n} {split}" for split, n in scored.items())
        further = "".join(f", {part} ({len(parts[part])})" for part in self._further)
        return {
            "dataset": f"{reviews} -> {'SST-2' if whole else 'sst2-subset'} ({sentences}){further}",
            "fingerprint": self._fingerprint(),
            "n_train": len(self._train),
            "n_test": len(self._tests),
            **({"held_out": out} if out else {}),
            "test_in_training": parts["test"].found_in(parts["train"]),
            "unit": "texts",
            "words": self.vocabulary_size,
            "word_vectors": self._word_vectors(),
        }

    def training_fingerprint(self) -> str | None:
        return self.corpus.fingerprint_of("train")

    def _fingerprint(self) -> str:
        corpus = self.corpus.fingerprint
        if self._vectors is None:
            return corpus
        vectors = hashlib.sha256(self._vectors.vectors.tobytes()).hexdigest()
        return hashlib.sha256(f"{corpus}{vectors}".encode()).hexdigest()[:16]

    def _word_vectors(self) -> dict[str, Any]:
        if self._vectors is None:
            return {"source": "random"}
        return {
            "source": Path(self._vectors.source).name,
            "words_covered": self._vectors.coverage(),
            "text_covered": self._vectors.coverage(self.corpus.counts),
        }
