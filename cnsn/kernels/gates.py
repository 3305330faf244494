"""SelfNorm with its gates in the kernels, where a device's kernels make them.

Between the two passes over the map nothing then runs but, while training, one kernel a gate that
takes its batch norm's statistics; likewise backward. Elsewhere, and for batch norms other than the
plain one (such as those that look at all processes), see :class:`cnsn.kernels.autograd.Statistics`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.functional import instance_stats
from cnsn.kernels import autograd
from cnsn.kernels.regions import Gate, Moments, alike, as_images, dense

__all__ = ["gated", "gates"]


def gates(x: Tensor, pairs: list[tuple[nn.Conv1d, Any]]) -> list[Gate] | None:
    """The gates of SelfNorm's pairs of linear map and batch norm; None where kernels lack them."""
    if not hasattr(autograd.backend(x), "gated") or not all(_plain(bn) for _, bn in pairs):
        return None
    found = []
    for fc, bn in pairs:
        batch = None
        if bn.training:
            tracked = bn.num_batches_tracked
            # One sample has no variance: a batch norm says so.
            if len(x) < 2 or not _fits(tracked, x, torch.int64):
                return None
            batch = (tracked, float(bn.momentum))
        numbers = (fc.weight, bn.weight, bn.bias, bn.running_mean, bn.running_var)
        if not all(_fits(t, x) for t in numbers):
            return None
        found.append(Gate(*numbers, float(bn.eps), batch))
    return found


def _plain(bn: nn.Module) -> bool:
    """Whether `bn` is an ordinary batch norm that nobody listens to."""
    hooks = (bn._forward_hooks, bn._forward_pre_hooks, bn._backward_hooks, bn._backward_pre_hooks)
    if type(bn) is not nn.BatchNorm1d or any(hooks) or "forward" in vars(bn):
        return False
    if nn.modules.module._has_any_global_hook():
        return False
    return bn.affine and bn.track_running_stats and bn.momentum is not None


def _fits(t: Any, x: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    plain = type(t) in (Tensor, nn.Parameter) and t.is_contiguous()
    return plain and t.dtype == dtype and t.device == x.device


def gated(x: Tensor, eps: float, gates: list[Gate]) -> Tensor:
    """``g * x`` for one gate, ``g * (x - mean) + f * mean`` for two; `x` is (B, C, ...)."""
    parameters = [p for gate in gates for p in gate[:3]]
    y = _Gated.apply(dense(as_images(x)), eps, gates, *parameters)
    return y if y.ndim == x.ndim else y.view(x.shape)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, gates: list[Gate], *parameters: Tensor) -> Tensor:
        stats = autograd.backend(x).moments(x, None, eps)
        y, gates = autograd.backend(x).gated(x, stats, gates)
        ctx.eps, ctx.rest = eps, [gate[5:] for gate in gates]
        numbers = [t for gate in gates for t in gate[3:5]]
        ctx.save_for_backward(x, *stats[1:], *numbers, *parameters)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, std, rest, *others = ctx.saved_tensors
        count = len(ctx.rest)
        numbers, parameters = others[: 2 * count], others[2 * count :]
        gates = [
            Gate(*parameters[3 * i : 3 * i + 3], *numbers[2 * i : 2 * i + 2], *ctx.rest[i])
            for i in range(count)
        ]
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            inputs = [t for t in (x, *parameters) if t.requires_grad]
            found = iter(
                torch.autograd.grad(_plain_gated(x, ctx.eps, gates), inputs, dy, create_graph=True)
            )
            dx, *grads = (next(found) if t.requires_grad else None for t in (x, *parameters))
            return dx, None, None, *grads
        stats = Moments(None, mean, std, rest)
        dx, grads = autograd.backend(x).gate_gradient(x, alike(dy, x), stats, gates, any(wanted))
        return dx, None, None, *grads


def _plain_gated(x: Tensor, eps: float, gates: list[Gate]) -> Tensor:
    """The same in ordinary operations, for gradients of gradients."""
    mean, std = instance_stats(x, eps)
    found = []
    for gate in gates:
        score = mean.flatten(1) * gate.fc[:, 0, 0] + std.flatten(1) * gate.fc[:, 0, 1]
        own = gate.batch is not None
        centre, variance = (None, None) if own else (gate.mean, gate.variance)
        score = F.batch_norm(score, centre, variance, gate.weight, gate.bias, own, 0.0, gate.eps)
        found.append(score.sigmoid().view_as(mean))
    if len(found) == 1:
        return (x * found[0]).to(x.dtype)
    return (found[0] * (x - mean) + found[1] * mean).to(x.dtype)
