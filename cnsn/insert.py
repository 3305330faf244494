"""Put CrossNorm and SelfNorm into a built network.

net = insert(torchvision.models.resnet50(weights="DEFAULT"), CNSNSpec(kind="cnsn"))
with crossnorm_active(net, k=1):
    loss = criterion(net(x), y)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from cnsn.backbones import surplus
from cnsn.insertion.active import crossnorm_active, crossnorm_sites
from cnsn.insertion.blocks import choose_blocks, plan_block, sites_of
from cnsn.insertion.hosts import host, is_chain
from cnsn.insertion.image import exchange_input as _exchange_input  # noqa: F401  Pickled networks name it.
from cnsn.insertion.image import plan_image
from cnsn.insertion.making import gates, like_of, new_crossnorm
from cnsn.insertion.outputs import (
    LazyOutputCNSN,
    OutputCNSN,
    known_channels,
    places,
    restyle_output,
)
from cnsn.kinds import layout_of
from cnsn.layers import Gate, Restyling
from cnsn.sites import SitedBlock
from cnsn.spec import CNSNSpec, Kind, Where, check_at

__all__ = ["CNSNSpec", "Kind", "crossnorm_active", "crossnorm_sites", "insert"]

Net = TypeVar("Net", bound=nn.Module)


def insert(net: Net, spec: CNSNSpec, *, at: Where | None = None) -> Net:
    r"""Insert the layers into `net`, in place, and return it.

    Every residual block gets a ``cnsn`` submodule at ``spec.position`` (keys such as
    ``layer1.0.cnsn.selfnorm.g_fc.weight``), and a ``crossnorm`` where CrossNorm sits elsewhere. In
    a chain of layers (AllConv) they become members, and the keys behind them are renumbered: load
    weights first. A block without the site stays as it is. Works on the networks of
    :mod:`cnsn.nets`, on those of torchvision, timm, transformers and segmentation-models-pytorch
    whose blocks :mod:`cnsn.backbones` knows, and on whatever is built from these; docs/networks.md
    lists them. New parameters are created on the device and in the dtype of the block they join.
    Into a trained network, ``CNSNSpec(start="neutral")`` lets it begin nearly as it was.

    In any other network `at` says which modules' outputs get the layers, each module a ``cnsn``
    submodule of its own::

        insert(timm.create_model("resnet18"), spec, at=r"layer[1-4]\.\d+$")
        insert(net, spec, at=["stem$", r"blocks\.\d+$"])
        insert(net, spec, at=lambda name, module: isinstance(module, MyBlock))

    A pattern is searched in the names of ``net.named_modules()``. It may not match a module and
    another inside it (anchor it by ``^`` and ``$``); different patterns, and a predicate, may. A
    module that several names share gets one ``cnsn``. `at` comes before ``spec.at``.

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
        new_gate = gates(spec, len(named))
        plans += [_plan_output(net, name, module, spec, new_gate) for name, module in named]
    elif spec.selfnorm or spec.image is not True:
        blocks = choose_blocks(net, spec)
        new_gate = gates(spec, sum(spec.position in sites.sites() for _, sites in blocks))
        plans += [plan_block(block, sites, spec, new_gate) for block, sites in blocks]
    if spec.crossnorm and spec.image:
        plans.append(plan_image(net, spec))
    for plan in plans:
        plan()
    return net


def _check_free(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"Expected `net` to be Python's, but {type(net).__name__} holds TorchScript, which "
                "nothing can be put into."
            )
        if isinstance(module, Restyling | Gate):
            raise ValueError(
                f"Expected `net` to be without CrossNorm and SelfNorm, but {type(net).__name__} "
                "has them already: insert once, or take them out by cnsn.remove."
            )


def _plan_output(
    net: nn.Module, name: str, module: nn.Module, spec: CNSNSpec, new_gate: Callable[..., Gate]
) -> Callable[[], None]:
    """What puts the layers on the output of `module`."""
    sites = sites_of(net, module)
    # The last site of a residual block is its output.
    last = "" if sites is None or surplus(module) else sites.sites()[-1]
    family = isinstance(sites, SitedBlock) and last in ("post", "out")
    layout = layout_of(sites if family else spec)
    apart = not spec.crossnorm or spec.image is True
    options: dict[str, Any] = {
        "place": name,
        "crossnorm": None if apart else new_crossnorm(spec, **layout),
    }
    layers: OutputCNSN
    if spec.selfnorm:
        build = partial(new_gate, like=like_of(module) or like_of(net), **layout)
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
