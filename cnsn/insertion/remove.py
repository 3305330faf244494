"""Take the inserted layers out again, for deployment or to insert others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

from torch import nn

from cnsn.backbones import plain_type
from cnsn.insertion.hosts import unhost
from cnsn.insertion.image import exchange_input, restyle_input
from cnsn.insertion.outputs import OutputCNSN
from cnsn.layers import CNSN, Gate, Restyling
from cnsn.sites import SitedBlock, SitedChain

__all__ = ["remove"]

What = Literal["all", "crossnorm"]
Net = TypeVar("Net", bound=nn.Module)


def remove(net: Net, what: What = "all") -> Net:
    """Take what :func:`cnsn.insert` put into `net` out again, in place, and return `net`.

    Args:
        net: any network; one without layers is returned as it is.
        what: "all" gives back the plain network, its classes and keys. "crossnorm" leaves
            SelfNorm, which acts at test time too; what a network computes in eval mode stays, to
            the last bit.

    Raises:
        ValueError: `net` has layers that its own code calls; only that code can do without them.
            The network is then unchanged.
    """
    if what not in get_args(What):
        raise ValueError(f"Expected `what` to be one of {get_args(What)}, but got {what!r}.")
    plans: list[Callable[[], None]] = []
    found: set[nn.Module] = set()
    for module in net.modules():
        for layers, take_out in _inserted(module, what == "all"):
            found.update(layers.modules())
            plans.append(take_out)
    kinds = (Restyling, Gate) if what == "all" else (Restyling,)
    for name, module in net.named_modules():
        if isinstance(module, kinds) and module not in found:
            raise ValueError(
                f"Expected the layers of `net` to be those that `insert` put there, but `{name}` "
                "is called by the network's own code: take it out there."
            )
    for plan in plans:
        plan()
    return net


def _inserted(module: nn.Module, everything: bool) -> list[tuple[nn.Module, Callable[[], None]]]:
    """The inserted layers that `module` holds, each with what takes them out."""
    found: list[tuple[nn.Module, Callable[[], None]]] = []
    members = module._modules
    image = members.get("image_crossnorm")
    if isinstance(image, Restyling):
        found.append((image, lambda: _remove_image(module)))
    layers = members.get("cnsn")
    if isinstance(layers, OutputCNSN):
        found.append((layers, lambda: _remove_output(module, everything)))
    if isinstance(module, SitedBlock) and {module.cnsn_site, module.crossnorm_site} != {None}:
        held = [members[n] for n in ("cnsn", "crossnorm") if n in members]
        found.append((nn.ModuleList(held), lambda: _remove_block(module, everything)))  # type: ignore[arg-type]
    if isinstance(module, SitedChain):
        inside = [m for m in module if type(m) is CNSN or isinstance(m, Restyling)]
        found += [(m, lambda m=m: _remove_member(module, m, everything)) for m in inside]  # type: ignore[misc]
    return found


def _reduce(layers: nn.Module | None, everything: bool) -> bool:
    """Take CrossNorm out of `layers`; whether something is left that is to stay."""
    if everything or not isinstance(layers, CNSN):
        return False
    layers.crossnorm = None
    return layers.selfnorm is not None


def _remove_output(module: nn.Module, everything: bool) -> None:
    if not _reduce(module._modules["cnsn"], everything):
        unhost(module, "cnsn")


def _remove_block(block: SitedBlock, everything: bool) -> None:
    if block.crossnorm_site is not None:
        del block.crossnorm, block.crossnorm_site
    if block.cnsn_site is not None and not _reduce(block.cnsn, everything):
        del block.cnsn, block.cnsn_site
    plain = plain_type(block)
    if plain is not None and block.cnsn_site is None:
        block.__class__ = plain  # type: ignore[assignment]


def _remove_member(chain: SitedChain, member: nn.Module, everything: bool) -> None:
    if not _reduce(member, everything):
        del chain[list(chain).index(member)]


def _remove_image(net: nn.Module) -> None:
    hooks = net._forward_pre_hooks
    for number in [n for n, hook in hooks.items() if hook in (restyle_input, exchange_input)]:
        del hooks[number]
        net._forward_pre_hooks_with_kwargs.pop(number, None)
    vars(net).pop("image_keyword", None)
    unhost(net, "image_crossnorm")
