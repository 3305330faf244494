from __future__ import annotations

import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.engine.memory import PointwiseConv2d, use_memory_format
from tasks.segmentation.networks import SmallFPN

DEBUG = "libc_malloc_debug.so.0"
# Every block of memory is checked as it is freed; one written beyond its end ends the process.
STEP = """
import torch
from tasks.engine.memory import use_memory_format
from tasks.segmentation_networks import SmallFPN

torch.set_num_threads(1)
net = SmallFPN(width=4)
use_memory_format(net, torch.channels_last)
x = torch.randn(2, 3, 100, 100).contiguous(memory_format=torch.channels_last)
net(x).sum().backward()
print("done")
"""


@pytest.mark.parametrize("stride", [2, (1, 3)])
@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (15, 1), (32, 4)])
def test_narrow_convolutions_with_a_stride_are_the_same(
    stride: int, channels: int, groups: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 8, 1, stride, groups=groups)
    reference = nn.Conv2d(channels, 8, 1, stride, groups=groups).double()
    reference.load_state_dict(conv.state_dict())
    use_memory_format(conv, torch.channels_last)
    assert type(conv) is PointwiseConv2d
    x = torch.randn(3, channels, 13, 10)
    inputs = [
        x.contiguous(memory_format=torch.channels_last).requires_grad_(),
        x.double().requires_grad_(),
    ]
    outputs = [conv(inputs[0]), reference(inputs[1])]
    torch.testing.assert_close(outputs[0].double(), outputs[1], rtol=1e-5, atol=1e-5)
    weight = torch.randn(outputs[0].shape)
    for out in outputs:
        (out * weight).sum().backward()
    pairs = [(inputs[0].grad, inputs[1].grad)]
    pairs += [(conv.weight.grad, reference.weight.grad), (conv.bias.grad, reference.bias.grad)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_other_convolutions_and_names_stay() -> None:
    net = SmallFPN(width=8)
    names = list(net.state_dict())
    use_memory_format(net, torch.contiguous_format)
    assert not any(isinstance(module, PointwiseConv2d) for module in net.modules())
    use_memory_format(net, torch.channels_last)
    narrow = [name for name, m in net.named_modules() if isinstance(m, PointwiseConv2d)]
    # The shortcuts of the first two stages have 8 channels before them, the others 16 and more.
    assert narrow == ["backbone.layer1.0.downsample.0", "backbone.layer2.0.downsample.0"]
    assert list(net.state_dict()) == names
    assert net.backbone["stem"][0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(find_library("c_malloc_debug") is None, reason=f"needs glibc's {DEBUG}")
def test_a_narrow_network_s_step_stays_in_its_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "LD_PRELOAD": DEBUG, "MALLOC_CHECK_": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr[-500:]
