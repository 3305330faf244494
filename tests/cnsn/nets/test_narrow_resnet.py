from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18

from cnsn import CNSNSpec, insert
from cnsn.nets import NarrowResNet


def test_at_full_width_it_is_resnet18() -> None:
    reference = resnet18(num_classes=5).eval()
    net = NarrowResNet(width=64, blocks=(2, 2, 2, 2), num_classes=5).eval()
    net.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 3, 48, 64)
    torch.testing.assert_close(net(x), reference(x))


def test_stages_double_the_width_and_take_the_layers() -> None:
    net = insert(NarrowResNet(width=6, blocks=(1, 2), num_classes=3), CNSNSpec(kind="sn"))
    gates = [value.shape[0] for key, value in net.state_dict().items() if "g_fc" in key]
    assert gates == [6, 12, 12] and net.fc.in_features == 12
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("options", [{"width": 0}, {"blocks": ()}, {"blocks": (1, 0)}])
def test_arguments_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        NarrowResNet(**options)  # type: ignore[arg-type]
