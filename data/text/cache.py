"""The reviews and sentences as numbers, made once and kept in a cache.

The cache lies in the folder that CNSN_CACHE names, or in the user's cache folder. Its files are
named by what they were made from: the files' identity and the options. Reading one takes a moment,
making one reads and splits every text.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.files import only_one, replacing
from data.text.batches import EncodedTexts
from data.text.imdb import LabelledTexts, find_imdb, read_imdb
from data.text.sst2 import find_sst2, read_sst2
from data.text.tokens import PAD, Vocabulary, tokenise

__all__ = ["Corpus", "cache_folder", "open_corpus"]

VERSION = 2  # of the files' layout, and of the way from text to words


@dataclass(frozen=True)
class Corpus:
    """Everything the task reads, as numbers.

    Attributes:
        vocabulary: of the training text.
        counts: int64 (words,), how often each word occurs in the training text.
        parts: "train", "test" (IMDb), "sst2-<split>" for each split that is there, and
            "<name>-<split>" of further sets of sentences.
        fingerprint: of the texts' numbers and labels, and of the vocabulary.
    """

    vocabulary: Vocabulary
    counts: np.ndarray
    parts: dict[str, EncodedTexts]
    fingerprint: str

    def fingerprint_of(self, part: str) -> str:
        """Of one part's texts and labels, and of the vocabulary."""
        return _fingerprint(self.vocabulary, {part: self.parts[part]})


def cache_folder() -> Path:
    """Where encoded texts are kept."""
    own = os.environ.get("CNSN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or f"{base}/cnsn").expanduser()


def open_corpus(
    imdb: str | Path,
    sst2: str | Path,
    *,
    min_count: int,
    max_words: int | None,
    sentences: Mapping[str, str] = {},
) -> Corpus:
    """Read all sets, from the cache where they are in it.

    Args:
        imdb: IMDb's archive, or a folder (see :func:`data.text.imdb.find_imdb`).
        sst2: a folder or zip (see :func:`data.text.sst2.find_sst2`).
        min_count: occurrences in the training text below which a word is unknown.
        max_words: size of the vocabulary, at most; None is no limit.
        sentences: further sets in a form of SST-2's, by name.

    Raises:
        DataNotFoundError, ValueError: see :func:`data.text.imdb.read_imdb` and
            :func:`data.text.sst2.read_sst2`.
    """
    imdb = find_imdb(imdb)
    sets = {name: find_sst2(place) for name, place in {"sst2": sst2, **sentences}.items()}
    own = [part for name, place in sets.items() for part in (name, identity(place))][1:]
    about = [VERSION, identity(imdb), *own, min_count, max_words]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    path = cache_folder() / f"text-{name}.npz"
    corpus = _load(path)
    if corpus is not None:
        return corpus
    if not _usable(path.parent):
        warnings.warn(
            f"{path.parent} cannot be written to, so that the texts are read anew each time: name "
            "another folder by CNSN_CACHE.",
            stacklevel=2,
        )
        return _encode(imdb, sets, min_count=min_count, max_words=max_words)
    # Processes that train together ask for the same file: one makes it.
    with only_one(path.with_suffix(".lock")):
        corpus = _load(path)
        if corpus is None:
            corpus = _encode(imdb, sets, min_count=min_count, max_words=max_words)
            _save(path, corpus)
    return corpus


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def identity(place: Path) -> str:
    """What tells a file or folder from another: an archive's content, a folder's files' dates."""
    digest = hashlib.sha256()
    if place.is_file():
        with place.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    for folder, folders, names in os.walk(place):
        # Reviews without labels are not read.
        folders[:] = sorted(name for name in folders if name != "unsup")
        for name in sorted(names):
            state = os.stat(os.path.join(folder, name))
            digest.update(f"{folder}/{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _encode(
    imdb: Path, sets: Mapping[str, Path], *, min_count: int, max_words: int | None
) -> Corpus:
    texts = read_imdb(imdb)
    for name, place in sets.items():
        texts |= {f"{name}-{split}": found for split, found in read_sst2(place).items()}
    words = {name: _tokenised(part) for name, part in texts.items()}
    vocabulary = Vocabulary.of_texts(words["train"], min_count=min_count, max_words=max_words)
    parts = {
        name: EncodedTexts.of_arrays([vocabulary.encode(row) for row in rows], texts[name].labels)
        for name, rows in words.items()
    }
    counts = np.bincount(parts["train"].tokens.numpy(), minlength=len(vocabulary))
    return Corpus(vocabulary, counts, parts, _fingerprint(vocabulary, parts))


def _tokenised(texts: LabelledTexts) -> list[list[str]]:
    rows = [tokenise(text) for text in texts.texts]
    for row, place in zip(rows, texts.places, strict=True):
        if not row:
            raise ValueError(f"Expected a text with words at {place}, but it has none: remove it.")
    return rows


def _fingerprint(vocabulary: Vocabulary, parts: dict[str, EncodedTexts]) -> str:
    digest = hashlib.sha256("\n".join(vocabulary.words).encode())
    for name in sorted(parts):
        digest.update(name.encode())
        for tensor in (parts[name].tokens, parts[name].starts, parts[name].labels):
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _save(path: Path, corpus: Corpus) -> None:
    arrays = {
        f"{name}/{field}": getattr(part, field).numpy()
        for name, part in corpus.parts.items()
        for field in ("tokens", "starts", "labels")
    }
    words = np.frombuffer("\n".join(corpus.vocabulary.words).encode(), np.uint8)
    fingerprint = np.frombuffer(corpus.fingerprint.encode(), np.uint8)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            words=words,
            counts=corpus.counts,
            fingerprint=fingerprint,
            **arrays,
        )


def _load(path: Path) -> Corpus | None:
    """The cached corpus; None where there is none, or a damaged one, which is then made anew."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        vocabulary = Vocabulary.of_words(arrays["words"].tobytes().decode().split("\n"))
        names = dict.fromkeys(name.rpartition("/")[0] for name in arrays if "/" in name)
        parts = {
            name: EncodedTexts(
                *(torch.from_numpy(arrays[f"{name}/{f}"]) for f in ("tokens", "starts", "labels"))
            )
            for name in names
        }
        fingerprint = arrays["fingerprint"].tobytes().decode()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if _fingerprint(vocabulary, parts) != fingerprint or len(vocabulary) <= PAD:
        return None
    return Corpus(vocabulary, arrays["counts"], parts, fingerprint)
