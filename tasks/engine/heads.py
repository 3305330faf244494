"""Which layer of a network gives its outputs, and how it comes to give as many as are needed."""

from __future__ import annotations

from torch import nn

__all__ = ["HEAD_NAMES", "fit_head", "head_of"]

# What networks call their last layer.
HEAD_NAMES = ("fc", "classifier", "head", "heads")


def head_of(net: nn.Module) -> str | None:
    """The name of the linear layer that gives the outputs; None where it is not clear.

    It is the last layer with weights, or bears one of the usual names.
    """
    layers = [name for name, module in net.named_modules() if [*module.parameters(False)]]
    for name in (*layers[-1:], *HEAD_NAMES):
        if name in layers and isinstance(net.get_submodule(name), nn.Linear):
            return name
    return None


def fit_head(net: nn.Module, classes: int) -> bool:
    """Let `net` have that many outputs, by a new layer in its head's place where it has others.

    Returns:
        Whether its outputs are known to be as many: not where no head is found.
    """
    name = head_of(net)
    if name is None:
        return False
    head = net.get_submodule(name)
    assert isinstance(head, nn.Linear)
    if head.out_features != classes:
        kind = {"device": head.weight.device, "dtype": head.weight.dtype}
        new = nn.Linear(head.in_features, classes, bias=head.bias is not None, **kind)
        parent, _, own = name.rpartition(".")
        setattr(net.get_submodule(parent), own, new)
    return True
