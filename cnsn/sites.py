"""Named places in a network where the layers can sit.

A residual block has five sites, the same in every network:

    x -> pre -> [branch] -> residual -> (+) -> post -> activation -> out
      \\-> [projection] -> identity ---/

A block with sites inherits :class:`SitedBlock` and calls ``self.at(site, x)`` in its forward; until
something is inserted that is the identity. Networks of :mod:`cnsn.nets` are written so; blocks of
other libraries are converted by :func:`cnsn.insert`, which changes the class of the built block to
a subclass in :mod:`cnsn.backbones`: parameters, keys, pickling and deepcopy stay as they were.

A plain chain of layers has its sites between them: there the inserted layers become members of the
:class:`SitedChain`, as in the official networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from cnsn.layers import CNSN, Restyling

__all__ = [
    "RESIDUAL_SITES",
    "ChainUnit",
    "SitedBlock",
    "SitedChain",
]

RESIDUAL_SITES = ("pre", "residual", "identity", "post", "out")


class SitedBlock(nn.Module):
    """Mixin: a module whose forward passes named sites.

    Attributes:
        SITES: the names that its forward passes, in order.
        channel_dim: the dimension of the channels at its sites: 1, or -1 of maps (B, H, W, C) and
            tokens (B, N, C).
        prefix_tokens: how many tokens before the others are no part of the map, such as a class
            token.
        cnsn, cnsn_site: the inserted layers and where they act; None before insertion.
        crossnorm, crossnorm_site: CrossNorm where it sits at another site than SelfNorm.
    """

    SITES: ClassVar[tuple[str, ...]] = RESIDUAL_SITES
    channel_dim: int = 1
    prefix_tokens: int = 0
    cnsn_site: str | None = None
    crossnorm_site: str | None = None
    cnsn: CNSN
    crossnorm: Restyling

    def at(self, site: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the layers at `site` make of `x`; `x` itself where there are none.

        `mask`, bool (B, L), says which positions of sequences count.
        """
        if site == self.crossnorm_site:
            x = self.crossnorm(x, mask)
        if site == self.cnsn_site:
            x = self.cnsn(x, mask)
        return x

    def put(self, site: str, layers: CNSN | Restyling) -> None:
        """Let `layers` act at `site`."""
        if isinstance(layers, CNSN):
            self.cnsn, self.cnsn_site = layers, site
        else:
            self.crossnorm, self.crossnorm_site = layers, site

    def site_channels(self) -> Mapping[str, int]:
        """Number of channels at each site."""
        raise NotImplementedError

    def sites(self) -> tuple[str, ...]:
        """Those of `SITES` that this very block passes."""
        return self.SITES

    def starts_stage(self) -> bool:
        """Whether a stage begins with this block, though the one before lies in its container."""
        return False

    def settle(self, net: nn.Module) -> None:
        """Learn what `net` alone knows of the maps of this block within it."""

    @classmethod
    def parts(cls) -> frozenset[str] | None:
        """The children that its forward knows; None does not say."""
        return None

    @property
    def host(self) -> nn.Module:
        """The module whose device, dtype and mode the inserted layers take."""
        return self


@dataclass(frozen=True, eq=False)
class ChainUnit:
    """Convolution, normalisation and activation of a chain, with a site behind each of them."""

    SITES: ClassVar[tuple[str, ...]] = ("conv", "norm", "act")
    chain: SitedChain
    parts: tuple[nn.Module, ...]
    stage: int

    def put(self, site: str, layers: CNSN | Restyling) -> None:
        """Make `layers` a member of the chain; the numbers in the keys behind it grow by one."""
        part = self.parts[self.SITES.index(site)]
        self.chain.insert(list(self.chain).index(part) + 1, layers)

    def site_channels(self) -> Mapping[str, int]:
        """Number of channels at each site."""
        assert isinstance(self.host, nn.Conv2d)
        return dict.fromkeys(self.SITES, self.host.out_channels)

    @property
    def host(self) -> nn.Module:
        """The module whose device, dtype and mode the inserted layers take."""
        return self.parts[0]

    def sites(self) -> tuple[str, ...]:
        """The sites that this unit passes."""
        return self.SITES


class SitedChain(nn.Sequential):
    """A chain whose convolutions are each followed by a normalisation and an activation.

    A pooling begins the next stage.
    """

    def units(self) -> list[ChainUnit]:
        """The units of the chain, in order, as long as nothing is inserted."""
        members, units, stage = list(self), [], 1
        for i, module in enumerate(members):
            if isinstance(module, nn.MaxPool2d):
                stage += 1
            elif isinstance(module, nn.Conv2d):
                units.append(ChainUnit(self, tuple(members[i : i + 3]), stage))
        return units


def __getattr__(name: str) -> type[SitedBlock]:
    """Networks pickled by earlier versions look for torchvision's blocks here."""
    if name in ("SitedBasicBlock", "SitedBottleneck"):
        from cnsn.backbones.torchvision import resnet

        return getattr(resnet, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
