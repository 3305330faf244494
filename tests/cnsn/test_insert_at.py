"""The layers on the outputs of modules that a pattern names."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from cnsn import CNSN, CNSNSpec, SelfNorm, crossnorm_active, crossnorm_sites, insert
from cnsn.functional import cross_norm

PARTNER = torch.tensor([2, 0, 3, 1])
BLOCKS = r"block\d$"


class Block(nn.Module):
    """A block that no library has; its output has as many channels as only its code knows."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, inside, 3, 3) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, padding=1).relu()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block1 = Block(4, 6)
        self.block2 = Block(6, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.stem(x)))
        return self.head(x.mean((2, 3)))


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def built(kind: str = "cnsn", at: object = BLOCKS) -> Net:
    torch.manual_seed(0)
    return insert(Net(), CNSNSpec(kind=kind), at=at)  # type: ignore[arg-type]


def test_outputs_are_restyled_and_gated_in_training_and_evaluation() -> None:
    net = built().train()
    plain = Net()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if ".cnsn." not in k})
    x = images()
    net(x)  # The first forward tells the channels.
    gates = [copy.deepcopy(net.block1.cnsn.selfnorm), copy.deepcopy(net.block2.cnsn.selfnorm)]
    assert [gate.channels for gate in gates] == [6, 5]
    assert [gate.g_fc.weight.shape[0] for gate in gates] == [6, 5]

    def by_hand(exchange: bool) -> Tensor:
        y = plain.stem(x)
        for block, gate in zip((plain.block1, plain.block2), gates, strict=True):
            y = block(y)
            y = gate(cross_norm(y, y[PARTNER]) if exchange else y)
        return plain.head(y.mean((2, 3)))

    with crossnorm_active(net, "all", partner=PARTNER):
        torch.testing.assert_close(net(x), by_hand(True))
    torch.testing.assert_close(net(x), by_hand(False))
    net.eval(), [gate.eval() for gate in gates]
    torch.testing.assert_close(net(x), by_hand(False))


def test_keys_stay_and_those_of_the_layers_are_readable() -> None:
    plain, net = list(Net().state_dict()), built()
    own = [f"g_bn.{k}" for k in ("weight", "bias", "running_mean", "running_var")]
    added = {
        f"block{i}.cnsn.selfnorm.{k}"
        for i in (1, 2)
        for k in ("g_fc.weight", *own, "g_bn.num_batches_tracked")
    }
    assert set(net.state_dict()) == set(plain) | added
    assert [key for key in net.state_dict() if key in plain] == plain
    net(images())
    assert set(net.state_dict()) == set(plain) | added
    assert list(built("cn").state_dict()) == plain


def test_equal_to_the_site_out_of_a_known_block() -> None:
    torch.manual_seed(0)
    plain = models.resnet18(num_classes=5)
    sites = insert(copy.deepcopy(plain), CNSNSpec(kind="cnsn", position="out")).train()
    named = insert(plain, CNSNSpec(kind="cnsn"), at=r"layer\d\.\d+$").train()
    # Blocks of a known family know their channels.
    named.load_state_dict(sites.state_dict())
    assert list(named.state_dict()) == list(sites.state_dict())
    x = torch.randn(4, 3, 32, 32)
    results = []
    for net in (sites, named):
        with crossnorm_active(net, "all", torch.Generator().manual_seed(1)) as active:
            assert len(active) == 8
            out = net(x)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in net.parameters()), net.eval()(x)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("when", ["before the first forward", "after it"])
def test_copies_are_equal_and_independent(when: str) -> None:
    net = built().train()
    if when == "after it":
        net(images())
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    twins = [
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        torch.load(buffer, weights_only=False),
    ]
    net(images())
    for twin in twins:
        twin(images())
        twin.load_state_dict(net.state_dict())
        assert torch.equal(twin.eval()(images()), copy.deepcopy(net).eval()(images()))
        assert twin.block1.cnsn is not net.block1.cnsn and type(twin.block1.cnsn) is type(
            net.block1.cnsn
        )
        with torch.no_grad():
            twin.block1.cnsn.selfnorm.g_bn.bias.fill_(-9.0)
    assert not torch.equal(twins[0](images()), copy.deepcopy(net).eval()(images()))


def test_a_pickled_hook_keeps_its_number() -> None:
    """A hook of a later process must not take the place of the one that came with the network."""
    code = """
        import pickle, sys, torch
        sys.path.insert(0, sys.argv[1])
        from tests.cnsn.test_insert_at import Net, images
        net = pickle.load(open(sys.argv[2], "rb")).eval()
        before = net(images())
        for _ in range(500):
            net.block1.register_forward_hook(lambda *_: None)
        assert torch.equal(net(images()), before)
    """
    import tempfile
    from pathlib import Path

    net = built().train()
    net(images())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pickle"
        path.write_bytes(pickle.dumps(net))
        root = str(Path(__file__).parents[2])
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), root, str(path)], check=True, cwd=root
        )


