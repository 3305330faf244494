"""The layers on the outputs of modules that the user names, in any network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.lazy import LazyModuleMixin

from cnsn.insertion.hosts import is_chain
from cnsn.insertion.lazy import LazyCNSN
from cnsn.layers import CNSN
from cnsn.spec import Where

__all__ = [
    "LazyOutputCNSN",
    "OutputCNSN",
    "example_pattern",
    "known_channels",
    "places",
    "restyle_output",
]


class OutputCNSN(CNSN):
    """CNSN on what a module returns.

    Args:
        place: the module's name, for errors.
    """

    def __init__(self, *, place: str, **layers: Any) -> None:
        super().__init__(**layers)
        self.place = place

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.check(x)
        return super().forward(x, mask)

    def check(self, x: Any) -> None:
        """Raise ValueError for what is no map."""
        if isinstance(x, Proxy):
            return
        if not isinstance(x, Tensor):
            got = f"a {type(x).__name__}"
        elif x.ndim < 3 or not x.is_floating_point():
            got = f"{tuple(x.shape)} of {x.dtype}"
        else:
            return
        raise ValueError(
            f"Expected the output of `{self.place}`, which `at` names, to be a map such as "
            f"(B, C, H, W), but it returns {got}: name another module."
        )


class LazyOutputCNSN(LazyCNSN, OutputCNSN):
    """The same until the first forward, which tells the number of channels."""

    cls_to_become = OutputCNSN

    def initialize_parameters(self, x: Tensor, mask: Tensor | None = None) -> None:
        self.check(x)
        super().initialize_parameters(x, mask)


def restyle_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    """The hook; it gets the module from the caller, so that copies have their own layers."""
    layers = module._modules.get("cnsn")
    if layers is None:
        raise ValueError(
            f"Expected {type(module).__name__} to hold the layers that were inserted at the module "
            "whose place it took: replace modules (to quantise them, say) before `insert`, or keep "
            "this one out."
        )
    return layers(output)


def places(net: nn.Module, at: Where) -> list[tuple[str, nn.Module]]:
    """The modules that `at` names, each once, in order.

    Raises:
        ValueError: a pattern matches nothing, or a module and something in it; a module that is
            never called.
    """
    named = list(net.named_modules(remove_duplicate=False))
    if callable(at):
        found = [(name, module) for name, module in named if at(name, module)]
        if not found:
            raise ValueError(
                f"Expected `at` to choose modules of {type(net).__name__}, but it chose none."
            )
    else:
        found = []
        for pattern in [at] if isinstance(at, str) else at:
            own = [(name, module) for name, module in named if re.search(pattern, name)]
            _check_matches(net, pattern, [name for name, _ in own])
            found += own
    once = {id(module): (name, module) for name, module in reversed(found)}
    for name, module in once.values():
        if type(module).forward is nn.Module.forward or isinstance(module, nn.ParameterList):
            raise ValueError(
                f"Expected `at` to name modules that are called, but `{name}` is a "
                f"{type(module).__name__}, which has no forward: name what is in it."
            )
    return [once[id(module)] for module in net.modules() if id(module) in once]


def _check_matches(net: nn.Module, pattern: str, names: list[str]) -> None:
    if not names:
        raise ValueError(
            f"Expected `at` to match the name of a module of {type(net).__name__}, but {pattern!r} "
            f"matches none. {_near(net, pattern)}"
        )
    inside = [(outer, name) for outer in names for name in names if _holds(outer, name)]
    if inside:
        outer, inner = inside[0]
        raise ValueError(
            f"Expected the pattern {pattern!r} of `at` to match no module within another, but it "
            f"matches `{outer}` and `{inner}`: anchor it by ^ and $, or give two patterns "
            "to have layers at both."
        )


def _holds(outer: str, inner: str) -> bool:
    return inner != outer and (not outer or inner.startswith(f"{outer}."))


def _near(net: nn.Module, pattern: str) -> str:
    names = [name for name, _ in net.named_modules() if name]
    plain = re.sub(r"\\(.)|[$^]", r"\1", pattern)
    near = get_close_matches(plain, names, n=4, cutoff=0.5)
    example = example_pattern(net)
    tips = [f"Near it are {', '.join(near)}." if near else ""]
    tips += [f"A pattern that matches is r'{example}'." if example else ""]
    return " ".join(tip for tip in tips if tip) or "It has no submodules."


def example_pattern(net: nn.Module) -> str | None:
    """A pattern for modules of `net` that repeat and hold convolutions, or any parameter."""
    groups: dict[str, list[nn.Module]] = {}
    for name, module in net.named_modules():
        if name and type(module).forward is not nn.Module.forward:
            groups.setdefault(re.sub(r"\d+", r"\\d+", name.replace(".", r"\.")), []).append(module)
    # Blocks are what repeats, with convolutions in it, and lies deepest but for single layers.
    for wanted in (_convolutional, _learnt):
        repeated = [
            pattern
            for pattern, modules in groups.items()
            if len(modules) > 1 and sum(map(wanted, modules)) > 1
        ]
        if repeated:
            return min(repeated, key=lambda pattern: (pattern.count("."), pattern)) + "$"
    return None


def _convolutional(module: nn.Module) -> bool:
    inner = list(module.modules())
    return len(inner) > 1 and any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in inner)


def _learnt(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def known_channels(module: nn.Module, channel_dim: int) -> int | None:
    """Channels of what `module` returns, where its type tells; None elsewhere."""
    if isinstance(module, LazyModuleMixin):
        return None
    if is_chain(module):
        changing = [member for member in module.children() if not _keeps(member)]
        return known_channels(changing[-1], channel_dim) if changing else None
    if channel_dim == -1:
        last = isinstance(module, nn.LayerNorm) and module.normalized_shape[-1]
        return module.out_features if isinstance(module, nn.Linear) else last or None
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.num_features
    return module.num_channels if isinstance(module, nn.GroupNorm) else None


def _keeps(module: nn.Module) -> bool:
    """Whether what `module` returns has the channels of what it gets."""
    kinds: Sequence[Any] = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU)
    return isinstance(module, (*kinds, nn.Identity, nn.modules.dropout._DropoutNd))
