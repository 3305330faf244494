"""GloVe's word vectors for the words of a vocabulary, and no others.

A file has a line a word: the word, then its numbers, separated by spaces. It is read line by line,
so that memory holds the wanted vectors alone. word2vec's and fastText's text files have the number
of words and the dimension above them; a byte-order mark and blank lines mean nothing. Source:
Pennington et al. 2014, https://nlp.stanford.edu/projects/glove/
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from data.errors import DataNotFoundError, quoted

__all__ = ["WordVectors", "find_glove", "read_glove"]

# Bytes of a line, at most; the published files stay below a hundredth of it.
LONGEST_WORD, LONGEST_NUMBER = 1 << 16, 64
HIGHEST_RATIO = 200  # bytes of vectors per byte of zip; real ones have 3
# What the readers raise at files that are damaged, or that need a password.
DAMAGED = (
    EOFError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
)


class WordVectors(NamedTuple):
    """Vectors of a vocabulary.

    Attributes:
        vectors: float32 (words, dimension); 0 where the file has none.
        known: bool (words,), whether the file has the word.
        source: what they come from, such as "glove.6B.300d.txt".
    """

    vectors: np.ndarray
    known: np.ndarray
    source: str

    def coverage(self, counts: np.ndarray | None = None) -> float:
        """Share of the words that are known; with `counts` (words,), share of their occurrences."""
        weights = np.ones(len(self.known)) if counts is None else counts
        return float(weights[self.known].sum() / max(weights.sum(), 1))


def find_glove(path: str | Path) -> Path:
    """The file of word vectors.

    Raises:
        DataNotFoundError: there is no such file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataNotFoundError(
            f"Expected word vectors at {path}, but there is no such file. Fetch GloVe with `python "
            f"-m data.prepare glove --root {path.parent}`, or leave `--data.glove` out to start "
            "from random vectors."
        )
    return path


def read_glove(path: str | Path, words: Sequence[str], dimension: int) -> WordVectors:
    """The vectors of `words` from a .txt, .txt.gz or .zip file; the first of equal lines counts.

    Args:
        path: of a .zip with several dimensions, the file of the asked one is read.
        words: the vocabulary, in its order.
        dimension: numbers of a vector.

    Raises:
        DataNotFoundError: there is no such file.
        ValueError: another dimension, a malformed line (named), a damaged file, or no word in
            common with the vocabulary.
    """
    path = find_glove(path)
    place = {word.encode(): number for number, word in enumerate(words)}
    vectors = np.zeros((len(words), dimension), np.float32)
    known = np.zeros(len(words), bool)
    source = path.name
    first = True
    try:
        with _opened(path, dimension) as (file, source):
            longest = LONGEST_WORD + LONGEST_NUMBER * dimension
            for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), start=1):
                if len(line) > longest:
                    raise ValueError(
                        f"Expected {path}, line {number} to be a word and {dimension} numbers, but "
                        f"it has more than {longest} bytes: the file is malformed, fetch it again."
                    )
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                line = line.rstrip(b" \r\n")
                word, _, numbers = line.partition(b" ")
                found = numbers.count(b" ") + 1 if numbers else 0
                if found != dimension:
                    if not line or (number == 1 and _is_header(line, path, source, dimension)):
                        continue
                    # More fields: a word with spaces, which no vocabulary of ours has.
                    _check_fields(path, source, number, line, found, dimension)
                    continue
                row = place.get(word)
                wanted = row is not None and not known[row]
                # The first one also where it is no word of ours: a web page ends here.
                if wanted or first:
                    vector = _parsed(numbers, dimension, f"{path}, line {number}")
                    first = False
                if row is not None and wanted:
                    vectors[row], known[row] = vector, True
    except DAMAGED as error:
        raise ValueError(
            f"Expected {path} to be whole, but it is damaged or cut short ({quoted(error)}): fetch "
            "it again."
        ) from error
    if not known.any():
        raise ValueError(f"Expected {path} to know words of the vocabulary, but it has none.")
    return WordVectors(vectors, known, source)


def _is_header(line: bytes, path: Path, source: str, dimension: int) -> bool:
    """Whether the first line is the number of words and the dimension, such as "400000 300"."""
    fields = line.split(b" ")
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return False
    if int(fields[1]) != dimension:
        raise _of_another_dimension(path, source, int(fields[1]), dimension)
    return True


def _of_another_dimension(path: Path, source: str, found: int, dimension: int) -> ValueError:
    return ValueError(
        f"Expected vectors of dimension {dimension}, but {source} in {path} has {found}: give "
        f"the file of that dimension, or set `--model.network.init_args.dimension {found}`."
    )


def _check_fields(
    path: Path, source: str, number: int, line: bytes, found: int, dimension: int
) -> None:
    tail = line.rsplit(b" ", dimension)[1:]
    if number == 1 and found > 2:
        raise _of_another_dimension(path, source, found, dimension)
    if found < dimension or len(tail) < dimension:
        raise ValueError(
            f"Expected {path}, line {number} to be a word and {dimension} numbers, but it has "
            f"{found}: the file is malformed or cut short, fetch it again."
        )
    _parsed(b" ".join(tail), dimension, f"{path}, line {number}")
    if _is_number(line.rsplit(b" ", dimension)[0].rpartition(b" ")[2]):
        raise ValueError(
            f"Expected {path}, line {number} to be a word and {dimension} numbers, but it has "
            f"{found}: the file is malformed, fetch it again."
        )


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _parsed(numbers: bytes, dimension: int, here: str) -> np.ndarray:
    try:
        vector = np.array(numbers.split(b" "), dtype=np.float32)
    except ValueError as error:
        raise ValueError(
            f"Expected {here} to hold numbers only, but {quoted(error)}: the file is malformed, "
            "fetch it again."
        ) from error
    if vector.shape != (dimension,) or not np.isfinite(vector).all():
        raise ValueError(f"Expected {here} to hold {dimension} finite numbers, but it does not.")
    return vector


@contextmanager
def _opened(path: Path, dimension: int) -> Iterator[tuple[IO[bytes], str]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            member = _member(path, archive.namelist(), dimension)
            info = archive.getinfo(member)
            if info.file_size > HIGHEST_RATIO * max(info.compress_size, 1 << 10):
                raise ValueError(
                    f"Expected {path} to hold word vectors, but it unpacks to more than "
                    f"{HIGHEST_RATIO} times its size, as bombs do: fetch it again."
                )
            with archive.open(member) as file:
                yield file, member
    elif path.suffix == ".gz":
        with gzip.open(path) as compressed:
            yield cast(IO[bytes], compressed), path.name.removesuffix(".gz")
    elif path.suffix == ".zip":
        raise ValueError(f"Expected {path} to be a zip, but it is damaged: fetch it again.")
    else:
        with path.open("rb") as plain:
            yield plain, path.name


def _member(path: Path, names: list[str], dimension: int) -> str:
    # What the Finder packs beside a file, "__MACOSX/._NAME", is no text.
    own = (name for name in names if not name.rpartition("/")[2].startswith("._"))
    texts = [name for name in own if name.endswith((".txt", ".vec"))]
    fitting = [name for name in texts if f".{dimension}d." in name] or texts
    if len(fitting) != 1:
        raise ValueError(
            f"Expected {path} to hold one file of vectors of dimension {dimension}, but it holds "
            f"{names}: set `--model.network.init_args.dimension` to one that it has."
        )
    return fitting[0]
