"""Domain-adversarial training (DANN): features from which no one can tell the domain.

    loss = CE(source) + weight * BCE(discriminator(reversed(features)), is source)

The reversal is the identity forwards and turns the gradient by the factor -strength, so that the
discriminator learns to tell the domains and the network to prevent it. Source: Ganin et al. 2016,
"Domain-Adversarial Training of Neural Networks", https://arxiv.org/abs/1505.07818
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AdversarySpec", "DomainDiscriminator", "captured_features", "classifier_of"]


@dataclass(frozen=True)
class AdversarySpec:
    """Whether and how a discriminator of domains acts.

    Args:
        weight: of its loss; 0 is none at all.
        hidden: width of its two hidden layers.
        steepness: the reversal's strength grows with the progress p from 0 to 1 of the run as
            2 / (1 + exp(-steepness p)) - 1.
    """

    weight: float = 0.0
    hidden: int = 1024
    steepness: float = 10.0

    def __post_init__(self) -> None:
        for name in ("weight", "steepness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"Expected `{name}` to be 0 or more, but got {getattr(self, name)}."
                )
        if self.hidden < 1:
            raise ValueError(f"Expected `hidden` to be at least 1, but got {self.hidden}.")

    def strength(self, progress: float) -> float:
        """Of the reversal, at a progress from 0 to 1."""
        return 2 / (1 + math.exp(-self.steepness * progress)) - 1


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


class DomainDiscriminator(nn.Module):
    """Three linear layers that tell source features from target features."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, features: Tensor, strength: float) -> Tensor:
        """Logits (B,) that (B, features) are of the source; gradients leave it reversed."""
        return self.layers(_Reversal.apply(features, strength)).squeeze(1)

    def loss(self, features: Tensor, sources: int, strength: float) -> tuple[Tensor, Tensor]:
        """Mean over both domains of the cross-entropy, and the accuracy.

        Args:
            features: (B, features), the first `sources` of them of the source.
            sources: how many; the others are of the target.
            strength: of the reversal.
        """
        logits = self(features, strength)
        truth = (torch.arange(len(logits), device=logits.device) < sources).to(logits.dtype)
        accuracy = ((logits > 0) == truth.bool()).float().mean()
        return F.binary_cross_entropy_with_logits(logits, truth), accuracy


def classifier_of(net: nn.Module) -> nn.Linear:
    """The last linear layer of a classifier: its inputs are the features."""
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"Expected {type(net).__name__} to end in a linear layer, whose inputs are its "
            "features, but it has none."
        )
    return linear[-1]


@contextmanager
def captured_features(classifier: nn.Linear) -> Iterator[list[Tensor]]:
    """Within it, the list receives the inputs (B, features) of `classifier` at every forward."""
    found: list[Tensor] = []
    handle = classifier.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        handle.remove()
