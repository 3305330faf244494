"""The networks against forwards written out from the official parameter names."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn import CNSNSpec, CrossNorm, SelfNorm, crossnorm_active, insert
from cnsn.functional import cross_norm
from cnsn.nets import (
    AllConv,
    DenseNet,
    IBNResNet50,
    ResNeXt,
    allconv,
    densenet40,
    resnet50,
    resnet50_ibn,
    resnext29,
    wide_resnet,
)
from cnsn.nets.resnet import Variant

State = Mapping[str, Tensor]
# The network, the position of both layers, the number of parameters, and the start of the SHA-256
# of the lines "name shape" of the official network's state dict, in its order.
OFFICIAL: dict[str, tuple[Callable[[], nn.Module], str, int, str]] = {
    "wide_resnet at post": (wide_resnet, "post", 2_248_922, "21e53439c0beb11d"),
    "wide_resnet at pre": (wide_resnet, "pre", 2_248_474, "f5d0c92bf0e3ce48"),
    "resnext29 at out": (resnext29, "out", 6_829_386, "5fcf4457c8084ec1"),
    "resnext29 at residual": (resnext29, "residual", 6_829_386, "5fcf4457c8084ec1"),
    "densenet40 at conv1_pre": (densenet40, "conv1_pre", 1_092_994, "69ff9ebb92769c0a"),
    "densenet40 at conv1_post": (densenet40, "conv1_post", 1_061_026, "7388c1526d7526aa"),
    "allconv after conv": (allconv, "conv", 1_415_434, "3671300cf64f6c07"),
    "resnet50 at post": (resnet50, "post", 25_617_448, "a2c4b80908182139"),
    "resnet50_ibn a at residual": (
        lambda: resnet50_ibn(variant="a"),
        "residual",
        25_617_448,
        "dac3f62377e5ffb4",
    ),
    "resnet50_ibn b at residual": (resnet50_ibn, "residual", 25_618_984, "93f1847049cb5984"),
}


def digest(state: State) -> str:
    lines = (f"{name} {list(value.shape)}" for name, value in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", list(OFFICIAL))
def test_names_shapes_and_order_are_the_official_ones(name: str) -> None:
    build, position, parameters, expected = OFFICIAL[name]
    net = insert(build(), CNSNSpec(kind="cnsn", position=position))
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert digest(net.state_dict()) == expected


def test_names_of_networks_without_the_layers() -> None:
    plain = {key.replace(".cnsn.", "") for key in resnext29().state_dict()}
    assert not any("norm" in key for key in plain)
    # AllConv's members are renumbered where layers are inserted.
    members = [int(key.split(".")[1]) for key in allconv().features.state_dict(prefix="f.")]
    assert sorted(set(members)) == [
        0,
        1,
        3,
        4,
        6,
        7,
        11,
        12,
        14,
        15,
        17,
        18,
        22,
        23,
        25,
        26,
        28,
        29,
    ]
    keys = list(insert(resnet50(), CNSNSpec(kind="cn", image=True)).state_dict())
    assert keys == list(resnet50().state_dict())


# What an inserted layer makes of a map; the first argument is the key of the layer.
Layer = Callable[[str, Tensor], Tensor]


class ByHand:
    """Forwards of whole networks in evaluation mode, from a state dict with the official names.

    Args:
        state: the state dict.
        site: where `layer` acts.
        layer: what it does.
    """

    def __init__(self, state: State, site: str, layer: Layer) -> None:
        self.state, self.site, self.layer = state, site, layer

    def at(self, site: str, key: str, x: Tensor) -> Tensor:
        return self.layer(key, x) if site == self.site else x

    def conv(self, key: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.state[f"{key}.weight"], self.state.get(f"{key}.bias"), **options)

    def bn(self, key: str, x: Tensor) -> Tensor:
        return batch_norm(self.state, key, x)

    def instance_norm(self, key: str, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        std = (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        weight, bias = self.state[f"{key}.weight"], self.state[f"{key}.bias"]
        return (x - mean) / std * weight[:, None, None] + bias[:, None, None]

    def linear(self, key: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{key}.weight"], self.state[f"{key}.bias"])

    def resnext(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn("bn_1", self.conv("conv_1_3x3", x, padding=1)))
        for stage in (1, 2, 3):
            for i in range(3):
                key = f"stage_{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                shortcut = x
                x = self.at("pre", f"{key}.cnsn", x)
                y = F.relu(self.bn(f"{key}.bn_reduce", self.conv(f"{key}.conv_reduce", x)))
                y = self.conv(f"{key}.conv_conv", y, padding=1, stride=stride, groups=4)
                y = self.conv(f"{key}.conv_expand", F.relu(self.bn(f"{key}.bn", y)))
                y = self.at("residual", f"{key}.cnsn", self.bn(f"{key}.bn_expand", y))
                if i == 0:
                    # The projection sees what `pre` has made of the input.
                    shortcut = self.conv(f"{key}.downsample.0", x, stride=stride)
                    shortcut = self.bn(f"{key}.downsample.1", shortcut)
                x = y + self.at("identity", f"{key}.cnsn", shortcut)
                x = F.relu(self.at("post", f"{key}.cnsn", x))
                x = self.at("out", f"{key}.cnsn", x)
        return self.linear("classifier", F.avg_pool2d(x, 8).flatten(1))

    def densenet(self, x: Tensor) -> Tensor:
        x = self.conv("conv1", x, padding=1)
        for block in (1, 2, 3):
            for i in range(12):
                key = f"dense{block}.{i}"
                x = self.at("conv1_pre", f"{key}.cnsn", x)
                y = self.conv(f"{key}.conv1", F.relu(self.bn(f"{key}.bn1", x)), padding=1)
                x = torch.cat((x, self.at("conv1_post", f"{key}.cnsn", y)), 1)
            if block < 3:
                y = F.relu(self.bn(f"trans{block}.bn1", x))
                x = F.avg_pool2d(self.conv(f"trans{block}.conv1", y), 2)
        return self.linear("fc", F.avg_pool2d(F.relu(self.bn("bn1", x)), 8).flatten(1))

    def allconv(self, x: Tensor) -> Tensor:
        member = 0
        for padding in (1, 1, 1, None, 1, 1, 1, None, 0, 1, 1):
            if padding is None:
                x, member = F.max_pool2d(x, 2), member + 2  # the dropout is a member, too
                continue
            for part in ("conv", "norm", "act"):
                key = f"features.{member}"
                if part == "conv":
                    x = self.conv(key, x, padding=padding)
                elif part == "norm":
                    x = self.bn(key, x)
                else:
                    x = torch.sigmoid(1.702 * x) * x
                member += 1
                if part == self.site:
                    x, member = self.layer(f"features.{member}", x), member + 1
        assert x.shape[2:] == (10, 10)
        return self.linear("classifier", x[:, :, :8, :8].mean((2, 3)))

    def resnet(self, x: Tensor) -> Tensor:
        """ResNet-50, plain, IBN-a or IBN-b."""
        x = self.conv("conv1", x, padding=3, stride=2)
        stem = self.bn if "bn1.running_mean" in self.state else self.instance_norm
        x = F.max_pool2d(F.relu(stem("bn1", x)), 3, 2, 1)
        for stage, blocks in enumerate((3, 4, 6, 3), start=1):
            for i in range(blocks):
                key = f"layer{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                y = self.conv(f"{key}.conv1", self.at("pre", f"{key}.cnsn", x))
                if f"{key}.bn1.IN.weight" in self.state:
                    half = y.shape[1] // 2
                    normed = self.instance_norm(f"{key}.bn1.IN", y[:, :half])
                    y = torch.cat((normed, self.bn(f"{key}.bn1.BN", y[:, half:])), 1)
                else:
                    y = self.bn(f"{key}.bn1", y)
                y = self.conv(f"{key}.conv2", F.relu(y), padding=1, stride=stride)
                y = self.conv(f"{key}.conv3", F.relu(self.bn(f"{key}.bn2", y)))
                y = self.at("residual", f"{key}.cnsn", self.bn(f"{key}.bn3", y))
                if i == 0:
                    x = self.bn(
                        f"{key}.downsample.1", self.conv(f"{key}.downsample.0", x, stride=stride)
                    )
                y = y + self.at("identity", f"{key}.cnsn", x)
                if f"{key}.IN.weight" in self.state:
                    y = self.instance_norm(f"{key}.IN", y)
                else:
                    y = self.at("post", f"{key}.cnsn", y)
                x = self.at("out", f"{key}.cnsn", F.relu(y))
        return self.linear("fc", x.mean((2, 3)))


def batch_norm(state: State, key: str, x: Tensor) -> Tensor:
    names = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{key}.{name}"] for name in names))


def selfnorm_of(state: State) -> Layer:
    """The released, one-sided SelfNorm."""

    def layer(key: str, x: Tensor) -> Tensor:
        std = (x.var((2, 3)) + 1e-12).sqrt()
        statistics = torch.stack((x.mean((2, 3)), std), -1)
        weight = state[f"{key}.selfnorm.g_fc.weight"]
        score = F.conv1d(statistics, weight, groups=x.shape[1])
        gate = torch.sigmoid(batch_norm(state, f"{key}.selfnorm.g_bn", score))
        return x * gate[..., None]

    return layer


def as_trained(net: nn.Module) -> nn.Module:
    """In double precision and evaluation mode, no normalisation in its initial state."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in net.double().modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d):
                for values in (*module.parameters(), *module.buffers()):
                    if values.is_floating_point():
                        values += 0.4 * torch.rand(values.shape, generator=generator)
    return net.eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, int, tuple[str, ...]]] = {
    "resnext29": (resnext29, "resnext", 32, ("pre", "residual", "identity", "post", "out")),
    "densenet40": (densenet40, "densenet", 32, ("conv1_pre", "conv1_post")),
    "allconv": (allconv, "allconv", 32, ("conv", "norm", "act")),
    "resnet50": (resnet50, "resnet", 64, ("post",)),
    "resnet50_ibn a": (
        lambda: resnet50_ibn(variant="a"),
        "resnet",
        64,
        ("pre", "post", "residual"),
    ),
    "resnet50_ibn b": (resnet50_ibn, "resnet", 64, ("residual", "post", "out")),
}
SITES = [(name, site) for name, (*_, sites) in NETWORKS.items() for site in sites]


