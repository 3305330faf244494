from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.nets import wide_resnet


def by_hand(state: dict[str, Tensor], x: Tensor, slope: float) -> Tensor:
    """WideResNet-10-1 in training mode, written out from the names of its weights."""

    def activated(key: str, x: Tensor) -> Tensor:
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (
            x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
        ).sqrt()
        x = x * state[f"{key}.weight"].view(1, -1, 1, 1) + state[f"{key}.bias"].view(1, -1, 1, 1)
        return torch.where(x > 0, x, slope * x)

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        block = f"block{number}.layer.0"
        inner, shortcut = activated(f"{block}.bn1", x), x
        branch = F.conv2d(inner, state[f"{block}.conv1.weight"], stride=stride, padding=1)
        branch = activated(f"{block}.bn2", branch)
        branch = F.conv2d(branch, state[f"{block}.conv2.weight"], padding=1)
        if f"{block}.conv_shortcut.weight" in state:
            shortcut = F.conv2d(inner, state[f"{block}.conv_shortcut.weight"], stride=stride)
        x = branch + shortcut
    return F.linear(activated("bn1", x).mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_forward_equals_the_network_by_hand(slope: float) -> None:
    torch.manual_seed(0)
    net = wide_resnet(depth=10, width=1, negative_slope=slope).double().train()
    for name, parameter in net.named_parameters():
        if "bn" in name:
            nn.init.normal_(parameter, 1.0, 0.5)
    x = torch.randn(5, 3, 12, 12, dtype=torch.float64)
    torch.testing.assert_close(net(x), by_hand(net.state_dict(), x, slope))


def test_momentum_of_the_batch_statistics() -> None:
    net = wide_resnet(depth=10, width=1, bn_momentum=0.001).train()
    x = torch.randn(4, 3, 8, 8)
    expected = 0.001 * net.conv1(x).mean((0, 2, 3))
    net(x)
    torch.testing.assert_close(net.block1.layer[0].bn1.running_mean, expected)
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.001}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative_slope": 1.0}, "`negative_slope`"),
        ({"bn_momentum": 0.0}, "`bn_momentum`"),
        ({"depth": 12}, "`depth`"),
    ],
)
def test_arguments_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wide_resnet(**options)  # type: ignore[arg-type]
