"""Optimisers and learning-rate schedules of the recipes, as plain options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = [
    "Algorithm",
    "OptimizerSpec",
    "Schedule",
    "build_optimizer",
    "decay_groups",
    "schedule_factor",
]

Algorithm = Literal["sgd", "adam"]
Schedule = Literal["cosine", "constant", "poly", "steps", "cosine_7_16"]


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimiser and its schedule, which moves a little every step.

    Args:
        algorithm: "sgd", with momentum, or "adam".
        lr: learning rate at the start.
        momentum: of SGD, in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: added to the gradient as an L2 penalty.
        decay_norm_and_bias: whether normalisation parameters and biases decay too.
        head_lr_factor: on the learning rate of the parameters that the task calls its heads.
        schedule: "cosine" falls to `final_lr` over the run; "cosine_7_16" is
            cos(7 pi step / (16 steps)), as in Sohn et al. 2020; "poly" is
            (1 - step / steps) ** `power`; "steps" divides by 10 at every milestone; "constant"
            stays.
        final_lr: where "cosine" ends.
        power: of "poly".
        milestones: of "steps", as fractions of the run in (0, 1), rising.
        fused: update all parameters in one kernel, which rounds a little differently; None does so
            on a GPU, and with "adam" also on the CPU.
    """

    algorithm: Algorithm = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    head_lr_factor: float = 1.0
    schedule: Schedule = "cosine"
    final_lr: float = 1e-6
    power: float = 0.9
    milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    fused: bool | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("algorithm", self.algorithm, get_args(Algorithm)),
            ("schedule", self.schedule, get_args(Schedule)),
        ):
            if value not in choices:
                raise ValueError(f"Expected `{name}` to be one of {choices}, but got {value!r}.")
        for name in ("lr", "head_lr_factor", "power"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"Expected `{name}` to be positive, but got {getattr(self, name)}."
                )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected `momentum` to be in [0, 1), but got {self.momentum}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                f"Expected `weight_decay` to be 0 or more, but got {self.weight_decay}."
            )
        if not 0 <= self.final_lr <= self.lr:
            raise ValueError(
                f"Expected `final_lr` to be from 0 to `lr` ({self.lr}), but got {self.final_lr}."
            )
        rising = list(self.milestones) == sorted(set(self.milestones))
        if not rising or any(not 0 < m < 1 for m in self.milestones):
            raise ValueError(
                "Expected `milestones` to be rising fractions of the run, in (0, 1), but got "
                f"{self.milestones}."
            )


def schedule_factor(spec: OptimizerSpec, total_steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step, from 0 on."""

    def factor(step: int) -> float:
        progress = min(step / max(total_steps, 1), 1.0)
        if spec.schedule == "cosine":
            low = spec.final_lr / spec.lr
            return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
        if spec.schedule == "cosine_7_16":
            return math.cos(7 * math.pi * progress / 16)
        if spec.schedule == "poly":
            return (1 - progress) ** spec.power
        if spec.schedule == "steps":
            return 0.1 ** sum(progress >= milestone for milestone in spec.milestones)
        return 1.0

    return factor


def decay_groups(net: nn.Module, spec: OptimizerSpec) -> list[dict[str, Any]]:
    """The parameters of `net` that are trained, parted where not all of them decay.

    Without `decay_norm_and_bias`, vectors (biases, and scale and shift of normalisations) and
    SelfNorm's gates have no weight decay.
    """
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    if spec.decay_norm_and_bias:
        return [{"params": [p for _, p in trained]}]
    gates = ("g_fc.weight", "f_fc.weight")
    free = {name for name, p in trained if p.ndim < 2 or name.endswith(gates)}
    decaying: dict[str, Any] = {"params": [p for name, p in trained if name not in free]}
    others: dict[str, Any] = {
        "params": [p for name, p in trained if name in free],
        "weight_decay": 0.0,
    }
    return [group for group in (decaying, others) if group["params"]]


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Sequence[dict[str, Any]],
    spec: OptimizerSpec,
    total_steps: int,
) -> tuple[Optimizer, LambdaLR]:
    """The optimiser and its schedule, which is stepped after every optimiser step.

    Args:
        parameters: parameters, or groups of them with options of their own.
        spec: what was asked for.
        total_steps: optimiser steps of the whole run.
    """
    groups: list[Any] = list(parameters)
    fused = _fused(groups, spec)
    optimizer: Optimizer
    if spec.algorithm == "adam":
        optimizer = Adam(groups, lr=spec.lr, weight_decay=spec.weight_decay, fused=fused)
    else:
        optimizer = SGD(
            groups,
            lr=spec.lr,
            momentum=spec.momentum,
            nesterov=spec.nesterov and spec.momentum > 0,
            weight_decay=spec.weight_decay,
            fused=fused,
        )
    return optimizer, LambdaLR(optimizer, schedule_factor(spec, total_steps))


def _fused(groups: list[Any], spec: OptimizerSpec) -> bool | None:
    """Whether the optimiser is to be fused; None leaves its form to torch."""
    if spec.fused is not None or not groups:
        return spec.fused
    first = groups[0]["params"][0] if isinstance(groups[0], dict) else groups[0]
    # On the CPU, Adam's one pass over large tables of word vectors is what makes it bearable.
    devices = ("cuda", "cpu") if spec.algorithm == "adam" else ("cuda",)
    return True if first.device.type in devices else None
