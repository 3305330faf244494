"""Residual blocks of other libraries, described rather than rewritten.

Most of them are a chain of children whose end is added to the shortcut,

    x -> pre -> [BRANCH] -> residual -> [DROP] -> (+) -> post -> [LAST] -> out
      \\-> [SHORTCUT] -> identity ------------------/

so that a family says which children these are. What a block has beyond them is refused by name: its
forward is another one than the described.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from cnsn.sites import RESIDUAL_SITES, SitedBlock

__all__ = ["INNER_SITES", "SitedDense", "SitedPreactivation", "SitedResidual"]

# Of blocks without an activation behind the sum: there `post` is the block's output.
INNER_SITES = RESIDUAL_SITES[:-1]


class _FromLibrary(SitedBlock):
    """A block whose children another library's class makes."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class SitedDense(_FromLibrary):
    """A layer of a DenseNet, which has no sum; its class calls ``self.at`` at the two sites.

    `pre` is its input, all channels so far, as the layer alone sees them, and `residual` the new
    channels before they are appended.
    """

    SITES = ("pre", "residual")

    def site_channels(self) -> Mapping[str, int]:
        return {"pre": self.conv1.in_channels, "residual": self.conv2.out_channels}


class SitedResidual(_FromLibrary):
    """A block that adds a chain of its children to its input.

    Attributes:
        BRANCH: the chain, in order; children that are None are left out.
        OUT: the child of the chain whose channels are the sum's.
        DROP: stochastic depth: it drops the branch with the layers in it. Only with a shortcut.
        SHORTCUT: the projection of the shortcut; None is the input itself.
        LAST: the activation behind the sum, the only one; without it there is no site `out`.
        SKIP: the attribute that says whether this block has a shortcut; without one there is no
            site `identity`, and `post` is the end of the branch. None is always.
        SHORTCUT_FIRST: the order of the sum, whose memory lies as its first operand's.
        OTHERS: children that a forward of the family's own runs beside these.
    """

    BRANCH: ClassVar[tuple[str, ...]]
    OUT: ClassVar[str]
    DROP: ClassVar[str | None] = None
    SHORTCUT: ClassVar[str | None] = None
    LAST: ClassVar[str | None] = None
    SKIP: ClassVar[str | None] = None
    SHORTCUT_FIRST: ClassVar[bool] = False
    OTHERS: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parts(cls) -> frozenset[str]:
        named = (*cls.BRANCH, cls.DROP, cls.SHORTCUT, cls.LAST, *cls.OTHERS)
        return frozenset(name for name in named if name)

    def sites(self) -> tuple[str, ...]:
        if self._skips():
            return self.SITES
        return tuple(site for site in self.SITES if site != "identity")

    def _skips(self) -> bool:
        return self.SKIP is None or bool(getattr(self, self.SKIP))

    def site_channels(self) -> Mapping[str, int]:
        taken = _widths([getattr(self, name) for name in self.BRANCH], "in")[0]
        given = _widths([getattr(self, self.OUT)], "out")[-1]
        return dict.fromkeys(self.SITES, given) | {"pre": taken}

    def chain(self, names: tuple[str | None, ...], x: Tensor) -> Tensor:
        """`x` through the children of these names, those that there are."""
        for name in names:
            part = None if name is None else getattr(self, name)
            if part is not None:
                x = part(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        branch = self.chain(self.BRANCH, self.at("pre", x))
        return self.merge(branch, self.chain((self.SHORTCUT,), x) if self._skips() else None)

    def merge(self, branch: Tensor, identity: Tensor | None) -> Tensor:
        """The block from the branch's end on."""
        total = self.at("residual", branch)
        if identity is not None:
            total, identity = self.chain((self.DROP,), total), self.at("identity", identity)
            total = identity + total if self.SHORTCUT_FIRST else total + identity
        total = self.at("post", total)
        return total if self.LAST is None else self.at("out", self.chain((self.LAST,), total))


class SitedPreactivation(SitedResidual):
    """Normalisation and activation come first; a projected shortcut starts behind them.

    `pre` is the branch's own input: there behind them too, before them where the shortcut is not
    projected, as in :mod:`cnsn.nets.wide_resnet`.
    """

    SITES = INNER_SITES

    def activate(self, x: Tensor) -> Tensor:
        """`x` through what comes before the projection branches off; `BRANCH` has the rest."""
        return self.chain(self.OTHERS, x)

    def forward(self, x: Tensor) -> Tensor:
        assert self.SHORTCUT is not None
        if getattr(self, self.SHORTCUT) is None:
            return self.merge(self.chain(self.BRANCH, self.activate(self.at("pre", x))), x)
        activated = self.activate(x)
        branch = self.chain(self.BRANCH, self.at("pre", activated))
        return self.merge(branch, self.chain((self.SHORTCUT,), activated))


def _widths(layers: Iterable[nn.Module | None], side: str) -> list[int]:
    """The channels that each layer in `layers` takes ("in") or gives ("out"), in order."""
    widths: list[int] = []
    for layer in layers:
        own = getattr(layer, f"{side}_channels", getattr(layer, f"{side}_features", None))
        if isinstance(own, int):
            widths.append(own)
        elif layer is not None:
            widths += _widths(layer.children(), side)
    return widths
