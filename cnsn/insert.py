"""Put CrossNorm and SelfNorm into a built network.

net = insert(torchvision.models.resnet50(weights="DEFAULT"), CNSNSpec(kind="cnsn"))
with crossnorm_active(net, k=1):
    loss = criterion(net(x), y)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import nn

from cnsn.active import crossnorm_active, crossnorm_sites
from cnsn.backbones import known_blocks, sited_type
from cnsn.hosts import host, is_chain
from cnsn.image import exchange_input as _exchange_input  # noqa: F401  Pickled networks name it.
from cnsn.image import plan_image
from cnsn.kinds import GATES, RESTYLINGS, layout_of
from cnsn.layers import CNSN, Gate, Restyling
from cnsn.outputs import (
    LazyOutputCNSN,
    OutputCNSN,
    example_pattern,
    known_channels,
    places,
    restyle_output,
)
from cnsn.sites import ChainUnit, SitedBlock, SitedChain
from cnsn.spec import CNSNSpec, Kind, Where, check_at

__all__ = ["CNSNSpec", "Kind", "crossnorm_active", "crossnorm_sites", "insert"]

Block = SitedBlock | ChainUnit
Like = dict[str, Any]
Net = TypeVar("Net", bound=nn.Module)
# How far all SelfNorms together move a network's outputs at most, when its start is neutral.
MOVED = 0.04


def insert(net: Net, spec: CNSNSpec, *, at: Where | None = None) -> Net:
    r"""Insert the layers into `net`, in place, and return it.

    Every residual block gets a ``cnsn`` submodule at ``spec.position`` (keys such as
    ``layer1.0.cnsn.selfnorm.g_fc.weight``), and a ``crossnorm`` where CrossNorm sits elsewhere. In
    a chain of layers (AllConv) they become members, and the keys behind them are renumbered: load
    weights first. A block without the site stays as it is. Works on the networks of
    :mod:`cnsn.nets`, on torchvision's ResNet, ResNeXt and Wide ResNet, and on whatever is built
    from their blocks (``fcn_resnet50``, segmentation encoders). New parameters are created on the
    device and in the dtype of the block they join.

    In any other network `at` says which modules' outputs get the layers, each module a ``cnsn``
    submodule of its own::

        insert(timm.create_model("resnet18"), spec, at=r"layer[1-4]\.\d+$")
        insert(net, spec, at=["stem$", r"blocks\.\d+$"])
        insert(net, spec, at=lambda name, module: isinstance(module, MyBlock))

    A pattern is searched in the names of ``net.named_modules()``. It may not match a module and
    another inside it (end it with ``$``); different patterns, and a predicate, may. A module that
    several names share gets one ``cnsn``. `at` comes before ``spec.at``.

    A convolution's channels are known; elsewhere the first forward tells them, as in torch's lazy
    modules, and their rule holds: run one forward on the network's device, say ``net.eval()(x)``
    without gradients, before anything that asks for shapes (DistributedDataParallel, FSDP,
    counting, an optimizer that groups parameters by their dimensions). An optimizer that merely
    holds the parameters may be made before.

    Raises:
        ValueError: no known block, layers inserted before, a position or stage that the network
            does not have, a pattern that matches no module. The network is then unchanged.
    """
    if spec.kind == "none":
        return net
    at = spec.at if at is None else at
    _check_free(net)
    plans: list[Callable[[], None]] = []
    if at is not None:
        check_at(spec, at)
        named = places(net, at)
        new_gate = _gates(spec, len(named))
        plans += [_plan_output(net, name, module, spec, new_gate) for name, module in named]
    elif spec.selfnorm or not spec.image:
        blocks = _choose_blocks(net, spec)
        new_gate = _gates(spec, sum(spec.position in sites.sites() for _, sites in blocks))
        plans += [_plan_block(block, sites, spec, new_gate) for block, sites in blocks]
    if spec.crossnorm and spec.image:
        plans.append(plan_image(net, spec))
    for plan in plans:
        plan()
    return net


def _gates(spec: CNSNSpec, count: int) -> Callable[..., Gate]:
    """What makes the `count` gates of one insertion."""
    moved = 1 - (1 - MOVED) ** (1 / max(count, 1)) if spec.start == "neutral" else None
    return partial(_new_gate, spec=spec, moved=moved)


def _new_gate(
    channels: int, *, spec: CNSNSpec, moved: float | None, like: Like, **layout: int
) -> Gate:
    gate = GATES[spec.gate].build(spec, channels, **layout)
    if moved is not None:
        gate.open(moved)
    return gate.to(**like)


def _like(module: nn.Module) -> Like:
    """Device and dtype of the parameters of `module`."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return {"device": parameter.device, "dtype": parameter.dtype}
    return {}


