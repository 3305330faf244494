"""The IMDb reviews of Maas et al., straight from the published archive or from its folder.

Layout: aclImdb/{train,test}/{neg,pos}/<number>_<rating>.txt; a review is positive from 7 of 10 on.
Source: Maas et al. 2011, https://ai.stanford.edu/~amaas/data/sentiment/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.archives import ArchiveError, read_members
from data.errors import DataNotFoundError
from data.files import format_bytes

__all__ = ["ARCHIVE", "FOLDER", "LabelledTexts", "find_imdb", "read_imdb"]

ARCHIVE, FOLDER = "aclImdb_v1.tar.gz", "aclImdb"
_REVIEW = re.compile(r"(?:^|/)(train|test)/(neg|pos)/(\d+)_(\d+)\.txt$")
_LONGEST = 1 << 20  # bytes of a review; the longest real one has about 14,000


@dataclass
class LabelledTexts:
    """Texts with their labels, 0 negative and 1 positive, and where each was found."""

    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, text: str, label: int, place: str) -> None:
        """Append one.

        Raises:
            ValueError: the text is empty or the label no 0 or 1.
        """
        if label not in (0, 1):
            raise ValueError(f"Expected the label at {place} to be 0 or 1, but got {label}.")
        if not text.strip():
            raise ValueError(f"Expected a text at {place}, but it is empty: remove it or fill it.")
        self.texts.append(text)
        self.labels.append(label)
        self.places.append(place)

    def __len__(self) -> int:
        return len(self.labels)


def find_imdb(path: str | Path) -> Path:
    """The archive, or the folder that holds train/ and test/, at `path` or right below it.

    Raises:
        DataNotFoundError: neither is there.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    for folder in (path, path / FOLDER):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    if (path / ARCHIVE).is_file():
        return path / ARCHIVE
    raise DataNotFoundError(
        f"Expected IMDb's reviews at {path}, as {ARCHIVE} or {FOLDER}/{{train,test}}/{{neg,pos}}/, "
        f"but they are not there. Fetch them with `python -m data.prepare imdb --root {path}`, or "
        "name the archive or its folder by `--data.imdb`."
    )


def read_imdb(path: str | Path) -> dict[str, LabelledTexts]:
    """The labelled reviews as {"train", "test"}, in the order of label and number.

    Raises:
        DataNotFoundError: no reviews at `path`.
        ValueError: a damaged archive, text that is not UTF-8, an empty review, a rating that
            contradicts its folder, or a part without both labels; the message names the file.
    """
    place = find_imdb(path)
    found: dict[str, list[tuple[int, int, str, bytes]]] = {"train": [], "test": []}
    for name, content in _archived(place) if place.is_file() else _unpacked(place):
        match = _REVIEW.search(name)
        if match:
            part, folder, number, rating = match.groups()
            label = int(folder == "pos")
            if int(rating) in range(5, 7) or label != (int(rating) >= 7):
                raise ValueError(
                    f"Expected {name} in {place} to be rated 1 to 4 or 7 to 10, as its folder "
                    f"says, but got {rating}."
                )
            found[part].append((label, int(number), name, content))
    parts = {part: _texts(place, sorted(reviews)) for part, reviews in found.items()}
    for part, texts in parts.items():
        if len(set(texts.labels)) < 2:
            raise ValueError(
                f"Expected {place} to hold negative and positive reviews in {part}/, but found "
                f"{len(texts)} of {len(set(texts.labels))} kind: fetch the archive again."
            )
    return parts


def _archived(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        yield from read_members(archive, lambda name: bool(_REVIEW.search(name)), _LONGEST)
    except ArchiveError as error:
        raise ValueError(
            f"Expected {archive} to be IMDb's archive, but {error}. Delete it and fetch it again "
            f"with `python -m data.prepare imdb --root {archive.parent}`."
        ) from error


def _unpacked(folder: Path) -> Iterator[tuple[str, bytes]]:
    for part in ("train", "test"):
        for kind in ("neg", "pos"):
            for path in (folder / part / kind).glob("*.txt"):
                if path.stat().st_size > _LONGEST:
                    raise ValueError(
                        f"Expected {path} to be a review, but it has more than "
                        f"{format_bytes(_LONGEST)}: fetch the archive again."
                    )
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def _texts(place: Path, reviews: list[tuple[int, int, str, bytes]]) -> LabelledTexts:
    texts = LabelledTexts()
    for label, _, name, content in reviews:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise ValueError(
                f"Expected {name} in {place} to be UTF-8, but line {line} is not ({error.reason} "
                f"at byte {error.start}): fetch it again."
            ) from error
        texts.add(text, label, f"{place}, {name}")
    return texts
