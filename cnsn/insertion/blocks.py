"""Blocks with named sites: those of the networks of :mod:`cnsn.nets`, and of known families."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from cnsn.backbones import LIBRARIES, sited_type, surplus
from cnsn.insertion.making import like_of, new_crossnorm
from cnsn.insertion.outputs import example_pattern
from cnsn.kinds import layout_of
from cnsn.layers import CNSN, Gate, Restyling
from cnsn.sites import ChainUnit, SitedBlock, SitedChain
from cnsn.spec import CNSNSpec

__all__ = ["Block", "choose_blocks", "plan_block", "sites_of"]

Block = SitedBlock | ChainUnit


def sites_of(net: nn.Module, block: Block | nn.Module) -> Block | None:
    """The block of `net` as it will be once it has sites; it shares all that the block holds."""
    if isinstance(block, SitedBlock | ChainUnit):
        return block
    sited = sited_type(block)
    if sited is None:
        return None
    view = copy.copy(block)
    view.__class__ = sited
    assert isinstance(view, SitedBlock)
    view.settle(net)
    return view


def choose_blocks(net: nn.Module, spec: CNSNSpec) -> list[tuple[Block | nn.Module, Block]]:
    """The blocks that get layers, each with what tells its sites.

    The stage is the container that holds the block (``layer1``, ``block1.layer``, ...), or what
    lies between two poolings of a chain. Where all blocks lie in one container, a family may say
    that one which lowers the resolution begins a stage.
    """
    blocks: list[tuple[Block | nn.Module, Block]] = []
    stages: list[int] = []
    numbers: dict[tuple[str, int], int] = {}
    count = 0
    for name, module in net.named_modules():
        found: list[tuple[Block | nn.Module, Block, tuple[str, int]]] = []
        if isinstance(module, SitedChain):
            found = [(unit, unit, (name, unit.stage)) for unit in module.units()]
        elif (sites := sites_of(net, module)) is not None:
            found = [(module, sites, (name.rpartition(".")[0], 0))]
        for block, own, place in found:
            blocks.append((block, own))
            if place not in numbers or (isinstance(own, SitedBlock) and own.starts_stage()):
                count += 1
                numbers[place] = count
            stages.append(numbers[place])
    _check_blocks(net, [sites for _, sites in blocks], spec)
    for block, _ in blocks:
        _check_plain(block)
    last = max(stages, default=0)
    wanted = range(1, last + 1) if spec.stages is None else spec.stages
    if max(wanted) > last:
        raise ValueError(f"Expected `stages` to be from 1 to {last}, but got {spec.stages}.")
    ends = {stage: place for place, stage in enumerate(stages)}
    return [
        block
        for place, (block, stage) in enumerate(zip(blocks, stages, strict=True))
        if stage in wanted and (spec.blocks == "all" or ends[stage] == place)
    ]


def _check_blocks(net: nn.Module, blocks: list[Block], spec: CNSNSpec) -> None:
    if not blocks:
        example = example_pattern(net)
        such = f", such as insert(net, spec, at=r'{example}')" if example else ""
        raise ValueError(
            f"Expected `net` to hold blocks that the layers fit into, but {type(net).__name__} has "
            f"none. Known are the networks of cnsn.nets and blocks of {', '.join(LIBRARIES)} "
            "(docs/networks.md lists them); in other networks name the modules whose outputs get "
            f"the layers, by `at`{such}."
        )
    sites = sorted({site for block in blocks for site in block.sites()})
    # Where CrossNorm alone sits elsewhere, nothing sits at `position`, whatever its default says.
    unused = not spec.selfnorm and (spec.image is True or spec.cn_position is not None)
    for position in (None if unused else spec.position, spec.cn_position):
        if position is not None and position not in sites:
            types = sorted({type(block).__name__ for block in blocks})
            raise ValueError(
                f"Expected the position to be one of {sites}, the sites of {', '.join(types)}, "
                f"but got {position!r}."
            )


def _check_plain(block: Block | nn.Module) -> None:
    """Refuse a block whose own forward does more than the one that it would get."""
    if isinstance(block, SitedBlock | ChainUnit):
        return
    if own := surplus(block):
        raise ValueError(
            f"Expected blocks of type {type(block).__module__}.{type(block).__name__} as their "
            f"library builds them, but one has {', '.join(own)} of its own, which the layers' "
            "place in it does not allow for: insert them first, or name the blocks by `at`."
        )


def plan_block(
    block: Block | nn.Module, sites: Block, spec: CNSNSpec, new_gate: Callable[..., Gate]
) -> Callable[[], None]:
    """What puts the layers into `block`, to be called when nothing else is refused."""
    layout = layout_of(sites)
    image = spec.image is True
    apart = spec.crossnorm and (image or spec.cn_position not in (None, spec.position))
    made: list[tuple[str, CNSN | Restyling]] = []
    if apart and not image and spec.cn_position in sites.sites():
        channels = sites.site_channels()[str(spec.cn_position)]
        made.append((str(spec.cn_position), new_crossnorm(spec, channels, **layout)))
    if spec.position in sites.sites():
        gate = None
        channels = sites.site_channels()[spec.position]
        if spec.selfnorm:
            gate = new_gate(channels, like=like_of(sites.host), **layout)
        here = spec.crossnorm and not apart
        crossnorm = new_crossnorm(spec, channels, **layout) if here else None
        if gate is not None or crossnorm is not None:
            made.append((spec.position, CNSN(crossnorm=crossnorm, selfnorm=gate)))

    def equip() -> None:
        if isinstance(sites, SitedBlock):
            assert isinstance(block, nn.Module)
            block.__class__ = type(sites)
        assert isinstance(block, SitedBlock | ChainUnit)
        for site, layers in made:
            block.put(site, layers.train(block.host.training))

    return equip
