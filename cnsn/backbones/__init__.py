"""Blocks of other libraries that the layers fit into: a folder a library, a file a family.

A folder (or file) bears its library's name and is loaded when a network holds a module of it, so
that no other library is ever imported.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from functools import cache

from torch import nn

from cnsn.sites import SitedBlock

__all__ = ["LIBRARIES", "plain_type", "register_block", "sited_type", "surplus"]

LIBRARIES = tuple(
    found.name for found in pkgutil.iter_modules(__path__) if found.name != "residual"
)

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
    """What a block turns into; None where it is of no known type."""
    _load(type(module).__module__.partition(".")[0])
    return _SITED.get(type(module))


def surplus(block: nn.Module) -> list[str]:
    """What a block has of its own, which the forward that its type turns into does not know."""
    sited = sited_type(block)
    parts = None if sited is None else sited.parts()
    if parts is None:
        return []
    own = [name for name, _ in block.named_children() if name not in parts]
    return own + (["forward"] if "forward" in vars(block) else [])


def plain_type(block: nn.Module) -> type[nn.Module] | None:
    """What a block was before it got sites; None where it was written with them."""
    return next((plain for plain, sited in _SITED.items() if type(block) is sited), None)


@cache
def _load(library: str) -> None:
    if library not in LIBRARIES:
        return
    package = importlib.import_module(f"{__name__}.{library}")
    for found in pkgutil.iter_modules(getattr(package, "__path__", []), f"{package.__name__}."):
        try:
            importlib.import_module(found.name)
        except (ImportError, AttributeError) as error:
            # An older or newer version; its other families still are what they were.
            warnings.warn(
                f"The blocks of {found.name} stay unknown, since the installed {library} differs: "
                f"{error}.",
                stacklevel=2,
            )
