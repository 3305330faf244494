"""Blocks of other libraries that the layers fit into: one file a family.

A file's name begins with the library's, such as ``torchvision_resnet``: it is loaded when a network
holds a module of that library, so that no other library is ever imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from torch import nn

from cnsn.sites import SitedBlock

__all__ = ["known_blocks", "plain_type", "register_block", "sited_type"]

_SITED: dict[type[nn.Module], type[SitedBlock]] = {}


def register_block(block_type: type[nn.Module], sited_type: type[SitedBlock]) -> None:
    """Let :func:`cnsn.insert` turn blocks of one type into blocks with sites.

    Args:
        block_type: of the blocks in a built network. Exactly this type: a subclass has a forward
            of its own, which must not be replaced.
        sited_type: a subclass of it and of :class:`cnsn.SitedBlock` without parameters and
            ``__init__`` of its own, whose forward does the same and calls ``self.at(site, x)`` at
            each of its `SITES`.

    Raises:
        ValueError: `sited_type` is no such subclass.
    """
    for base in (block_type, SitedBlock):
        if not issubclass(sited_type, base):
            raise ValueError(
                f"Expected `sited_type` to be a subclass of {base.__name__}, but got "
                f"{sited_type.__name__}."
            )
    _SITED[block_type] = sited_type


def sited_type(module: nn.Module) -> type[SitedBlock] | None:
    """What a block turns into; None where it is of no known type.

    Raises:
        ValueError: it is of a known type, but its forward is not, or may not be.
    """
    _load(type(module).__module__.partition(".")[0])
    sited = _SITED.get(type(module))
    if sited is not None:
        _check(module, sited)
    return sited


def _check(block: nn.Module, sited: type[SitedBlock]) -> None:
    """Refuse a block that does more than what `sited` does in its place."""
    parts, surplus = sited.parts(), ["forward"] if "forward" in vars(block) else []
    if parts is not None:
        surplus += [name for name, _ in block.named_children() if name not in parts]
    if surplus:
        name = f"{type(block).__module__}.{type(block).__name__}"
        raise ValueError(
            f"Expected blocks of type {name} as its library builds them, but one has "
            f"{', '.join(surplus)} of its own, which the layers' place in it does not allow for: "
            "insert them first, or behind whole modules by `at`."
        )


def plain_type(block: nn.Module) -> type[nn.Module] | None:
    """What a block was before it got sites; None where it was written with them."""
    return next((plain for plain, sited in _SITED.items() if type(block) is sited), None)


def known_blocks() -> list[str]:
    """The types that are known so far, by their full names."""
    _load("torchvision")
    return sorted(f"{block.__module__}.{block.__name__}" for block in _SITED)


@cache
def _load(library: str) -> None:
    for _, name, _ in pkgutil.iter_modules(__path__):
        if name.startswith(f"{library}_"):
            importlib.import_module(f"{__name__}.{name}")
