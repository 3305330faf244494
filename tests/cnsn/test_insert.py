from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.segmentation import fcn_resnet50

from cnsn import CNSNSpec, CrossNorm, SelfNorm, crossnorm_active, insert
from cnsn.functional import cross_norm
from cnsn.nets import wide_resnet
from cnsn.nets.wide_resnet import WideBasicBlock

SITES = ["pre", "residual", "identity", "post", "out"]
FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: models.resnet18(num_classes=5),
    "resnet50": lambda: models.resnet50(num_classes=5),
    "resnext50": lambda: models.resnext50_32x4d(num_classes=5),
    "wide_resnet50": lambda: models.wide_resnet50_2(num_classes=5),
    "wide_resnet": lambda: wide_resnet(depth=10, width=1),
}


def torchvision_block(block: nn.Module, site: str, layer: Callable[[Tensor], Tensor], x: Tensor):
    """The residual block by hand, for two and three convolutions, with `layer` at `site`."""

    def at(name: str, value: Tensor) -> Tensor:
        return layer(value) if name == site else value

    branch = at("pre", x)
    count = 3 if isinstance(block, Bottleneck) else 2
    for i in range(1, count + 1):
        branch = getattr(block, f"bn{i}")(getattr(block, f"conv{i}")(branch))
        if i < count:
            branch = F.relu(branch)
    identity = x if block.downsample is None else block.downsample(x)
    total = at("residual", branch) + at("identity", identity)
    return at("out", F.relu(at("post", total)))


def wide_block(block: nn.Module, site: str, layer: Callable[[Tensor], Tensor], x: Tensor):
    """Zagoruyko & Komodakis' block by hand; the shortcut's input is activated, if projected."""

    def at(name: str, value: Tensor) -> Tensor:
        return layer(value) if name == site else value

    if block.conv_shortcut is None:
        identity, branch = x, F.relu(block.bn1(at("pre", x)))
    else:
        activated = F.relu(block.bn1(x))
        identity, branch = block.conv_shortcut(activated), at("pre", activated)
    branch = block.conv2(F.relu(block.bn2(block.conv1(branch))))
    return at("out", at("post", at("residual", branch) + at("identity", identity)))


def blocks_of(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, (BasicBlock, Bottleneck, WideBasicBlock))]


def in_channels(block: nn.Module) -> int:
    return block.conv1.in_channels


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", list(FACTORIES))
def test_every_site_equals_the_block_by_hand(name: str, site: str) -> None:
    torch.manual_seed(0)
    net = insert(FACTORIES[name](), CNSNSpec(kind="sn", position=site)).train()
    by_hand = wide_block if name == "wide_resnet" else torchvision_block
    with_and_without_projection = blocks_of(net)[:2] + blocks_of(net)[-1:]
    for block in with_and_without_projection:
        x = torch.randn(3, in_channels(block), 6, 6)
        expected = by_hand(block, site, block.cnsn.selfnorm, x)
        torch.testing.assert_close(block(x), expected)
        # The layer does something there.
        without = by_hand(block, "nowhere", block.cnsn.selfnorm, x)
        assert not torch.allclose(expected, without, atol=1e-4)


@pytest.mark.parametrize("site", SITES)
def test_crossnorm_apart_from_selfnorm_comes_first(site: str) -> None:
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", cn_position=site)).train()
    block = blocks_of(net)[1]
    x = torch.randn(4, in_channels(block), 6, 6)
    partner = torch.tensor([2, 0, 3, 1])
    own_crossnorm = block.cnsn.crossnorm if site == "post" else block.crossnorm
    assert isinstance(own_crossnorm, CrossNorm)
    assert site == "post" or block.cnsn.crossnorm is None

    def exchange(value: Tensor) -> Tensor:
        return cross_norm(value, value[partner])

    def both(value: Tensor) -> Tensor:
        return block.cnsn.selfnorm(exchange(value))

    if site == "post":
        expected = wide_block(block, "post", both, x)
    else:
        # SelfNorm at `post` by a second call on the parts that lie before it.
        parts: dict[str, Tensor] = {}

        def keep(value: Tensor) -> Tensor:
            parts["post"] = value
            return value

        saved, block.cnsn_site = block.cnsn_site, None
        if site == "out":
            wide_block(block, "post", keep, x)
            expected = exchange(block.cnsn.selfnorm(parts["post"]))
        else:
            expected = block.cnsn.selfnorm(wide_block(block, site, exchange, x))
        block.cnsn_site = saved
    with crossnorm_active(net, k=len(blocks_of(net)), partner=partner):
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", list(FACTORIES))
def test_inactive_crossnorm_changes_no_bit(name: str) -> None:
    torch.manual_seed(0)
    net = FACTORIES[name]().train()
    x = torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(net)
    keys = list(net.state_dict())
    insert(net, CNSNSpec(kind="cn", crop="both"))
    assert torch.equal(net(x), before(x))
    assert torch.equal(net.eval()(x), before.eval()(x))
    assert list(net.state_dict()) == keys


