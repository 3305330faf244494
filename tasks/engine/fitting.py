"""Which of a file's tensors belong where in a network: by name and shape, under any prefix.

Files of a backbone alone, or of a network that holds the backbone under another name (`features.`,
`encoder.`, `backbone.`, `network.`), fit without being renamed. Heads may be missing or of another
number of classes, and start anew; the file's own head, and whole parts of it that the network has
not, are left out. Whatever else differs is refused: half a network's weights are no weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cnsn.checkpoint import COUNTER, key_report
from data.errors import listed

__all__ = ["Fitted", "fit_weights"]

ENOUGH = 0.4  # of the file; one with a network and its average holds the network by half
LISTED = 6
DEEPEST = 4  # parts of a prefix
COMMON = 0.1  # share of all names that have a prefix, for it to be tried


@dataclass(frozen=True)
class Fitted:
    """What became of a file.

    Attributes:
        state: the network's whole state, with what the file gives in it.
        loaded: how many of the network's tensors the file gives, counters of batches aside.
        new: the network's tensors that keep their values.
        left: the file's tensors that no one takes.
        strip, add: the prefix of the file's names, and that of the network's in its place.
    """

    state: dict[str, Tensor]
    loaded: int
    new: tuple[str, ...]
    left: tuple[str, ...]
    strip: str
    add: str

    def __str__(self) -> str:
        said = f"{self.loaded} tensors are loaded"
        if self.strip or self.add:
            said += f", its `{self.strip}*` as `{self.add}*`"
        if self.new:
            said += f"; anew start {listed(_parts(self.new, self.add), LISTED)}"
        if self.left:
            said += f"; left out of the file: {listed(_parts(self.left, self.strip), LISTED)}"
        return f"{said}."


def fit_weights(
    net: nn.Module, given: Mapping[str, Tensor], source: str, heads: Sequence[str]
) -> Fitted:
    """Find the place of each of the given tensors in `net`, which is left as it is.

    Args:
        net: a network.
        given: weights by name.
        source: what they are called.
        heads: prefixes, in `net`, of what may start anew.

    Raises:
        ValueError: they are of another network; the message says how they differ.
    """
    own = net.state_dict()
    strip, add = _prefixes(own, given)
    heads = tuple(heads)
    places = {key: add + key.removeprefix(strip) for key in given if key.startswith(strip)}
    taken = {
        key: place
        for key, place in places.items()
        if place in own and own[place].shape == given[key].shape
    }
    state = {place: given[key] for key, place in taken.items()}
    counted = any(key.endswith(COUNTER) for key in given)
    new = [key for key in own if key not in state and (counted or not key.endswith(COUNTER))]
    left = [key for key in given if key not in taken]
    known = {_top(key, strip) for key in taken}
    # By its place in the network, so that what is said is about the same names.
    wrong = {
        places.get(key, key): given[key]
        for key in left
        if _top(key, strip) in known and not places.get(key, key).startswith(heads)
    }
    lacking = [key for key in new if key.startswith(add) and not key.startswith(heads)]
    few = len(taken) < ENOUGH * len(given)
    if wrong or lacking or few:
        kept = {key: value for key, value in own.items() if key not in lacking}
        report = key_report(net, given if few else {**kept, **state, **wrong})
        raise ValueError(
            f"Expected `weights` to be those of {type(net).__name__}, but {source} differs: "
            f"{len(taken)} of its {len(given)} tensors fit by name and shape; {report}."
        )
    loaded = sum(not key.endswith(COUNTER) for key in state)
    return Fitted({**own, **state}, loaded, tuple(new), tuple(left), strip, add)


def _prefixes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[str, str]:
    """The prefix of the given names and that of the network's under which most are the same."""
    shapes = {(key, value.shape) for key, value in own.items() if not key.endswith(COUNTER)}
    files = [(key, value.shape) for key, value in given.items() if not key.endswith(COUNTER)]
    best, most = ("", ""), sum(pair in shapes for pair in files)
    for strip in _common(key for key, _ in files):
        inner = [(key[len(strip) :], shape) for key, shape in files if key.startswith(strip)]
        for add in _common(key for key, _ in shapes):
            fitting = sum((add + key, shape) in shapes for key, shape in inner)
            if fitting > most:
                best, most = (strip, add), fitting
    return best


def _common(names: Iterable[str]) -> list[str]:
    """Prefixes that many names have, the shortest first; "" is one."""
    every = list(names)
    counts: Counter[str] = Counter()
    for name in every:
        parts = name.split(".")[:-1][:DEEPEST]
        counts.update("".join(f"{part}." for part in parts[:n]) for n in range(1, len(parts) + 1))
    often = (prefix for prefix, count in counts.items() if count >= COMMON * len(every))
    return ["", *sorted(often, key=lambda prefix: prefix.count("."))]


def _top(key: str, strip: str) -> str | None:
    """The part of a network that a file's name is of; None for what is beside the network."""
    return key.removeprefix(strip).partition(".")[0] if key.startswith(strip) else None


def _parts(keys: Iterable[str], prefix: str) -> list[str]:
    """The parts that names are of, each once: one level below the prefix, or beside it."""
    found: dict[str, None] = {}
    for key in keys:
        inside = bool(prefix) and key.startswith(prefix)
        depth = prefix.count(".") + 1 if inside else min(2, max(1, prefix.count(".")))
        found[".".join(key.split(".")[:-1][:depth]) or key] = None
    return list(found)
