"""What can be inserted: a row for each layer.

A further layer is a file in cnsn/layers/, with a class on one of the two bases there, and a row
here; :class:`cnsn.CNSNSpec` then takes its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from cnsn.layers import (
    DSU,
    ECA,
    NP,
    SE,
    SNR,
    SRM,
    CovarianceExchange,
    CrossNorm,
    EFDMix,
    Gate,
    MixStyle,
    MomentExchange,
    NPPlus,
    PAdaIN,
    Restyling,
    SelfNorm,
    StyleSE,
)

__all__ = ["GATES", "RESTYLINGS", "Insertable", "choose", "layout_of"]

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class Insertable(Generic[Layer]):
    """One layer.

    Args:
        layer: its class.
        options: the fields of :class:`cnsn.CNSNSpec` that it takes, as keywords of their names;
            None leaves one to the layer.
    """

    layer: type[Layer]
    options: tuple[str, ...] = ()

    def build(self, spec: Any, *args: Any, **layout: Any) -> Layer:
        """A new layer with the options of `spec`, for maps of a layout; see :func:`layout_of`."""
        options = {name: getattr(spec, name) for name in self.options}
        given = {name: value for name, value in options.items() if value is not None}
        return self.layer(*args, **given, **layout)


# What acts while training, when it is switched on.
RESTYLINGS: dict[str, Insertable[Restyling]] = {
    "crossnorm": Insertable(CrossNorm, ("crop", "beta", "min_area", "mode")),
    "mixstyle": Insertable(MixStyle, ("alpha", "detach")),
    "efdmix": Insertable(EFDMix, ("alpha",)),
    "dsu": Insertable(DSU, ("factor", "detach")),
    "padain": Insertable(PAdaIN, ("detach",)),
    "moments": Insertable(MomentExchange, ("orders", "detach")),
    "np": Insertable(NP, ("spread", "detach")),
    "np_plus": Insertable(NPPlus, ("spread", "detach")),
    "covariance": Insertable(CovarianceExchange),
}
# What always acts; the class takes the number of channels first.
GATES: dict[str, Insertable[Gate]] = {
    "selfnorm": Insertable(SelfNorm, ("two_sided",)),
    "srm": Insertable(SRM),
    "se": Insertable(SE, ("reduction",)),
    "style_se": Insertable(StyleSE, ("reduction",)),
    "eca": Insertable(ECA),
    "snr": Insertable(SNR, ("reduction",)),
}


def layout_of(place: Any) -> dict[str, int]:
    """How the maps at `place`, a block or a spec, lie in memory, where it is not (B, C, ...)."""
    usual = {"channel_dim": 1, "prefix_tokens": 0}
    found = {name: getattr(place, name, value) for name, value in usual.items()}
    return {name: value for name, value in found.items() if value != usual[name]}


def choose(table: dict[str, Insertable[Layer]], field: str, name: str) -> Insertable[Layer]:
    """The row of `table` that the option `field` names.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in table:
        raise ValueError(f"Expected `{field}` to be one of {tuple(table)}, but got {name!r}.")
    return table[name]