@pytest.mark.parametrize(("name", "site"), SITES)
def test_selfnorm_at_every_site_equals_the_network_by_hand(name: str, site: str) -> None:
    torch.manual_seed(0)
    build, forward, size, _ = NETWORKS[name]
    net = as_trained(insert(build(), CNSNSpec(kind="sn", position=site)))
    state, x = net.state_dict(), torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        logits = net(x)
    by_hand = getattr(ByHand(state, site, selfnorm_of(state)), forward)
    torch.testing.assert_close(logits, by_hand(x), rtol=1e-9, atol=1e-9)
    assert logits.std() > 1e-3


@pytest.mark.parametrize(
    ("name", "site", "sites"),
    [
        ("resnext29", "out", 9),
        ("densenet40", "conv1_pre", 36),
        ("allconv", "conv", 9),
        ("resnet50_ibn b", "post", 14),
    ],
)
def test_crossnorm_at_every_block_equals_the_network_by_hand(
    name: str, site: str, sites: int
) -> None:
    torch.manual_seed(0)
    build, forward, size, _ = NETWORKS[name]
    plain = as_trained(build())
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="cn", position=site))
    x, partner = torch.randn(3, 3, size, size, dtype=torch.float64), torch.tensor([1, 2, 0])
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))
        for module in net.modules():
            if isinstance(module, CrossNorm):
                module.train()
        with crossnorm_active(net, k=sites, partner=partner) as chosen:
            logits = net(x)
    assert len(chosen) == sites

    def exchange(_: str, value: Tensor) -> Tensor:
        return cross_norm(value, value[partner])

    expected = getattr(ByHand(net.state_dict(), site, exchange), forward)(x)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=f"from 0 to {sites}"), crossnorm_active(net, k=sites + 1):
        pass


