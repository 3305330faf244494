"""The binary sentences of the Stanford Sentiment Treebank, in the forms in which they are shared.

- ``{train,dev,test}.tsv`` with the columns ``sentence`` and ``label``;
- the trees ``trees/{train,dev,test}.txt``: the root's class 0 to 4;
- the first release: ``datasetSentences.txt``, ``datasetSplit.txt``, ``dictionary.txt`` and
  ``sentiment_labels.txt``: a sentiment from 0 to 1 for every phrase;
- GLUE's SST-2.zip, packed or not: tables without the test part's labels, and with phrases for
  training; beside them the first release in ``original/``, which is then what is read.

Neutral sentences (class 2; above 0.4 up to 0.6) are dropped: 6,920 / 872 / 1,821 remain.
Source: Socher et al. 2013, https://nlp.stanford.edu/sentiment/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data.archives import ArchiveError, read_members
from data.errors import DataNotFoundError, quoted
from data.files import format_bytes
from data.text.imdb import LabelledTexts
from data.text.tokens import undo_treebank

__all__ = ["SENTENCES", "Split", "find_sst2", "read_sst2"]

Split = Literal["train", "dev", "test"]
SENTENCES: dict[Split, int] = {"train": 6920, "dev": 872, "test": 1821}
_TOPS = ("trees", "SST-2", "stanfordSentimentTreebank")
_ARCHIVES = ("trainDevTestTrees_PTB.zip", "SST-2.zip", "stanfordSentimentTreebank.zip")
_RELEASE = ("datasetSentences.txt", "datasetSplit.txt", "dictionary.txt", "sentiment_labels.txt")
_FILES = {*(f"{split}.{end}" for split in SENTENCES for end in ("tsv", "txt")), *_RELEASE}
_LARGEST = 64 << 20  # bytes of a file; the largest real one is dictionary.txt with 12 million
# A word of a tree, and what else a tree is made of. Only a plain space separates: words may hold
# others, such as the no-break space of "8 1/2".
_NODE = re.compile(r"\([0-4] ([^() ]+)\)")
_BRANCHES = re.compile(r"(?:\([0-4] |[ )])*")
_SPLIT_CODES: dict[str, Split] = {"1": "train", "2": "test", "3": "dev"}

Files = dict[str, bytes]


def find_sst2(path: str | Path) -> Path:
    """The zip, or the folder with the sentences' files, at `path` or right below it.

    Raises:
        DataNotFoundError: none of the known forms is there.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    for folder in (path, *(path / top for top in _TOPS)):
        if any((folder / name).is_file() for name in _FILES):
            return folder
    for name in _ARCHIVES:
        if (path / name).is_file():
            return path / name
    raise DataNotFoundError(
        f"Expected SST-2 at {path}, as {{train,dev,test}}.tsv, trees/{{train,dev,test}}.txt, the "
        f"treebank's {', '.join(_RELEASE)}, or one of {', '.join(_ARCHIVES)}, but none is there. "
        f"Fetch it with `python -m data.prepare sst2 --root {path}`, or name its folder by "
        "`--data.sst2`."
    )


def read_sst2(path: str | Path) -> dict[Split, LabelledTexts]:
    """The labelled sentences of every split that is there, in the files' order.

    Raises:
        DataNotFoundError: no known form at `path`.
        ValueError: a damaged zip, other columns, a label that is not 0 or 1, an empty sentence,
            text that is not UTF-8; the message names file and line.
    """
    place = find_sst2(path)
    files = _read_zip(place) if place.is_file() else _read_folder(place)
    if all(name in files for name in _RELEASE):
        return _first_release(place, files)
    splits: dict[Split, LabelledTexts] = {}
    for split in SENTENCES:
        for end, read in (("tsv", _table), ("txt", _trees)):
            if f"{split}.{end}" in files:
                texts = read(f"{place}/{split}.{end}", files[f"{split}.{end}"])
                if texts is not None:
                    if not len(texts):
                        raise ValueError(
                            f"Expected {place}/{split}.{end} to hold labelled sentences, but it "
                            "has none: fetch it again, or delete it."
                        )
                    splits[split] = texts
                break
    if not splits:
        raise ValueError(f"Expected {place} to hold labelled sentences, but it has none.")
    return splits


def _read_zip(archive: Path) -> Files:
    def wanted(name: str) -> bool:
        return name.rpartition("/")[2] in _FILES and not name.startswith("__MACOSX/")

    try:
        members = read_members(archive, wanted, _LARGEST)
        files = {name.rpartition("/")[2]: content for name, content in members}
    except ArchiveError as error:
        raise ValueError(
            f"Expected {archive} to be a zip of SST-2, but {error}. Delete it and fetch it again "
            f"with `python -m data.prepare sst2 --root {archive.parent}`."
        ) from error
    if not files:
        raise ValueError(f"Expected {archive} to hold SST-2, but it has none of its files.")
    return files


