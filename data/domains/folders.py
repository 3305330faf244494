"""Folders of images that show the same classes in several domains.

    <root>/<domain>/images/<class>/*          as in Office-31 (Saenko et al. 2010), or
    <root>/<domain>/<class>/*                 as in PACS and Office-Home

Two domains are compared on the classes that both have; classes of one alone are named and left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataNotFoundError
from data.files import is_hidden, read_record

__all__ = ["MARKER", "DomainSet", "Files", "domains_root", "find_domains", "pair_of", "title_of"]

# Images of each class.
Files = Mapping[str, Sequence[Path]]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
# What a generator leaves beside the domains that it made: {"title": what they are}.
MARKER = "generated.json"
# Copies of Office-31's archive have their domains at the top or in this folder.
ARCHIVE_FOLDER = "domain_adaptation_images"


@dataclass(frozen=True)
class DomainSet:
    """A published set: how it is recognised.

    Attributes:
        title: what results may call it where all of it is there.
        images: number of images of each domain.
    """

    title: str
    images: Mapping[str, int]


# Counts: Saenko et al. 2010 (31 classes, 4,110 images); Li et al. 2017 (7 classes, 9,991 images).
KNOWN = {
    "office31": DomainSet("Office-31", {"amazon": 2817, "dslr": 498, "webcam": 795}),
    "pacs": DomainSet(
        "PACS", {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
    ),
}


def domains_root(root: str | Path, name: str = "") -> Path:
    """The folder of the domains: `root` itself, or the folder `name` in it."""
    root = Path(root).expanduser()
    choices = [root / name, root / name / ARCHIVE_FOLDER, root] if name else [root]
    for folder in choices:
        if find_domains(folder):
            return folder
    fetch = f"`python -m data.prepare office31 --root {root}` says how to get Office-31; "
    raise DataNotFoundError(
        f"Expected domains in {' or '.join(map(str, (root, *choices[:-2])))}, as "
        "<domain>/images/<class>/* or <domain>/<class>/*, but there are none. "
        f"{fetch if name == 'office31' else ''}`python -m data.prepare domains --root DIR` makes "
        "three small generated ones to try the task on, with `--data.root DIR`."
    )


def find_domains(root: Path) -> dict[str, Files]:
    """Every domain below `root`, by name, with its classes in order; empty where there is none."""
    if not root.is_dir():
        return {}
    found = {folder.name: _classes(folder) for folder in _folders(root)}
    return {name: classes for name, classes in found.items() if any(classes.values())}


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not is_hidden(p.name))


def _classes(domain: Path) -> dict[str, list[Path]]:
    images = domain / "images"
    nested = images.is_dir() and bool(_folders(images))
    return {folder.name: _images(folder) for folder in _folders(images if nested else domain)}


def _images(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not is_hidden(p.name)
    )


def pair_of(root: Path, source: str, target: str) -> tuple[Files, Files]:
    """The images of two domains, of the classes that both have, in the same order.

    Raises:
        ValueError: source and target are the same, a domain is not there, they have no two classes
            in common, or a common class is empty in one of them.
    """
    domains = find_domains(root)
    for option, name in (("source", source), ("target", target)):
        if name not in domains:
            raise ValueError(
                f"Expected `{option}` to be one of the domains in {root}, which are "
                f"{', '.join(domains)}, but got {name!r}."
            )
    if source == target:
        raise ValueError(
            f"Expected `target` to be another domain than `source`, but both are {source!r}: "
            f"choose among {', '.join(domains)}."
        )
    common = _common_classes(source, domains[source], target, domains[target])
    own, other = ({c: domains[name][c] for c in common} for name in (source, target))
    for name, files in ((source, own), (target, other)):
        empty = [c for c in common if not files[c]]
        if empty:
            raise ValueError(
                f"Expected images of every class in both domains, but {root / name} has none of "
                f"{', '.join(empty)}: add images, or remove the empty folder to leave that class "
                "out."
            )
    return own, other


def _common_classes(source: str, own: Files, target: str, other: Files) -> list[str]:
    common = [c for c in own if c in other]
    apart = [
        f"{', '.join(sorted(set(mine) - set(theirs)))} in {name} alone"
        for name, mine, theirs in ((source, own, other), (target, other, own))
        if set(mine) - set(theirs)
    ]
    if len(common) < 2:
        raise ValueError(
            f"Expected {source} and {target} to have at least 2 classes in common, but they have "
            f"{len(common)}: {'; '.join(apart)}. Give folders of the same class the same name."
        )
    if apart:
        warnings.warn(
            f"{source} and {target} have {len(common)} classes in common, which are used; left "
            f"out are {'; '.join(apart)}.",
            stacklevel=3,
        )
    return common


def title_of(root: Path, name: str, pair: tuple[str, str]) -> str:
    """What results call the domains in `root`: a published name only where all of it is there.

    Args:
        root: from :func:`domains_root`.
        name: of a published set, or any other for a set of one's own.
        pair: the two domains that are used.
    """
    counts = {d: sum(map(len, files.values())) for d, files in find_domains(root).items()}
    total = f"({sum(counts.values())} images)"
    made = read_record(root / MARKER)
    if made is not None:
        return f"{made.get('title', name or root.name)} {total}"
    known = KNOWN.get("".join(c for c in name.lower() if c.isalnum()))
    if known is None:
        return f"{name or root.name} {total}"
    complete = all(counts.get(domain) == n for domain, n in known.images.items())
    if complete and set(pair) <= set(known.images):
        return known.title
    return f"{known.title}-subset {total}"