def test_crossnorm_apart_from_selfnorm_in_a_chain() -> None:
    spec = CNSNSpec(kind="cnsn", position="act", cn_position="conv")
    net = insert(AllConv(width=4), spec).train()
    features = net.features
    kinds = [type(m).__name__ for m in features]
    assert kinds[:5] == ["Conv2d", "CrossNorm", "BatchNorm2d", "SigmoidGELU", "CNSN"]
    x, partner = torch.randn(4, 3, 32, 32), torch.tensor([3, 0, 1, 2])
    map_ = features[0](x)
    with crossnorm_active(net, k=9, partner=partner):
        torch.testing.assert_close(features[:2](x), cross_norm(map_, map_[partner]))


@pytest.mark.parametrize("name", ["resnext29", "densenet40", "allconv", "resnet50_ibn b"])
def test_crossnorm_on_the_image_needs_no_position(name: str) -> None:
    build, _, size, _ = NETWORKS[name]
    plain = build().double().eval()
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="cn", image=True))
    assert list(net.state_dict()) == list(plain.state_dict())
    x, partner = torch.randn(3, 3, size, size).double(), torch.tensor([1, 2, 0])
    with torch.no_grad(), crossnorm_active(net, k=1, partner=partner) as (site,):
        site.train()
        torch.testing.assert_close(net(x), plain(cross_norm(x, x[partner])))