def _read_folder(folder: Path) -> Files:
    places = (folder, folder / "original")
    paths = {name: place / name for place in places for name in _FILES if (place / name).is_file()}
    for path in paths.values():
        if path.stat().st_size > _LARGEST:
            raise ValueError(
                f"Expected {path} to be a file of SST-2, but it has more than "
                f"{format_bytes(_LARGEST)}: fetch it again."
            )
    return {name: path.read_bytes() for name, path in paths.items()}


def _lines(place: str, content: bytes) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, with the place to name in an error."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        here = f"{place}, line {number}"
        try:
            text = line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected {here} to be UTF-8, but it is not ({error.reason} at byte "
                f"{error.start} of the line): fetch the file again."
            ) from error
        if text.strip():
            yield here, text


def _table(place: str, content: bytes) -> LabelledTexts | None:
    """The sentences of a .tsv file; None where it has no labels, as GLUE's test file.

    That file's labels are left out, or all -1.
    """
    lines = _lines(place, content)
    header = next(lines, ("", ""))[1].split("\t")
    if header == ["index", "sentence"]:
        return None
    if not {"sentence", "label"} <= set(header):
        raise ValueError(
            f"Expected {place} to have the columns sentence and label, separated by a tab, but "
            f"its first line is {quoted(str(header))}."
        )
    sentence, label = header.index("sentence"), header.index("label")
    rows = [(here, line.split("\t")) for here, line in lines]
    for here, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"Expected {here} to have {len(header)} columns, but got {len(cells)}."
            )
    if rows and all(cells[label].strip() == "-1" for _, cells in rows):
        return None
    texts = LabelledTexts()
    for here, cells in rows:
        if cells[label].strip() not in ("0", "1"):
            raise ValueError(
                f"Expected the label in {here} to be 0 or 1, but got {cells[label].strip()!r}."
            )
        texts.add(undo_treebank(cells[sentence]), int(cells[label]), here)
    return texts


def _trees(place: str, content: bytes) -> LabelledTexts:
    texts = LabelledTexts()
    for here, line in _lines(place, content):
        words = _NODE.findall(line)
        whole = _BRANCHES.fullmatch(_NODE.sub("", line)) and line.count("(") == line.count(")")
        if not words or not line.startswith("(") or not whole:
            raise ValueError(
                f"Expected {here} to be a tree such as (3 (2 A) (4 gem)), but got {line[:40]!r}."
            )
        grade = int(line[1])
        if grade != 2:
            texts.add(undo_treebank(" ".join(words)), int(grade > 2), here)
    return texts


def _first_release(place: Path, files: Files) -> dict[Split, LabelledTexts]:
    def pairs(name: str, separator: str, skip: int) -> Iterator[tuple[str, str, str]]:
        for count, (here, line) in enumerate(_lines(f"{place}/{name}", files[name])):
            if count < skip:
                continue
            left, found, right = (
                line.partition(separator) if name != "dictionary.txt" else line.rpartition("|")
            )
            if not found:
                raise ValueError(
                    f"Expected {here} to have two fields, separated by {separator!r}, but got "
                    f"{line[:40]!r}."
                )
            yield here, left, right

    values = {
        key: _sentiment(here, value) for here, key, value in pairs("sentiment_labels.txt", "|", 1)
    }
    phrases = {phrase: key.strip() for _, phrase, key in pairs("dictionary.txt", "|", 0)}
    skeletons = {_skeleton(phrase): key for phrase, key in phrases.items()}
    split_of = {key: code.strip() for _, key, code in pairs("datasetSplit.txt", ",", 1)}
    splits: dict[Split, LabelledTexts] = {split: LabelledTexts() for split in SENTENCES}
    for here, number, sentence in pairs("datasetSentences.txt", "\t", 1):
        sentence = _decoded_once_more(sentence)
        plain = sentence.replace("-LRB-", "(").replace("-RRB-", ")")
        key = phrases.get(plain) or skeletons.get(_skeleton(plain))
        if key not in values or split_of.get(number) not in _SPLIT_CODES:
            raise ValueError(
                f"Expected the sentence in {here} to have a split and a sentiment, but they are "
                "not in datasetSplit.txt, dictionary.txt and sentiment_labels.txt: fetch the "
                "four files again, together."
            )
        value = values[key]
        if value <= 0.4 or value > 0.6:
            split = _SPLIT_CODES[split_of[number]]
            splits[split].add(undo_treebank(sentence), int(value > 0.6), here)
    return splits


def _sentiment(here: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"Expected {here} to end with a number from 0 to 1, but got {value!r}.")
    return number


def _decoded_once_more(sentence: str) -> str:
    """The sentence as it was before its UTF-8 was taken for Latin-1, which befell the release."""
    try:
        return sentence.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return sentence


def _skeleton(phrase: str) -> str:
    """What survives every encoding: the letters and marks of ASCII."""
    return "".join(letter for letter in phrase if letter.isascii() and not letter.isspace())