def test_weights_that_are_loaded_before_the_first_forward_are_kept() -> None:
    trained = built().train()
    trained(images())
    net = built()
    net.load_state_dict(trained.state_dict())
    assert torch.equal(net.eval()(images()), trained.eval()(images()))
    other = built()
    other.block1.weight = nn.Parameter(torch.randn(9, 4, 3, 3))
    state = trained.state_dict() | {"block1.weight": other.block1.weight}
    other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"as many channels as the loaded `weight`.*\(6, 1, 2\)"):
        other(images())


def test_an_optimizer_made_before_the_first_forward_trains_the_layers() -> None:
    net = built("sn").train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(images()).square().sum().backward()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer.step()
    for name, parameter in net.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_average_of_weights() -> None:
    net = built("sn").train()
    net(images())
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    assert torch.equal(average.eval()(images()), copy.deepcopy(net).eval()(images()))


@pytest.mark.parametrize("known", [False, True])
def test_compiled_without_graph_breaks(known: bool) -> None:
    net = built().train()
    if known:
        net(images())
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    found = compiled(images())
    torch.manual_seed(3)
    torch.testing.assert_close(found, net(images()))


def test_exported_and_traced() -> None:
    net = built().eval()
    x = images()
    expected = net(x)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(net, x)(x), expected)


def test_the_rest_is_prepared_for_quantisation() -> None:
    from torch.ao import quantization

    net = built("sn", BLOCKS).train()
    net(images())
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    prepared = quantization.prepare_qat(net)
    prepared(images()).sum().backward()
    assert type(prepared.stem) is torch.ao.nn.qat.Conv2d
    converted = quantization.convert(prepared.eval())
    assert type(converted.stem) is torch.ao.nn.quantized.Conv2d
    gate = converted.block1.cnsn.selfnorm
    assert type(gate.g_fc) is nn.Conv1d and torch.isfinite(gate(torch.randn(2, 6, 4, 4))).all()

    replaced = built("sn", "stem$").train()
    replaced.qconfig = net.qconfig
    prepared = quantization.prepare_qat(replaced)
    with pytest.raises(ValueError, match=r"replace modules .* before `insert`"):
        prepared(images())


def test_sharded_by_fsdp() -> None:
    code = """
        import copy, os, sys, torch
        from torch.distributed import init_process_group
        from torch.distributed.fsdp import fully_shard
        from tests.cnsn.test_insert_at import built, images
        init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{sys.argv[1]}")
        net = built("sn").train()
        net(images())
        plain = copy.deepcopy(net)
        for block in (net.block1, net.block2):
            fully_shard(block)
        fully_shard(net)
        net(images()).sum().backward()
        plain(images()).sum().backward()
        for one, other in zip(net.parameters(), plain.parameters()):
            torch.testing.assert_close(one.grad.full_tensor(), other.grad)
    """
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(__file__).parents[2])
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), f"{folder}/store"], check=True, cwd=root
        )


def test_a_transformer_layer_leaves_its_fast_path() -> None:
    torch.manual_seed(0)
    plain = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="sn", channel_dim=1), at="linear2$").eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        assert not torch.allclose(net(x), plain(x), atol=1e-3)


