"""Put CrossNorm and SelfNorm into a built network, and switch CrossNorm on for a forward.

net = insert(torchvision.models.resnet50(weights="DEFAULT"), CNSNSpec(kind="cnsn"))
with crossnorm_active(net, k=1):
    loss = criterion(net(x), y)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from cnsn.backbones import known_blocks, sited_type
from cnsn.kinds import GATES, RESTYLINGS, choose
from cnsn.layers import CNSN, Crop, Gate, Restyling
from cnsn.layers.crossnorm import check_crossnorm_options
from cnsn.sites import ChainUnit, SitedBlock, SitedChain

__all__ = ["CNSNSpec", "Kind", "crossnorm_active", "crossnorm_sites", "insert"]

Kind = Literal["none", "cn", "sn", "cnsn"]
Block = nn.Module | ChainUnit
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class CNSNSpec:
    """Which layers, where.

    Args:
        kind: "none" leaves the network untouched, so that baseline and method share one path.
        position: site of the layers: pre, residual, identity, post or out in residual blocks;
            other networks name theirs.
        cn_position: site of CrossNorm where it differs from SelfNorm's; None means the same.
        crop: see :class:`cnsn.CrossNorm`.
        beta: see :class:`cnsn.CrossNorm`.
        min_area: see :class:`cnsn.CrossNorm`.
        stages: stages of the network that get the layers, counted from 1; None means all.
        two_sided: see :class:`cnsn.SelfNorm`.
        image: CrossNorm acts on the input of the network's call, the image, and nowhere else.
        restyle: which layer stands for CrossNorm, of :data:`cnsn.kinds.RESTYLINGS`.
        gate: which layer stands for SelfNorm, of :data:`cnsn.kinds.GATES`.
    """

    kind: Kind = "none"
    position: str = "post"
    cn_position: str | None = None
    crop: Crop = "neither"
    beta: float = 1.0
    min_area: float = 0.1
    stages: tuple[int, ...] | None = None
    two_sided: bool = False
    image: bool = False
    restyle: str = "crossnorm"
    gate: str = "selfnorm"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(
                f"Expected `kind` to be one of {get_args(Kind)}, but got {self.kind!r}."
            )
        choose(RESTYLINGS, "restyle", self.restyle)
        choose(GATES, "gate", self.gate)
        check_crossnorm_options(self.crop, self.beta, self.min_area)
        if self.stages is not None and (not self.stages or min(self.stages) < 1):
            raise ValueError(
                f"Expected `stages` to hold numbers from 1, or to be None, but got {self.stages}."
            )
        if self.cn_position is not None and self.image:
            raise ValueError(
                "Expected `cn_position` to be None when `image` is set, but got "
                f"{self.cn_position!r}: CrossNorm sits in one place."
            )

    @property
    def crossnorm(self) -> bool:
        """Whether there is a CrossNorm."""
        return self.kind in ("cn", "cnsn")

    @property
    def selfnorm(self) -> bool:
        """Whether there is a SelfNorm."""
        return self.kind in ("sn", "cnsn")


def insert(net: Net, spec: CNSNSpec) -> Net:
    """Insert the layers into `net`, in place, and return it.

    Every residual block gets a ``cnsn`` submodule at ``spec.position`` (keys such as
    ``layer1.0.cnsn.selfnorm.g_fc.weight``), and a ``crossnorm`` where CrossNorm sits elsewhere. In
    a chain of layers (AllConv) they become members, and the keys behind them are renumbered: load
    weights first. A block without the site stays as it is. Works on the networks of
    :mod:`cnsn.nets`, on torchvision's ResNet, ResNeXt and Wide ResNet, and on whatever is built
    from their blocks (``fcn_resnet50``, segmentation encoders). New parameters are created on the
    device and in the dtype of the block they join.

    Raises:
        ValueError: no known block, layers inserted before, a position or stage that the network
            does not have. The network is then unchanged.
    """
    if spec.kind == "none":
        return net
    blocks = _find_blocks(net)
    _check_blocks(net, blocks, spec)
    if spec.crossnorm and spec.image:
        _equip_input(net, spec)
    if spec.selfnorm or not spec.image:
        for block, stage in blocks:
            if spec.stages is None or stage in spec.stages:
                _equip(net, block, spec)
    return net


def crossnorm_sites(net: nn.Module) -> list[Restyling]:
    """The modules of `net` that :func:`crossnorm_active` switches on, in order of registration."""
    return [module for module in net.modules() if isinstance(module, Restyling)]


@contextmanager
def crossnorm_active(
    net: nn.Module,
    k: int = 1,
    generator: torch.Generator | None = None,
    *,
    draws: torch.Generator | None = None,
    partner: Tensor | None = None,
    rows: slice | None = None,
) -> Iterator[list[Restyling]]:
    """Within the context, `k` randomly chosen CrossNorm sites of `net` are active.

    Args:
        net: a network with CrossNorm inserted; CrossNorm acts only while it is training.
        k: how many of the n sites, from 0 to n.
        generator: CPU generator of the choice; None means torch's global one.
        draws: CPU generator of permutations and boxes; None means `generator`. Processes that
            train together choose the same sites but draw differently.
        partner: see :class:`cnsn.CrossNorm`.
        rows: see :class:`cnsn.CrossNorm`; None means the whole batch.

    Yields:
        The active sites. Everything is restored at the end, also after an exception.

    Raises:
        ValueError: if `k` is negative or larger than the number of sites.
    """
    sites = crossnorm_sites(net)
    if not 0 <= k <= len(sites):
        raise ValueError(
            f"Expected `k` to be from 0 to {len(sites)}, the number of CrossNorm sites, "
            f"but got {k}."
        )
    order = torch.randperm(len(sites), generator=generator, device="cpu")
    chosen = [sites[i] for i in order[:k].tolist()]
    before = [(site.active, site.generator, site.partner, site.rows) for site in chosen]
    try:
        for site in chosen:
            site.active = True
            site.generator = generator if draws is None else draws
            site.partner = partner
            site.rows = rows
        yield chosen
    finally:
        for site, state in zip(chosen, before, strict=True):
            site.active, site.generator, site.partner, site.rows = state


def _find_blocks(net: nn.Module) -> list[tuple[Block, int]]:
    """Blocks that have sites or can get them, each with its stage's number, from 1.

    The stage is the container that holds the block (``layer1``, ``block1.layer``, ...), or what
    lies between two poolings of a chain. Where all blocks lie in one container, a family may say
    that one which lowers the resolution begins a stage.
    """
    blocks: list[tuple[Block, int]] = []
    stages: dict[tuple[str, int], int] = {}
    count = 0
    for name, module in net.named_modules():
        found: list[tuple[Block, tuple[str, int]]] = []
        if isinstance(module, SitedChain):
            found = [(unit, (name, unit.stage)) for unit in module.units()]
        elif isinstance(module, SitedBlock) or sited_type(module):
            found = [(module, (name.rpartition(".")[0], 0))]
        for block, place in found:
            sited = None if isinstance(block, ChainUnit) else _sited(block)
            if place not in stages or (sited is not None and sited.starts_stage(block)):
                count += 1
                stages[place] = count
            blocks.append((block, stages[place]))
    return blocks


def _check_blocks(net: nn.Module, blocks: list[tuple[Block, int]], spec: CNSNSpec) -> None:
    if not blocks and (spec.selfnorm or not spec.image):
        raise ValueError(
            f"Expected `net` to hold blocks that the layers fit into, but {type(net).__name__} has "
            f"none. Known are the networks of cnsn.nets and {', '.join(known_blocks())}; in other "
            "networks call cnsn.CNSN in your own forward."
        )
    for module in net.modules():
        if isinstance(module, Restyling | Gate):
            raise ValueError(
                f"Expected `net` to be without CrossNorm and SelfNorm, but {type(net).__name__} "
                "has them already: build it anew and insert once."
            )
    sites = sorted({site for block, _ in blocks for site in _site_names(block)})
    # Where CrossNorm alone sits elsewhere, nothing sits at `position`, whatever its default says.
    unused = not spec.selfnorm and (spec.image or spec.cn_position is not None)
    for position in (None if unused else spec.position, spec.cn_position):
        if blocks and position is not None and position not in sites:
            types = sorted({type(block).__name__ for block, _ in blocks})
            raise ValueError(
                f"Expected the position to be one of {sites}, the sites of {', '.join(types)}, "
                f"but got {position!r}."
            )
    last = max((stage for _, stage in blocks), default=0)
    if spec.stages is not None and blocks and max(spec.stages) > last:
        raise ValueError(f"Expected `stages` to be from 1 to {last}, but got {spec.stages}.")


def _sited(block: nn.Module) -> type[SitedBlock]:
    """The class of the block, once it has sites."""
    sited = type(block) if isinstance(block, SitedBlock) else sited_type(block)
    assert sited is not None
    return sited


def _site_names(block: Block) -> tuple[str, ...]:
    return block.SITES if isinstance(block, ChainUnit) else _sited(block).sites_in(block)


def _equip(net: nn.Module, block: Block, spec: CNSNSpec) -> None:
    sites, layout = _site_names(block), {}
    if not isinstance(block, ChainUnit):
        if not isinstance(block, SitedBlock):
            block.__class__ = _sited(block)
        assert isinstance(block, SitedBlock)
        layout = block.layout(net)
    apart = spec.crossnorm and (spec.image or spec.cn_position not in (None, spec.position))
    if apart and not spec.image and spec.cn_position in sites:
        block.put(spec.cn_position, _new_crossnorm(spec, layout).train(block.host.training))
    if spec.position not in sites:
        return
    gate = None
    if spec.selfnorm:
        channels = block.site_channels()[spec.position]
        reference = next(block.host.parameters())
        gate = GATES[spec.gate].build(spec, channels, **layout)
        gate.to(device=reference.device, dtype=reference.dtype)
    crossnorm = _new_crossnorm(spec, layout) if spec.crossnorm and not apart else None
    if gate is not None or crossnorm is not None:
        layers = CNSN(crossnorm=crossnorm, selfnorm=gate)
        block.put(spec.position, layers.train(block.host.training))


def _new_crossnorm(spec: CNSNSpec, layout: dict[str, int]) -> Restyling:
    return RESTYLINGS[spec.restyle].build(spec, **layout)


def _equip_input(net: nn.Module, spec: CNSNSpec) -> None:
    """Let CrossNorm act on what `net` is called with, whatever takes it first."""
    if not any(isinstance(module, nn.Conv2d) for module in net.modules()):
        raise ValueError(
            f"Expected `net` to take an image, which its Conv2d would show, but "
            f"{type(net).__name__} has none."
        )
    # Whatever is in a chain would be called by it.
    while isinstance(net, nn.Sequential):
        net = net[0]
    net.image_crossnorm = _new_crossnorm(spec, {}).train(net.training)
    net.register_forward_pre_hook(_exchange_input)


def _exchange_input(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gets the module that it hooks from the caller, so that copies have their own CrossNorm."""
    if not inputs:
        raise ValueError(
            "Expected the image as the network's first argument, without a keyword, for CrossNorm "
            "to act on it, but got keywords alone."
        )
    crossnorm: Restyling = net.image_crossnorm  # type: ignore[assignment]
    return crossnorm(inputs[0]), *inputs[1:]
