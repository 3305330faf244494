from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnsn import CNSNSpec, crossnorm_active, crossnorm_sites, insert
from cnsn.functional import cross_norm
from cnsn.insert import _exchange_input
from cnsn.nets import wide_resnet


class OwnConvolution(nn.Conv2d):
    """As timm's stems have them: a convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class HeadFirst(nn.Module):
    """Registers an inner convolution before the one that takes the image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 2, 3, padding=1)
        self.stem = OwnConvolution(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.stem(x).relu())


@pytest.mark.parametrize(
    "plain",
    [
        HeadFirst(),
        nn.Sequential(OwnConvolution(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        nn.Sequential(nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3)), nn.ReLU()),
        nn.Sequential(nn.Unfold(4, stride=4), nn.Unflatten(2, (2, 2)), nn.Conv2d(48, 2, 1)),
    ],
)
def test_crossnorm_on_the_image_meets_the_image_whatever_the_stem(plain: nn.Module) -> None:
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="cn", image=True)).train()
    assert list(net.state_dict()) == list(plain.state_dict())
    x, partner = torch.randn(4, 3, 8, 8), torch.tensor([1, 2, 3, 0])
    for own in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(own(x), plain(x))
        with crossnorm_active(own, k=1, partner=partner):
            torch.testing.assert_close(own(x), plain(cross_norm(x, x[partner])))
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), plain(x))


class Named(nn.Module):
    """Takes the image by a name of its own, and something else behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, pixel_values: Tensor, scale: float = 1.0) -> Tensor:
        return self.stem(pixel_values) * scale


def test_an_image_by_keyword() -> None:
    plain = Named()
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="cn", image=True)).train()
    x, partner = torch.randn(4, 3, 8, 8), torch.tensor([1, 2, 3, 0])
    expected = plain(cross_norm(x, x[partner]), 2.0)
    with crossnorm_active(net, partner=partner):
        torch.testing.assert_close(net(pixel_values=x, scale=2.0), expected)
        torch.testing.assert_close(net(scale=2.0, pixel_values=x), expected)
        torch.testing.assert_close(net(x, scale=2.0), expected)
    with pytest.raises(ValueError, match=r"first argument, `pixel_values`.*got .'scale'"):
        net(scale=2.0)


def timm_network(name: str) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=3)


def smp_network() -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch")
    return smp.Unet("timm-efficientnet-b0", encoder_weights=None, classes=2)


@pytest.mark.parametrize(
    "build",
    [
        timm_network("tf_efficientnet_lite0"),
        timm_network("nfnet_l0"),
        smp_network,
        lambda: nn.DataParallel(Named()),
        lambda: nn.Sequential(Named(), nn.ReLU()),
    ],
)
def test_the_stem_meets_the_restyled_image(build: Callable[[], nn.Module]) -> None:
    net = insert(build(), CNSNSpec(kind="cn", image=True)).train()
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    met: list[Tensor] = []
    first.register_forward_pre_hook(lambda module, inputs: met.append(inputs[0]))
    x, partner = torch.randn(4, 3, 64, 64), torch.tensor([1, 2, 3, 0])
    with torch.no_grad(), crossnorm_active(net, partner=partner):
        net(x)
    torch.testing.assert_close(met[0], cross_norm(x, x[partner]))
    assert len(crossnorm_sites(net)) == 1


def test_networks_that_earlier_versions_pickled_keep_their_crossnorm() -> None:
    net = insert(Named(), CNSNSpec(kind="cn", image=True)).train()
    old = Named().train()
    old.load_state_dict(net.state_dict())
    old.image_crossnorm = net.image_crossnorm
    old.register_forward_pre_hook(_exchange_input)
    assert b"cnsn.insertion.image" in pickle.dumps(old)
    x, partner = torch.randn(4, 3, 8, 8), torch.tensor([1, 2, 3, 0])
    with crossnorm_active(net, partner=partner):
        torch.testing.assert_close(old(x), net(x))
    with pytest.raises(ValueError, match="without a keyword"):
        old(pixel_values=x)


def test_a_container_that_calls_its_members_does_not_call_crossnorm() -> None:
    class Chosen(nn.ModuleDict):
        def forward(self, x: Tensor) -> Tensor:
            for module in self.values():
                x = module(x) + 1
            return x

    plain = Chosen({"a": nn.Conv2d(3, 3, 1), "b": nn.ReLU()})
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="cn", image=True)).train()
    x, partner = torch.randn(4, 3, 8, 8), torch.tensor([1, 2, 3, 0])
    assert list(net) == ["a", "b"] and len(net) == 2
    with crossnorm_active(net, partner=partner):
        torch.testing.assert_close(net(x), plain(cross_norm(x, x[partner])))


def test_a_wide_resnet_by_its_argument() -> None:
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cn", image=True)).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(x=x), net(x))
