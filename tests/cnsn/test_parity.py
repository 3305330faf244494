"""Training step by step as the released code trains: losses in float64 agree to 1e-9.

`released_training.json` holds the released code's losses and draws. The weights are functions of
their keys, the batches of their step's number; both were the same there.
"""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn import CNSNSpec, crossnorm_active, insert, kernels
from cnsn.insert import crossnorm_sites
from cnsn.layers import CrossNorm
from cnsn.nets import wide_resnet

GOLDEN = json.loads((Path(__file__).parent / "released_training.json").read_text())
# Every kind, position and crop is in one of them; all 36 take a minute.
QUICK = {
    "cn/post/style",
    "sn/post/neither",
    "cnsn/pre/both",
    "cnsn/residual/style",
    "cnsn/identity/content",
    "cnsn/post/neither",
}
# What a site draws: its number, the partners, the content's box and the style's box.
Draw = list[Any]


def test_every_kind_position_and_crop_is_there() -> None:
    expected = {
        f"{kind}/{position}/{crop}"
        for kind in ("cn", "sn", "cnsn")
        for position in ("pre", "residual", "identity", "post")
        for crop in ("neither", "style", "content", "both")
        if kind != "sn" or crop == "neither"
    }
    assert set(GOLDEN["losses"]) == expected and all(map(len, GOLDEN["losses"].values()))


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[] if c in QUICK else pytest.mark.slow) for c in GOLDEN["losses"]],
)
def test_training_is_that_of_the_released_code(case: str) -> None:
    check(case)


def test_so_it_is_without_the_fast_kernels() -> None:
    with kernels.disabled():
        check("cnsn/pre/both")


def check(case: str) -> None:
    """Train as `case` says, beside the released code's losses."""
    kind, position, crop = case.split("/")
    spec = CNSNSpec(kind=kind, position=position, crop=crop)  # type: ignore[arg-type]
    net = insert(wide_resnet(depth=16, width=1), spec).double().train()
    net.load_state_dict({key: weight_of(key, value) for key, value in net.state_dict().items()})
    draws = [[]] * 8 if kind == "sn" else GOLDEN["draws"][f"{position}/{crop}"]
    losses, own = train(net, draws)
    np.testing.assert_allclose(losses, GOLDEN["losses"][case], rtol=0, atol=1e-9)
    # What was given to the sites is also what they draw themselves, then as now.
    assert own == draws


def weight_of(key: str, like: Tensor) -> Tensor:
    """An entry of the state dict, a function of its key."""
    random, shape = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF), like.shape
    name = key.rpartition(".")[2]
    if name == "num_batches_tracked":
        return torch.zeros_like(like)
    if name == "running_var":
        value = 0.5 + random.rand(*shape)
    elif name == "running_mean":
        value = 0.1 * random.randn(*shape)
    elif like.ndim == 1 and name == "weight":
        value = 0.8 + 0.4 * random.rand(*shape)
    elif like.ndim == 1:
        value = 0.1 * random.randn(*shape)
    else:
        value = random.randn(*shape) * np.sqrt(1 / np.prod(shape[1:]))
    return torch.from_numpy(value)


def train(net: nn.Module, draws: list[list[Draw]]) -> tuple[list[float], list[list[Draw]]]:
    """Losses of each step with the given draws, and what the sites would have drawn."""
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(net.parameters(), **options)  # type: ignore[arg-type]
    losses: list[float] = []
    own: list[list[Draw]] = []
    for step, given in enumerate(draws):
        images = torch.from_numpy(np.random.RandomState(1000 + step).randn(8, 3, 32, 32))
        labels = torch.from_numpy(np.random.RandomState(2000 + step).randint(0, 10, 8))
        choice, boxes = (torch.Generator().manual_seed(seed + step) for seed in (100, 900))
        with crossnorm_active(net, len(given), choice, draws=boxes) as active:
            drawn = follow(crossnorm_sites(net), active, given)
            loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        own.append(drawn)
    return losses, own


def follow(sites: list[CrossNorm], active: list[CrossNorm], given: list[Draw]) -> list[Draw]:
    """Let the active sites use the `given` draws in this order.

    Returns:
        A list that grows with what they draw themselves.
    """
    assert {sites.index(site) for site in active} == {number for number, *_ in given}
    left, drawn = list(given), []

    def draw(site: CrossNorm, shape: torch.Size) -> Any:
        order, *boxes = CrossNorm.draw(site, shape)
        own = [None if box is None else list(box) for box in boxes]
        drawn.append([sites.index(site), order.tolist(), *own])
        _, partner, *golden = left.pop(0)
        return torch.tensor(partner), *(None if box is None else tuple(box) for box in golden)

    for site in active:
        site.draw = partial(draw, site)  # type: ignore[method-assign]
    return drawn
