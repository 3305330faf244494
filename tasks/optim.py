"""Optimisers and learning-rate schedules of the recipes, as plain options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["SGDSpec", "Schedule", "build_sgd", "schedule_factor"]

Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class SGDSpec:
    """Stochastic gradient descent with momentum.

    Args:
        lr: learning rate at the start.
        momentum: in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: on every parameter.
        schedule: "cosine" falls to `final_lr` over the run, a little every step; "constant" stays.
        final_lr: where the cosine ends.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    final_lr: float = 1e-6

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"Expected `lr` to be positive, but got {self.lr}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Expected `momentum` to be in [0, 1), but got {self.momentum}.")
        if self.weight_decay < 0:
            raise ValueError(
                f"Expected `weight_decay` to be 0 or more, but got {self.weight_decay}."
            )
        if not 0 <= self.final_lr <= self.lr:
            raise ValueError(
                f"Expected `final_lr` to be from 0 to `lr` ({self.lr}), but got {self.final_lr}."
            )
        if self.schedule not in get_args(Schedule):
            raise ValueError(
                f"Expected `schedule` to be one of {get_args(Schedule)}, but got {self.schedule!r}."
            )


def schedule_factor(spec: SGDSpec, total_steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step, from 0 on."""

    def cosine(step: int) -> float:
        progress = min(step / max(total_steps, 1), 1.0)
        low = spec.final_lr / spec.lr
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))

    return cosine if spec.schedule == "cosine" else lambda step: 1.0


def build_sgd(
    parameters: Iterable[nn.Parameter], spec: SGDSpec, total_steps: int
) -> tuple[Optimizer, LambdaLR]:
    """The optimiser and its schedule, which is stepped after every optimiser step."""
    optimizer = SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov and spec.momentum > 0,
        weight_decay=spec.weight_decay,
    )
    return optimizer, LambdaLR(optimizer, schedule_factor(spec, total_steps))
