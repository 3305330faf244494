from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnsn import CNSNSpec, insert
from cnsn.nets import ThinResNet50


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network of the published prototxt, from its weights alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].view(-1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    x = norm(conv(x, "conv1", 2, 3), "bn1").relu()
    # Windows that stick out to the right and below see what is there.
    x = F.pad(x, (0, 1, 0, 1), value=-torch.inf).unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for number in range(blocks):
            name, stride = f"layer{stage}.{number}", 2 if stage > 1 and number == 0 else 1
            y = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2").relu()
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if number == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).relu()
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("size", [(64, 72), (48, 60)])
def test_it_is_the_published_network(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = ThinResNet50(num_classes=3).double().eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point() and ("running" in name or "bn" in name):
                value.add_(0.1 * torch.rand_like(value))
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        torch.testing.assert_close(net(x), by_hand(net.state_dict(), x))


def test_it_takes_the_layers() -> None:
    net = insert(ThinResNet50(num_classes=3), CNSNSpec(kind="sn"))
    gates = [value.shape[0] for key, value in net.state_dict().items() if "g_fc" in key]
    assert gates == [128] * 3 + [256] * 4 + [512] * 6 + [1024] * 3