def _new_crossnorm(spec: CNSNSpec, **layout: int) -> Restyling:
    return RESTYLINGS[spec.restyle].build(spec, **layout)


def _check_free(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, Restyling | Gate):
            raise ValueError(
                f"Expected `net` to be without CrossNorm and SelfNorm, but {type(net).__name__} "
                "has them already: insert once, or take them out by cnsn.remove."
            )


def _sites_of(net: nn.Module, block: Block | nn.Module) -> Block | None:
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


def _choose_blocks(net: nn.Module, spec: CNSNSpec) -> list[tuple[Block | nn.Module, Block]]:
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
        elif (sites := _sites_of(net, module)) is not None:
            found = [(module, sites, (name.rpartition(".")[0], 0))]
        for block, own, place in found:
            blocks.append((block, own))
            if place not in numbers or (isinstance(own, SitedBlock) and own.starts_stage()):
                count += 1
                numbers[place] = count
            stages.append(numbers[place])
    _check_blocks(net, [sites for _, sites in blocks], spec)
    if spec.stages is None:
        return blocks
    last = max(stages, default=0)
    if max(spec.stages) > last:
        raise ValueError(f"Expected `stages` to be from 1 to {last}, but got {spec.stages}.")
    return [block for block, stage in zip(blocks, stages, strict=True) if stage in spec.stages]


def _check_blocks(net: nn.Module, blocks: list[Block], spec: CNSNSpec) -> None:
    if not blocks:
        example = example_pattern(net)
        raise ValueError(
            f"Expected `net` to hold blocks that the layers fit into, but {type(net).__name__} has "
            f"none. Known are the networks of cnsn.nets and {', '.join(known_blocks())}; in other "
            "networks name the modules whose outputs get the layers, by `at`"
            f"{f', such as insert(net, spec, at=r{example!r})' if example else ''}."
        )
    sites = sorted({site for block in blocks for site in block.sites()})
    # Where CrossNorm alone sits elsewhere, nothing sits at `position`, whatever its default says.
    unused = not spec.selfnorm and (spec.image or spec.cn_position is not None)
    for position in (None if unused else spec.position, spec.cn_position):
        if position is not None and position not in sites:
            types = sorted({type(block).__name__ for block in blocks})
            raise ValueError(
                f"Expected the position to be one of {sites}, the sites of {', '.join(types)}, "
                f"but got {position!r}."
            )


def _plan_block(
    block: Block | nn.Module, sites: Block, spec: CNSNSpec, new_gate: Callable[..., Gate]
) -> Callable[[], None]:
    """What puts the layers into `block`, to be called when nothing else is refused."""
    layout = layout_of(sites)
    apart = spec.crossnorm and (spec.image or spec.cn_position not in (None, spec.position))
    made: list[tuple[str, CNSN | Restyling]] = []
    if apart and not spec.image and spec.cn_position in sites.sites():
        made.append((str(spec.cn_position), _new_crossnorm(spec, **layout)))
    if spec.position in sites.sites():
        gate = None
        if spec.selfnorm:
            channels = sites.site_channels()[spec.position]
            gate = new_gate(channels, like=_like(sites.host), **layout)
        crossnorm = _new_crossnorm(spec, **layout) if spec.crossnorm and not apart else None
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


def _plan_output(
    net: nn.Module, name: str, module: nn.Module, spec: CNSNSpec, new_gate: Callable[..., Gate]
) -> Callable[[], None]:
    """What puts the layers on the output of `module`."""
    sites = _sites_of(net, module)
    # The last site of a residual block is its output.
    last = sites.sites()[-1] if isinstance(sites, SitedBlock) else ""
    family = last in ("post", "out")
    layout = layout_of(sites if family else spec)
    apart = not spec.crossnorm or spec.image
    options = {"place": name, "crossnorm": None if apart else _new_crossnorm(spec, **layout)}
    layers: OutputCNSN
    if spec.selfnorm:
        build = partial(new_gate, like=_like(module) or _like(net), **layout)
        dim = layout.get("channel_dim", 1)
        assert sites is not None or not family
        channels = sites.site_channels()[last] if family else known_channels(module, dim)  # type: ignore[union-attr]
        if channels is None:
            layers = LazyOutputCNSN(build=build, channel_dim=dim, **options)
        else:
            layers = OutputCNSN(selfnorm=build(channels), **options)
    else:
        layers = OutputCNSN(**options)
    layers.train(module.training)

    def equip() -> None:
        # The last member of a chain gets the chain's output by itself.
        chain = is_chain(module)
        host(
            module, "cnsn", layers, None if chain else module.register_forward_hook(restyle_output)
        )

    return equip
