"""The layers in networks of other libraries; docs/networks.md says which, and is read here."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import convert, get_default_qat_qconfig, prepare_qat
from torch.utils._pytree import tree_leaves

import cnsn.backbones
from cnsn import CNSNSpec, SelfNorm, crossnorm_active, crossnorm_sites, insert
from cnsn.backbones import _SITED
from tests.cnsn.network_cases import BUILDERS, CASES, Case

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
NETWORKS = [
    pytest.param(case, id=case.id, marks=[] if case.quick else pytest.mark.slow) for case in CASES
]
TRACED = [pytest.param(case, id=case.id, marks=pytest.mark.slow) for case in CASES[::3]]


def output(net: nn.Module, x: Tensor) -> Tensor:
    return next(leaf for leaf in tree_leaves(net(x)) if isinstance(leaf, Tensor))


def equipped(case: Case, plain: nn.Module, kind: str) -> nn.Module:
    net = copy.deepcopy(plain)
    insert(net, CNSNSpec(kind=kind, position=case.position), at=case.at)  # type: ignore[arg-type]
    with torch.no_grad():
        # Where channels are not known, the first forward tells them.
        net.eval()(case.input())
    return net


@pytest.mark.parametrize("case", NETWORKS)
def test_network(case: Case) -> None:
    torch.manual_seed(0)
    plain, x = case.build(), case.input()
    with_crossnorm = equipped(case, plain, "cn")
    assert crossnorm_sites(with_crossnorm)
    assert list(with_crossnorm.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        # What is drawn, such as stochastic depth, is drawn as before.
        for training in (False, True):
            results = []
            for net in (plain, with_crossnorm):
                torch.manual_seed(1)
                results.append(output(net.train(training), x))
            assert torch.equal(*results)
    net = equipped(case, plain, "cnsn")
    trains_a_step(net, x, set(plain.state_dict()))
    copies_are_equal(net.eval(), x, equipped(case, plain, "cnsn"))


def trains_a_step(net: nn.Module, x: Tensor, keys: set[str]) -> None:
    assert keys < set(net.state_dict())
    inserted = {name: p for name, p in net.named_parameters() if name not in keys}
    before = {name: p.detach().clone() for name, p in inserted.items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with crossnorm_active(net.train(), k=len(crossnorm_sites(net))):
        output(net, x).square().mean().backward()
    for name, parameter in inserted.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    assert any(not torch.equal(before[name], p) for name, p in inserted.items())


def copies_are_equal(net: nn.Module, x: Tensor, fresh: nn.Module) -> None:
    fresh.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = output(net, x)
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fresh.eval()):
            assert torch.equal(output(twin, x), expected)


def symbolic(plain: nn.Module) -> bool:
    """Whether torch.fx traces the network itself; some ask for shapes in Python's control flow."""
    try:
        torch.fx.symbolic_trace(plain)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("case", TRACED)
def test_compiled_exported_and_traced(case: Case) -> None:
    torch.manual_seed(0)
    plain, x = case.build(), case.input()
    net = equipped(case, plain, "cnsn")
    with torch.no_grad():
        expected = output(net, x)
        program = torch.export.export(net, (x,))
        torch.testing.assert_close(output(program.module(), x), expected, atol=1e-4, rtol=1e-4)
        recorded = torch.jit.trace(net, x, check_trace=False, strict=False)
        torch.testing.assert_close(output(recorded, x), expected, atol=1e-4, rtol=1e-4)
        if symbolic(plain):
            assert torch.equal(output(torch.fx.symbolic_trace(net), x), expected)
        torch._dynamo.reset()
        compiled = torch.compile(net, backend="aot_eager")
        torch.testing.assert_close(output(compiled, x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_tiny_patch16_224", 1),
        ("vit_small_patch14_reg4_dinov2", 5),
        ("vit_base_patch16_siglip_224", 0),
    ],
)
def test_tokens_that_are_no_part_of_the_map(name: str, prefix: int) -> None:
    net = BUILDERS["timm"](name, img_size=28 if "14" in name else 32, depth=1)
    insert(net, CNSNSpec(kind="cnsn"))
    gate = net.blocks[0].cnsn.selfnorm
    assert isinstance(gate, SelfNorm)
    assert gate.prefix_tokens == net.blocks[0].cnsn.crossnorm.prefix_tokens == prefix
    x = torch.randn(3, prefix + 4, gate.channels)
    y = gate.train()(x)
    assert torch.equal(y[:, :prefix], x[:, :prefix]) and not torch.equal(y, x)


def test_quantised_with_crossnorm() -> None:
    torch.manual_seed(0)
    plain = BUILDERS["torchvision"]("quantization.resnet18", quantize=False).train()
    plain.fuse_model(is_qat=True)
    net = insert(copy.deepcopy(plain), CNSNSpec(kind="cn"))
    x, results = torch.randn(3, 3, 32, 32), []
    for each in (plain, net):
        each.qconfig = get_default_qat_qconfig("x86")
        prepare_qat(each, inplace=True)
        results.append(each(x))
        results.append(convert(each.eval())(x))
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


def test_stages_of_blocks_side_by_side() -> None:
    """MobileNet V2's stages are its resolutions."""
    net = BUILDERS["torchvision"]("mobilenet_v2")
    insert(net, CNSNSpec(kind="sn", stages=(2, 4)))
    having = {int(name.split(".")[1]) for name, _ in net.named_parameters() if "cnsn" in name}
    # Strides 2 at features 2, 4, 7 and 14.
    assert having == {2, 3, 7, 8, 9, 10, 11, 12, 13}


def rows(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the page."""
    text = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def test_the_page_has_every_family() -> None:
    for name in cnsn.backbones.LIBRARIES:
        cnsn.backbones._load(name)
    shipped = {
        ("/".join(sited.__module__.split(".")[2:]), " ".join(sited.SITES))
        for sited in _SITED.values()
        if sited.__module__.startswith("cnsn.backbones.")
    }
    assert {(cells[0].strip("`"), cells[2]) for cells in rows("Known blocks")} == shipped


def test_the_page_has_the_patterns_that_are_tested() -> None:
    tested = {(f"{case.library} {case.name}", case.at) for case in CASES if case.at}
    on_page = {
        (cells[0], cells[1].strip("`").replace("\\|", "|")) for cells in rows("Every other network")
    }
    assert on_page == tested


@pytest.mark.parametrize("number", range(3))
def test_examples_of_the_page_run(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnsn.backbones, "_SITED", dict(_SITED))
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(examples) == 3
    assert all(len(example.splitlines()) <= 22 for example in examples)
    torch.manual_seed(0)
    exec(compile(examples[number], f"{PAGE.name}, example {number + 1}", "exec"), {})
