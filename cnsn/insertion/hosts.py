"""Modules of any class that hold inserted layers, reached by a hook.

The layers are an ordinary submodule, and the hook is a function of a module that finds them there:
so deepcopy, pickle, compiled and exported graphs have them, and what looks for hooks before it
takes a shortcut (the fast path of torch's transformer layers) sees one. A container that calls its
members one by one must not call the layers as well; it becomes a subclass that leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["host", "is_chain", "unhost"]

NAMES = ("cnsn", "image_crossnorm")


def is_chain(module: nn.Module) -> bool:
    """Whether the output of `module` is that of its last member."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def host(
    module: nn.Module, name: str, layers: nn.Module, handle: RemovableHandle | None = None
) -> None:
    """Make `layers` a submodule of `module`, which finds them by the hook of `handle`."""
    if handle is not None and isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        plain: Any = type(module)
        module.__class__ = _hiding(plain)
    module.add_module(name, layers)
    if handle is not None:
        # A handle that is pickled keeps its number from being given to another hook.
        setattr(module, f"{name}_handle", handle)


def unhost(module: nn.Module, name: str) -> None:
    """Undo :func:`host`."""
    handle = vars(module).pop(f"{name}_handle", None)
    if handle is not None:
        handle.remove()
    del module._modules[name]
    if isinstance(module, _Hiding) and not set(NAMES) & set(module._modules):
        module.__class__ = type(module).plain  # type: ignore[assignment]


class _Hiding:
    plain: type[nn.Module]

    def _others(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = self._modules  # type: ignore[attr-defined]
        return {name: module for name, module in modules.items() if name not in NAMES}

    def __len__(self) -> int:
        return len(self._others())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._others().values())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = super().__reduce_ex__(protocol)
        return (_new, (self.plain,), *reduced[2:])


class _HidingDict(_Hiding):
    def __iter__(self) -> Iterator[Any]:
        return iter(self._others())

    def keys(self) -> Any:
        return self._others().keys()

    def items(self) -> Any:
        return self._others().items()

    def values(self) -> Any:
        return self._others().values()


@cache
def _hiding(plain: Any) -> Any:
    """`plain` whose members do not show the inserted layers."""
    if issubclass(plain, _Hiding):
        return plain
    mixin = _HidingDict if issubclass(plain, nn.ModuleDict) else _Hiding
    attributes = {"plain": plain, "__module__": plain.__module__, "__doc__": plain.__doc__}
    return type(plain.__name__, (mixin, plain), attributes)


def _new(plain: Any) -> nn.Module:
    found = _hiding(plain)
    made: nn.Module = found.__new__(found)
    return made