def test_crossnorm_alone_at_a_position_of_its_own() -> None:
    net = insert(AllConv(width=2), CNSNSpec(kind="cn", cn_position="norm"))
    kinds = [type(m).__name__ for m in net.features]
    assert kinds[:4] == ["Conv2d", "BatchNorm2d", "CrossNorm", "SigmoidGELU"]
    assert kinds.count("CrossNorm") == 9 and "CNSN" not in kinds


def small(name: str) -> nn.Module:
    networks: dict[str, Callable[[], nn.Module]] = {
        "resnext": lambda: ResNeXt(depth=11, cardinality=2, base_width=4),
        "densenet": lambda: DenseNet(depth=7, growth=4, reduction=0.5),
        "allconv": lambda: AllConv(width=4),
        # Its first stage has both kinds of blocks.
        "ibn": lambda: resnet50_ibn().layer1,
    }
    return networks[name]()


def input_of(name: str) -> Tensor:
    channels, size = (64, 6) if name == "ibn" else (3, 24)
    return torch.randn(4, channels, size, size)


SMALL = {"resnext": "out", "densenet": "conv1_pre", "allconv": "conv", "ibn": "post"}


def trained(name: str) -> nn.Module:
    """A small network whose statistics are not the initial ones."""
    torch.manual_seed(0)
    net = insert(small(name), CNSNSpec(kind="cnsn", position=SMALL[name], crop="both")).train()
    with torch.no_grad():
        for _ in range(3):
            net(input_of(name))
    return net


@pytest.mark.parametrize("name", list(SMALL))
def test_copies_are_equal_and_independent(name: str) -> None:
    net, x = trained(name), input_of(name)
    expected = copy.deepcopy(net).eval()(x)
    fresh = insert(small(name), CNSNSpec(kind="cnsn", position=SMALL[name], crop="both"))
    fresh.load_state_dict(net.state_dict(), strict=True)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fresh):
        assert torch.equal(twin.eval()(x), expected)
        with crossnorm_active(twin, k=2):
            assert not any(m.active for m in net.modules() if isinstance(m, CrossNorm))
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
    assert torch.equal(copy.deepcopy(net).eval()(x), expected)


@pytest.mark.parametrize(
    "name",
    # What no other network has: concatenation, and layers as members of a chain.
    ["densenet", "allconv", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnext", "ibn"))],
)
def test_compiled_without_graph_breaks(name: str) -> None:
    net = trained(name)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    twin = copy.deepcopy(net)
    torch._dynamo.reset()
    x = input_of(name)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), twin(x))


@pytest.mark.parametrize("name", list(SMALL))
def test_exported(name: str) -> None:
    net, x = trained(name).eval(), input_of(name)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_stages() -> None:
    def having(net: nn.Module, position: str, stages: tuple[int, ...]) -> list[str]:
        insert(net, CNSNSpec(kind="sn", position=position, stages=stages))
        return [name for name, m in net.named_modules() if isinstance(m, SelfNorm)]

    assert having(ResNeXt(depth=11), "pre", (1, 3)) == [
        "stage_1.0.cnsn.selfnorm",
        "stage_3.0.cnsn.selfnorm",
    ]
    assert having(DenseNet(depth=7), "conv1_post", (2,)) == ["dense2.0.cnsn.selfnorm"]
    # Members 0 to 10 are the first stage with its pooling; each of the last three units has one.
    last = [f"features.{number}.selfnorm" for number in (23, 27, 31)]
    assert having(AllConv(width=4), "conv", (3,)) == last
    ibn = having(resnet50_ibn(), "post", (1,))
    assert ibn == ["layer1.0.cnsn.selfnorm", "layer1.1.cnsn.selfnorm"]


