"""What goes into a network, and where: the options of :func:`cnsn.insert`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from torch import nn

from cnsn.kinds import GATES, RESTYLINGS, Insertable, choose
from cnsn.layers import Crop, Mode
from cnsn.layers.squeeze import check_reduction

__all__ = ["CNSNSpec", "Kind", "Start", "Where", "check_at"]

Blocks = Literal["all", "last"]
Kind = Literal["none", "cn", "sn", "cnsn"]
Start = Literal["auto", "released", "neutral"]
Where = str | Sequence[str] | Callable[[str, nn.Module], bool]


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
        blocks: "last" is the last block of each stage, "all" every one.
        two_sided: see :class:`cnsn.SelfNorm`.
        image: CrossNorm acts on the input of the network's call, the image, and nowhere else;
            "also" is there and in the network.
        restyle: which layer stands for CrossNorm, of :data:`cnsn.kinds.RESTYLINGS`.
        gate: which layer stands for SelfNorm, of :data:`cnsn.kinds.GATES`.
        mode: see :class:`cnsn.CrossNorm`.
        at: regular expressions, one or several, for the names of the modules whose outputs get the
            layers, in any network; `position` is then not used. See :func:`cnsn.insert`.
        channel_dim: of the outputs that `at` names: 1 for (B, C, ...), -1 for channels-last maps
            (B, H, W, C) and tokens (B, N, C). Blocks of a known family have their own.
        prefix_tokens: how many first tokens of the outputs that `at` names are no part of the map,
            such as a class token.
        start: "neutral" opens SelfNorm's gates, so that a pretrained network begins as what it
            was: its outputs move by about 5 % at most, taken over all layers. "released" begins
            with the released code's gates, near one half. "auto" is "released", but where a task
            loads pretrained weights by name or file it is "neutral".
        alpha: of MixStyle and EFDMix; None, as below, leaves it to the layer.
        detach: whether statistics are constants to the gradient (of PAdaIN: the style's); not of
            CrossNorm, EFDMix and CovarianceExchange.
        factor: of DSU.
        spread: of NP and NPPlus.
        orders: of MomentExchange.
        reduction: of SE, StyleSE and SNR.
    """

    kind: Kind = "none"
    position: str = "post"
    cn_position: str | None = None
    crop: Crop = "neither"
    beta: float = 1.0
    min_area: float = 0.1
    stages: tuple[int, ...] | None = None
    two_sided: bool = False
    image: bool | Literal["also"] = False
    restyle: str = "crossnorm"
    gate: str = "selfnorm"
    mode: Mode = "2-instance"
    at: str | tuple[str, ...] | None = None
    channel_dim: int = 1
    prefix_tokens: int = 0
    start: Start = "auto"
    alpha: float | None = None
    detach: bool | None = None
    factor: float | None = None
    spread: float | None = None
    orders: tuple[str, ...] | None = None
    reduction: int | None = None
    blocks: Blocks = "all"

    def __post_init__(self) -> None:
        for field, choices in (("kind", Kind), ("start", Start), ("blocks", Blocks)):
            value = getattr(self, field)
            if value not in get_args(choices):
                raise ValueError(
                    f"Expected `{field}` to be one of {get_args(choices)}, but got {value!r}."
                )
        check_options(self, "restyle", RESTYLINGS, self.crossnorm, "cn")
        check_options(self, "gate", GATES, self.selfnorm, "sn")
        RESTYLINGS[self.restyle].build(self)
        if self.reduction is not None:
            check_reduction(self.reduction)
        if self.stages is not None and (not self.stages or min(self.stages) < 1):
            raise ValueError(
                f"Expected `stages` to hold numbers from 1, or to be None, but got {self.stages}."
            )
        if self.image not in (True, False, "also"):
            raise ValueError(
                f"Expected `image` to be true, false or 'also', but got {self.image!r}."
            )
        if self.cn_position is not None and self.image is True:
            raise ValueError(
                "Expected `cn_position` to be None when `image` is set, but got "
                f"{self.cn_position!r}: CrossNorm sits in one place."
            )
        if self.channel_dim not in (1, -1):
            raise ValueError(f"Expected `channel_dim` to be 1 or -1, but got {self.channel_dim}.")
        if self.prefix_tokens < 0 or (self.prefix_tokens and self.channel_dim == 1):
            raise ValueError(
                "Expected `prefix_tokens` to be at least 0, and above it only with `channel_dim` "
                f"-1, but got {self.prefix_tokens}."
            )
        if self.at is not None:
            check_at(self, self.at)

    @property
    def crossnorm(self) -> bool:
        """Whether there is a CrossNorm."""
        return self.kind in ("cn", "cnsn")

    @property
    def selfnorm(self) -> bool:
        """Whether there is a SelfNorm."""
        return self.kind in ("sn", "cnsn")


def check_options(
    spec: CNSNSpec, field: str, table: dict[str, Insertable[Any]], used: bool, kind: str
) -> None:
    """Raise ValueError for a layer that is unknown or not used, and options that it ignores."""
    defaults = {f.name: f.default for f in fields(spec)}
    name = getattr(spec, field)
    row = choose(table, field, name)
    if not used and name != defaults[field]:
        raise ValueError(
            f"Expected `kind` to be {kind} or cnsn for `{field}` {name!r}, but got {spec.kind!r}."
        )
    others = {option for other in table.values() for option in other.options} - set(row.options)
    for option in sorted(others):
        value = getattr(spec, option)
        if value != defaults[option]:
            raise ValueError(
                f"Expected `{option}` to be left out, but got {value!r}: {name} reads "
                f"{', '.join(row.options) or 'no option'}."
            )


def check_at(spec: CNSNSpec, at: Where) -> None:
    """Raise ValueError for patterns that are none, and for options that contradict `at`."""
    for field in ("cn_position", "stages", "blocks"):
        if getattr(spec, field) not in (None, "all"):
            raise ValueError(
                f"Expected `{field}` to be left out when `at` says where the layers go, but got "
                f"{getattr(spec, field)!r}."
            )
    if spec.image is True and spec.kind == "cn":
        raise ValueError(
            "Expected `at` to be None when CrossNorm alone is inserted and `image` is set, but got "
            f"{at!r}: CrossNorm sits in one place."
        )
    if callable(at):
        return
    patterns = [at] if isinstance(at, str) else list(at)
    if not patterns:
        raise ValueError("Expected `at` to hold a pattern, or to be None, but got none.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"Expected `at` to be a regular expression, but got {pattern!r}: {error}."
            ) from None
