from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, PolynomialLR

from cnsn import CNSNSpec
from cnsn.nets import wide_resnet
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.optim import OptimizerSpec, _fused, build_optimizer, decay_groups, schedule_factor


def rates(spec: OptimizerSpec, steps: int) -> list[float]:
    factor = schedule_factor(spec, steps)
    return [spec.lr * factor(step) for step in range(steps)]


def torch_rates(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_schedules_equal_torch_and_the_published_formula() -> None:
    poly = torch_rates(lambda o: PolynomialLR(o, total_iters=90, power=0.9), 90)
    assert np.allclose(rates(OptimizerSpec(schedule="poly"), 90), poly)
    steps = torch_rates(lambda o: MultiStepLR(o, [30, 60]), 90)
    assert np.allclose(rates(OptimizerSpec(schedule="steps"), 90), steps)
    fixmatch = [0.1 * math.cos(7 * math.pi * k / (16 * 90)) for k in range(90)]
    assert np.allclose(rates(OptimizerSpec(schedule="cosine_7_16"), 90), fixmatch)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"algorithm": "lion"}, "algorithm"),
        ({"schedule": "linear"}, "schedule"),
        ({"lr": 0.0}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"final_lr": 1.0}, "final_lr"),
        ({"milestones": (0.6, 0.3)}, "milestones"),
        ({"milestones": (30.0, 60.0)}, "milestones"),
        ({"head_lr_factor": 0.0}, "head_lr_factor"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        OptimizerSpec(**options)


def test_norms_biases_and_gates_can_be_kept_from_decay() -> None:
    module = CNSNModule(
        wide_resnet(depth=10, width=1),
        CNSNSpec(kind="sn"),
        CrossNormTraining(),
        OptimizerSpec(decay_norm_and_bias=False, weight_decay=0.5, lr=1.0, momentum=0.0),
    )
    names = {id(p): name for name, p in module.network.named_parameters()}
    decaying, others = decay_groups(module.network, module.optimizer_spec)
    assert {n.rsplit(".", 2)[-2] for n in map(names.get, map(id, decaying["params"])) if n} == {
        "conv1", "conv2", "conv_shortcut", "fc",
    }  # fmt: skip
    assert len(decaying["params"]) + len(others["params"]) == len(names)
    # Without gradients a step is the decay alone.
    optimizer, _ = build_optimizer(module.parameter_groups(), module.optimizer_spec, 10)
    before = {name: p.clone() for name, p in module.network.named_parameters()}
    for p in module.network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in module.network.named_parameters():
        kept = id(p) in {id(q) for q in others["params"]}
        torch.testing.assert_close(p, before[name] * (1.0 if kept else 0.5))


def test_heads_learn_at_their_own_rate() -> None:
    spec = OptimizerSpec(lr=0.01, head_lr_factor=10, decay_norm_and_bias=False)
    module = CNSNModule(wide_resnet(depth=10, width=1), CNSNSpec(), CrossNormTraining(), spec)
    optimizer, _ = build_optimizer(module.parameter_groups(), spec, 10)
    by_rate: dict[float, set[int]] = {}
    for group in optimizer.param_groups:
        by_rate.setdefault(round(group["lr"], 6), set()).update(map(id, group["params"]))
    heads = {id(p) for p in module.network.fc.parameters()}
    assert by_rate[0.1] == heads
    assert by_rate[0.01] == {id(p) for p in module.network.parameters()} - heads


def test_adam_takes_the_same_options() -> None:
    optimizer, _ = build_optimizer(
        [nn.Parameter(torch.zeros(1))], OptimizerSpec(algorithm="adam", lr=1e-5), 10
    )
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["lr"] == 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "sgd", "nesterov": True, "weight_decay": 0.1},
        {"algorithm": "sgd", "momentum": 0.0},
        {"algorithm": "adam", "lr": 1e-2, "weight_decay": 0.1},
    ],
)
def test_a_fused_step_is_the_same_step(options: dict[str, Any]) -> None:
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        # A bias before a batch norm has no gradient but noise, which Adam would enlarge.
        net = nn.Sequential(nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.Linear(9, 2))
        spec = OptimizerSpec(fused=fused, decay_norm_and_bias=False, **options)
        optimizer, schedule = build_optimizer(decay_groups(net, spec), spec, 20)
        assert optimizer.defaults["fused"] is fused
        for _ in range(20):
            optimizer.zero_grad()
            net(torch.randn(16, 6)).square().mean().backward()
            optimizer.step()
            schedule.step()
        found.append([p.detach().clone() for p in net.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_fused_by_itself_where_it_is_supported() -> None:
    def form(algorithm: Any, device: str, fused: bool | None = None) -> bool | None:
        parameter: Any = SimpleNamespace(device=torch.device(device))
        spec = OptimizerSpec(algorithm=algorithm, fused=fused)
        assert _fused([parameter], spec) == _fused([{"params": [parameter]}], spec)
        return _fused([parameter], spec)

    assert form("sgd", "cuda") is True and form("adam", "cuda") is True
    assert form("sgd", "cpu") is None and form("adam", "cpu") is True
    assert form("adam", "meta") is None
    assert form("sgd", "cuda", False) is False and form("sgd", "cpu", True) is True


def test_clipped_gradients_in_float16_are_not_fused() -> None:
    spec = OptimizerSpec(algorithm="adam")
    module = CNSNModule(wide_resnet(depth=10, width=1), CNSNSpec(), CrossNormTraining(), spec)
    for scaler, clip, fused in ((object(), 1.0, False), (object(), None, True), (None, 1.0, True)):
        module.trainer = SimpleNamespace(  # type: ignore[assignment]
            estimated_stepping_batches=10,
            gradient_clip_val=clip,
            precision_plugin=SimpleNamespace(scaler=scaler),
        )
        (optimizer,), _ = module.configure_optimizers()
        assert optimizer.defaults["fused"] is fused