def test_fcn_resnet50() -> None:
    torch.manual_seed(0)
    net = fcn_resnet50(weights=None, weights_backbone=None, num_classes=4, aux_loss=True)
    before = copy.deepcopy(net).eval()
    insert(net, CNSNSpec(kind="cnsn", position="residual", cn_position="out")).eval()
    assert "backbone.layer1.0.cnsn.selfnorm.g_fc.weight" in net.state_dict()
    x = torch.randn(1, 3, 32, 32)
    expected = before(x)["out"]
    assert not torch.allclose(net(x)["out"], expected)
    for module in net.modules():
        if isinstance(module, SelfNorm):
            # A gate of 1: sigmoid(50) is 1 in float32.
            nn.init.zeros_(module.g_bn.weight)
            nn.init.constant_(module.g_bn.bias, 50.0)
    torch.testing.assert_close(net(x)["out"], expected)


def test_stages_image_and_none() -> None:
    net = models.resnet18()
    types = [type(module) for module in net.modules()]
    assert insert(net, CNSNSpec()) is net and [type(m) for m in net.modules()] == types
    insert(net, CNSNSpec(kind="cnsn", stages=(1, 3)))
    having = {key.split(".")[0] for key in net.state_dict() if "cnsn" in key}
    assert having == {"layer1", "layer3"}

    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", image=True)).train()
    sites = [module for module in net.modules() if isinstance(module, CrossNorm)]
    assert len(sites) == 1 and all(block.cnsn.crossnorm is None for block in blocks_of(net))
    x, partner = torch.randn(4, 3, 8, 8), torch.tensor([1, 2, 3, 0])
    reference = copy.deepcopy(net)
    with crossnorm_active(net, k=1, partner=partner):
        out = net(x)
    torch.testing.assert_close(out, reference(cross_norm(x, x[partner])))


@pytest.mark.parametrize(
    ("net", "spec", "message"),
    [
        (
            nn.Sequential(nn.Linear(3, 3)),
            CNSNSpec(kind="sn"),
            "Sequential has none.*timm.*docs/networks.md",
        ),
        (wide_resnet(depth=10), CNSNSpec(kind="sn", position="conv"), r"'pre'.*got 'conv'"),
        (wide_resnet(depth=10), CNSNSpec(kind="cnsn", cn_position="in"), r"'pre'.*got 'in'"),
        (wide_resnet(depth=10), CNSNSpec(kind="sn", stages=(4,)), "from 1 to 3"),
        (nn.Linear(3, 3), CNSNSpec(kind="cn", image=True), "take an image.*Linear has"),
        (insert(wide_resnet(depth=10), CNSNSpec(kind="sn")), CNSNSpec(kind="cn"), "already"),
    ],
)
def test_what_cannot_be_inserted_leaves_the_network_unchanged(
    net: nn.Module, spec: CNSNSpec, message: str
) -> None:
    types, keys = [type(m) for m in net.modules()], list(net.state_dict())
    with pytest.raises(ValueError, match=message):
        insert(net, spec)
    assert [type(m) for m in net.modules()] == types and list(net.state_dict()) == keys


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "CN"},
        {"crop": "all"},
        {"beta": 0.0},
        {"min_area": 1.0},
        {"stages": ()},
        {"stages": (0,)},
        {"image": True, "cn_position": "pre"},
    ],
)
def test_specs_out_of_range(options: dict[str, object]) -> None:
    key = list(options)[-1]
    with pytest.raises(ValueError, match=rf"^Expected `{key}`"):
        CNSNSpec(**options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small network whose SelfNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    net = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", crop="both")).train()
    for _ in range(3):
        net(torch.randn(8, 3, 8, 8))
    return net


def test_copies_are_equal_and_independent(trained: nn.Module) -> None:
    x = torch.randn(4, 3, 8, 8)
    expected = copy.deepcopy(trained).eval()(x)
    fresh = insert(wide_resnet(depth=10, width=1), CNSNSpec(kind="cnsn", crop="both"))
    fresh.load_state_dict(trained.state_dict(), strict=True)
    for twin in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained)), fresh):
        assert torch.equal(twin.eval()(x), expected)
        with crossnorm_active(twin, k=3):
            assert not any(m.active for m in trained.modules() if isinstance(m, CrossNorm))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
    assert torch.equal(copy.deepcopy(trained).eval()(x), expected)


@pytest.mark.parametrize("training", [False, True])
def test_compiled_without_graph_breaks(trained: nn.Module, training: bool) -> None:
    net = copy.deepcopy(trained).train(training)
    twin = copy.deepcopy(net)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(compiled(x), twin(x))


def test_exported(trained: nn.Module) -> None:
    net, x = copy.deepcopy(trained).eval(), torch.randn(4, 3, 8, 8)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


def test_new_parameters_follow_the_block() -> None:
    net = insert(wide_resnet(depth=10, width=1).double().eval(), CNSNSpec(kind="cnsn"))
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert not any(module.training for module in net.modules())
