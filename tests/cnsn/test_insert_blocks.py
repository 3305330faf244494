"""Some of the blocks, and the image beside them."""

from __future__ import annotations

import pytest
import torch

from cnsn import CNSNSpec, crossnorm_active, crossnorm_sites, insert
from cnsn.nets import NarrowResNet, wide_resnet


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (None, ["layer1.1", "layer2.0", "layer3.2"]),
        ((1, 3), ["layer1.1", "layer3.2"]),
    ],
)
def test_the_last_block_of_each_stage(stages: tuple[int, ...] | None, expected: list[str]) -> None:
    net = NarrowResNet(blocks=(2, 1, 3))
    insert(net, CNSNSpec(kind="cnsn", blocks="last", stages=stages))
    assert [
        n.removesuffix(".cnsn") for n, _ in net.named_modules() if n.endswith("cnsn")
    ] == expected


@pytest.mark.parametrize("position", [None, "pre"])
@pytest.mark.parametrize("kind", ["cn", "cnsn"])
def test_on_the_image_and_in_the_network(kind: str, position: str | None) -> None:
    torch.manual_seed(0)
    options = {"kind": kind, "cn_position": position}
    spec, both = (CNSNSpec(image=image, **options) for image in (False, "also"))  # type: ignore[arg-type]
    plain = insert(wide_resnet(depth=10, width=1), spec)
    net = insert(wide_resnet(depth=10, width=1), both)
    assert list(net.state_dict()) == list(plain.state_dict())
    sites = crossnorm_sites(net)
    assert len(sites) == len(crossnorm_sites(plain)) + 1 and net.image_crossnorm in sites
    seen = []
    net.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(4, 3, 8, 8)
    with crossnorm_active(net.train(), "all", partner=torch.tensor([1, 2, 3, 0])):
        net(x)
    net(x)
    assert not torch.allclose(seen[0], x) and torch.equal(seen[1], x)


def test_each_site_tosses_its_own_coin() -> None:
    """Rates of each site, and of each pair of sites, over 10,000 steps."""
    net, n = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cn")), 10_000
    sites, generator = crossnorm_sites(net), torch.Generator().manual_seed(0)
    heads = torch.zeros(n, len(sites))
    for step in range(n):
        with crossnorm_active(net, generator=generator, p=0.3):
            heads[step] = torch.tensor([site.active for site in sites])
    assert not any(site.active for site in sites)
    deviation = (0.3 * 0.7 / n) ** 0.5
    assert ((heads.mean(0) - 0.3).abs() < 4 * deviation).all()
    for one in range(len(sites)):
        for other in range(one):
            rate = (heads[:, one] * heads[:, other]).mean()
            assert abs(rate - 0.09) < 4 * (0.09 * 0.91 / n) ** 0.5


def test_bad_options() -> None:
    for options in ({"blocks": "first"}, {"image": "only"}, {"blocks": "last", "at": "conv1"}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` to be"):
            CNSNSpec(kind="cn", **options)  # type: ignore[arg-type]
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cn"))
    with pytest.raises(ValueError, match=r"`p` to be in \[0, 1\], but got 1.5"):
        crossnorm_active(net, p=1.5).__enter__()