@pytest.mark.parametrize(
    ("build", "spec", "message"),
    [
        (allconv, CNSNSpec(kind="sn"), r"\['act', 'conv', 'norm'\].*got 'post'"),
        (densenet40, CNSNSpec(kind="cnsn", position="pre"), r"\['conv1_post', 'conv1_pre'\]"),
        (resnext29, CNSNSpec(kind="cn", cn_position="conv"), r"ResNeXtBlock.*got 'conv'"),
        (resnet50_ibn, CNSNSpec(kind="sn", position="in"), r"'identity', 'out'.*got 'in'"),
        (allconv, CNSNSpec(kind="sn", position="conv", stages=(4,)), "from 1 to 3"),
        (
            lambda: insert(allconv(), CNSNSpec(kind="cn", position="conv")),
            CNSNSpec(kind="cn", position="conv"),
            "already",
        ),
    ],
)
def test_what_cannot_be_inserted(
    build: Callable[[], nn.Module], spec: CNSNSpec, message: str
) -> None:
    net = build()
    types, keys = [type(m) for m in net.modules()], list(net.state_dict())
    with pytest.raises(ValueError, match=message):
        insert(net, spec)
    assert [type(m) for m in net.modules()] == types and list(net.state_dict()) == keys


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ResNeXt(depth=30), r"`depth` to be 9 n \+ 2.*got 30"),
        (lambda: ResNeXt(cardinality=0), "`cardinality`"),
        (lambda: DenseNet(depth=39), r"`depth` to be 3 n \+ 4.*got 39"),
        (lambda: DenseNet(growth=0), "`growth`"),
        (lambda: DenseNet(reduction=0.0), "`reduction`"),
        (lambda: AllConv(width=0), "`width`"),
        (lambda: AllConv(dropout=1.0), "`dropout`"),
        (lambda: IBNResNet50(variant="c"), r"`variant` to be one of \('a', 'b'\).*got 'c'"),
        (lambda: AllConv(width=2)(torch.zeros(1, 3, 16, 32)), r"24 to 55 pixels.*got \(16, 32\)"),
        (lambda: AllConv(width=2)(torch.zeros(1, 3, 32, 56)), r"24 to 55 pixels"),
    ],
)
def test_arguments_out_of_range(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("side", [24, 55])
def test_allconv_at_the_limits_of_its_input(side: int) -> None:
    assert AllConv(width=2, num_classes=3).eval()(torch.zeros(1, 3, side, side)).shape == (1, 3)


def test_first_weights() -> None:
    """He's normal draw by output channels, zero biases; ResNeXt's classifier by its inputs."""
    torch.manual_seed(0)
    for net in (resnext29(), densenet40(), allconv(), resnet50_ibn()):
        for key, module in net.named_modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
                n = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                assert module.weight.std().item() == pytest.approx((2 / n) ** 0.5, rel=0.03), key
                assert module.weight.mean().item() == pytest.approx(0, abs=0.03 * (2 / n) ** 0.5)
    classifier = resnext29(num_classes=100).classifier
    assert classifier.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.03)
    heads = (classifier, densenet40().fc, allconv().classifier)
    assert not any(head.bias.any() for head in heads)


@pytest.mark.parametrize("variant", ["a", "b"])
@pytest.mark.parametrize("training", [True, False])
def test_instance_norm_of_one_pixel_is_refused_in_words(variant: Variant, training: bool) -> None:
    net = resnet50_ibn(variant=variant, num_classes=2).train(training)
    with pytest.raises(ValueError, match=r"at least 2 pixels .* \(2, \d+, 1, 1\)"):
        net(torch.randn(2, 3, 4, 4))