class Dense(nn.ModuleDict):
    """As torchvision's dense block: calls its members one by one, by its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self.values():
            x = torch.cat([x, module(x)], 1)
        return x


class Every(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        for i, module in enumerate(self):
            x = module(x) * (i + 1)
        return x + self[-1](x) * len(self)


@pytest.mark.parametrize(
    "inner",
    [
        Dense({"a": nn.Conv2d(4, 2, 1), "b": nn.Conv2d(6, 2, 1)}),
        Every([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)]),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1), nn.ReLU()),
    ],
)
def test_containers_do_not_call_the_layers_as_a_member(inner: nn.Module) -> None:
    plain = nn.ModuleDict({"inner": copy.deepcopy(inner)})
    holder = insert(nn.ModuleDict({"inner": inner}), CNSNSpec(kind="cnsn"), at="^inner$").train()
    x = torch.randn(4, 4, 6, 6)
    holder["inner"](x)
    for net in (holder, copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        assert "inner.cnsn.selfnorm.g_fc.weight" in net.state_dict()
        assert type(net["inner"]).__name__ == type(inner).__name__
        gate = copy.deepcopy(net["inner"].cnsn.selfnorm)
        y = plain["inner"](x)
        with crossnorm_active(net, "all", partner=PARTNER):
            torch.testing.assert_close(net["inner"](x), gate(cross_norm(y, y[PARTNER])))
        torch._dynamo.reset()
        compiled = torch.compile(net["inner"].eval(), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), gate.eval()(y))


def test_patterns_predicates_and_the_spec() -> None:
    def having(net: nn.Module) -> list[str]:
        return [name for name, m in net.named_modules() if isinstance(m, CNSN)]

    assert having(built(at=["stem$", r"block2$"])) == ["stem.cnsn", "block2.cnsn"]
    predicate = built(at=lambda name, module: isinstance(module, Block) and name != "block1")
    assert having(predicate) == ["block2.cnsn"]
    spec = CNSNSpec(kind="sn", at=("stem$", "block1$"))
    assert having(insert(Net(), spec)) == ["stem.cnsn", "block1.cnsn"]
    assert having(insert(Net(), spec, at="block2$")) == ["block2.cnsn"]
    assert having(insert(Net(), CNSNSpec(at="block1$"))) == []
    # Known from the type of the module, so without a forward.
    assert insert(Net(), spec).stem.cnsn.selfnorm.channels == 4
    both = insert(Net(), CNSNSpec(kind="cnsn", image=True), at=BLOCKS)
    assert len(crossnorm_sites(both)) == 1 and len(having(both)) == 2


def test_a_module_under_two_names_gets_one() -> None:
    net = nn.Module()
    net.first = net.second = nn.Conv2d(3, 3, 1)
    insert(net, CNSNSpec(kind="cn"), at="second$")
    assert len(crossnorm_sites(net)) == 1 and len(net.first._forward_hooks) == 1
    net = nn.Module()
    net.first = net.second = nn.Conv2d(3, 3, 1)
    insert(net, CNSNSpec(kind="cn"), at=["first$", "second$"])
    assert len(crossnorm_sites(net)) == 1 and len(net.first._forward_hooks) == 1


def test_new_parameters_follow_the_network() -> None:
    net = insert(Net().double().eval(), CNSNSpec(kind="cnsn"), at=BLOCKS)
    net(images().double())
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert not any(module.training for module in net.modules())
    later = built().double()
    later(images().double())
    assert {p.dtype for p in later.parameters()} == {torch.float64}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize("kind", ["cn", "sn"])
@pytest.mark.parametrize(
    ("module", "got"),
    [
        (Pair(), "a tuple"),
        (nn.Flatten(), r"\(2, 192\) of torch.float32"),
        (nn.MaxPool2d(2, return_indices=True), "a tuple"),
    ],
)
def test_an_output_that_is_no_map_is_refused_by_name(
    kind: str, module: nn.Module, got: str
) -> None:
    net = insert(
        nn.Sequential(nn.Conv2d(3, 3, 1), copy.deepcopy(module)), CNSNSpec(kind=kind), at="^1$"
    )  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"output of `1`, which `at` names.*returns {got}"):
        net(images(2))


class Unknown(nn.Module):
    """As any library's network: blocks that repeat, in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1)) for _ in range(2))


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("blok1$", "matches none. Near it are block1, block2"),
        (["stem$", "layer1"], "'layer1' matches none"),
        ("block[", "regular expression, but got 'block\\['"),
        ("", "within another.*`` and `stem`"),
        ([], "hold a pattern"),
        (lambda name, module: False, "chose none"),
    ],
)
def test_what_names_no_modules_is_refused(at: object, message: str) -> None:
    net = Net()
    with pytest.raises(ValueError, match=message):
        insert(net, CNSNSpec(kind="cnsn"), at=at)  # type: ignore[arg-type]
    assert list(net.state_dict()) == list(Net().state_dict()) and not crossnorm_sites(net)


def test_refusals_leave_the_network_unchanged() -> None:
    net = models.resnet18()
    types = [type(m) for m in net.modules()]
    for options, at, message in (
        ({}, "layer1", "`layer1` and `layer1.0`: anchor it by"),
        ({"stages": (1,)}, "layer1$", "^Expected `stages` to be left out"),
        ({"cn_position": "pre"}, "layer1$", "^Expected `cn_position` to be left out"),
        ({"kind": "cn", "image": True}, "layer1$", "^Expected `at` to be None"),
    ):
        with pytest.raises(ValueError, match=message):
            insert(net, CNSNSpec(**({"kind": "cnsn"} | options)), at=at)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`stages` is a ModuleList, which has no forward"):
        insert(Unknown(), CNSNSpec(kind="cn"), at="stages$")
    with pytest.raises(ValueError, match=r"hold blocks.*by `at`, such as .*r'stages"):
        insert(Unknown(), CNSNSpec(kind="cn"))
    with pytest.raises(ValueError, match="TorchScript"):
        insert(torch.jit.script(nn.Conv2d(3, 3, 1)), CNSNSpec(kind="cn"), at="^$")
    inserted = insert(models.resnet18(), CNSNSpec(kind="cn"), at="layer1$")
    with pytest.raises(ValueError, match=r"already.*cnsn.remove"):
        insert(inserted, CNSNSpec(kind="cn"), at="layer2$")
    assert [type(m) for m in net.modules()] == types and not any(
        m._forward_hooks for m in net.modules()
    )


def test_the_example_in_the_refusal_works() -> None:
    net = models.shufflenet_v2_x0_5()
    with pytest.raises(ValueError, match="hold blocks") as refused:
        insert(net, CNSNSpec(kind="sn"))
    pattern = str(refused.value).split("at=r'")[1].split("'")[0]
    insert(net, CNSNSpec(kind="sn"), at=pattern).eval()
    net(torch.randn(1, 3, 32, 32))
    assert sum(isinstance(module, SelfNorm) for module in net.modules()) > 1
