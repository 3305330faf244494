"""`--model.network` names any factory, and `--model.weights` any file that fits."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torchvision.models import mobilenet_v2, resnet18, squeezenet1_1

from cnsn import CNSNSpec, SelfNorm
from tasks.adaptation.domain_norm import part_domains, two_domains
from tasks.classification.module import main
from tasks.engine import cli
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.cli import expected_recipe
from tasks.engine.optim import OptimizerSpec
from tasks.engine.weights import load_weights
from tests.command_line import places, refusal

pytestmark = pytest.mark.usefixtures("in_the_repository")

DIGITS = ["fit", "--config=configs/digits.yaml", "--trainer.accelerator=cpu"]
HERE = "tests.tasks.engine.test_factories"


class Built(Exception):
    """Carries a network out of a command line."""


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def stop(self: Any) -> None:
        raise Built(self.model.network)

    monkeypatch.setattr(cli.TaskCLI, "before_fit", stop)
    monkeypatch.setattr(cli, "_SAID", (*cli._SAID, Built))
    monkeypatch.setattr(sys, "argv", ["pytest"])
    yield


def tiny(depth=1):  # type: ignore[no-untyped-def]
    """Neither typed nor with a number of classes."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *(nn.Linear(8, 8) for _ in range(depth - 1)), nn.Linear(8, 2))


def counted(n_classes: int, width: int = 8) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def headless() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 2), nn.Conv2d(3, 8, 3))


def maps(num_classes: int = 10) -> nn.Module:
    return nn.Conv2d(3, num_classes, 3)


def no_network(size: int = 1) -> int:
    return size


class Passing(nn.Module):
    """Passes everything on, under another name for the number of classes."""

    def __init__(self, *, classes: int = 3, pretrained: bool = True) -> None:
        super().__init__()
        assert not pretrained
        self.head = nn.Linear(3, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


def network(*options: str) -> list[str]:
    name, *others = options
    return [f"--model.network={name}", *(f"--model.network.{other}" for other in others)]


@pytest.mark.parametrize(
    ("options", "outputs"),
    [
        (network(f"{HERE}.tiny", "depth=2"), "5.weight"),
        (network(f"{HERE}.counted"), "3.weight"),
        (network(f"{HERE}.Passing"), "head.weight"),
        (network("torchvision.models.squeezenet1_1", "dropout=0.1"), "classifier.1.weight"),
        (network("torchvision.models.get_model", "name=resnet18"), "fc.weight"),
        (network("timm.create_model", "model_name=resnet10t", "drop_rate=0.1"), "fc.weight"),
    ],
)
def test_the_number_of_classes_follows_from_the_data(
    tmp_path: Path, options: list[str], outputs: str
) -> None:
    with pytest.raises(Built) as built:
        main([*DIGITS, *places(tmp_path), *options])
    assert built.value.args[0].state_dict()[outputs].shape[0] == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (network(f"{HERE}.headless"), "takes `num_classes`"),
        (network(f"{HERE}.maps"), "outputs of shape (1, 10), "),
        (network(f"{HERE}.no_network"), "but got int"),
        (network(f"{HERE}.nowhere"), "no attribute 'nowhere'"),
        (network(f"{HERE}.tiny", "depth=2", "width=1"), "'width'"),
        (network(f"{HERE}.Passing", "pretrained=true"), "`--model.weights`"),
        (network(f"{HERE}.Passing", "classes=10"), "leave it out"),
        (network("timm.create_model", "model_name=resnet999"), "Unknown model (resnet999)"),
        (network("timm.create_model", "model_name=resnet10t", "foo=1"), "'foo'"),
        (network("torchvision.models.resnet18", "groups=many"), "groups"),
    ],
)
def test_what_no_network_can_be_made_of_is_one_sentence(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(main, [*DIGITS, *places(tmp_path), *options], capsys)
    assert words.split("), ")[0] in said
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_names_the_factory_and_what_was_asked_for() -> None:
    def recipe(*options: str) -> Any:
        found = expected_recipe("classification", [*DIGITS, *options])
        assert found is not None
        return found["model"]["network"]

    resnext = "torchvision.models.resnext50_32x4d"
    assert recipe(*network(resnext)) == {"class_path": resnext, "init_args": {}}
    asked = recipe(*network(resnext, "zero_init_residual=true"))
    assert asked["init_args"] == {"zero_init_residual": True}
    timm = network("timm.create_model", "model_name=resnet18", "drop_path_rate=0.1")
    given = {"model_name": "resnet18", "drop_path_rate": 0.1}
    assert recipe(*timm)["init_args"] == given
    # Of another factory, nothing passes on; what a parser once took is no option of later ones.
    assert recipe(*timm, *network(resnext))["init_args"] == {}
    other = network("timm.create_model", "model_name=resnet18")
    assert recipe(*other)["init_args"] == {"model_name": "resnet18"}


def saved(net: nn.Module, path: Path, old: str = "", new: str = "", drop: str = "-") -> str:
    state = {k: v for k, v in net.state_dict().items() if not k.startswith(drop)}
    torch.save({new + k.removeprefix(old): v for k, v in state.items()}, path)
    return str(path)


def same(own: nn.Module, given: nn.Module, drop: str) -> bool:
    state = given.state_dict()
    return all(torch.equal(v, state[k]) for k, v in own.state_dict().items() if drop not in k)


@pytest.mark.parametrize(
    ("old", "new", "drop"),
    [
        ("", "", "classifier."),
        ("features.", "", "classifier."),
        ("features.", "encoder.", "classifier."),
        ("", "backbone.", "classifier."),
        ("", "module.model.", "-"),
    ],
)
def test_a_backbones_file_fits_under_any_prefix(
    tmp_path: Path, old: str, new: str, drop: str, caplog: pytest.LogCaptureFixture
) -> None:
    trained, net = mobilenet_v2(width_mult=0.25), mobilenet_v2(width_mult=0.25, num_classes=7)
    with caplog.at_level(logging.INFO):
        path = saved(trained, tmp_path / "a.pth", old, new, drop)
        assert not load_weights(net, path, heads=CNSNModule.HEADS)
    assert same(net, trained, "classifier")
    assert "260 tensors are loaded" in caplog.text and "anew start classifier" in caplog.text


@pytest.mark.parametrize("at", [[r"layer[12]\.\d$"], [r"layer1\.0$", r"layer1\.1$", r"layer2\.1$"]])
def test_layers_sit_on_named_outputs(tmp_path: Path, at: list[str]) -> None:
    shown = at[0] if len(at) == 1 else f"[{','.join(at)}]"
    options = [*network("torchvision.models.resnet18"), f"--model.cnsn.at={shown}"]
    with pytest.raises(Built) as built:
        main([*DIGITS, *places(tmp_path), *options, "--model.cnsn.kind=sn"])
    names = [n for n, part in built.value.args[0].named_modules() if isinstance(part, SelfNorm)]
    assert len(names) == 4 - (len(at) == 3) and names[0].startswith("layer1.0.cnsn")


def test_channels_that_no_module_tells_are_found_before_anything_asks(tmp_path: Path) -> None:
    """As by the memory format, here."""
    options = network("torchvision.models.shufflenet_v2_x0_5")
    options += [r"--model.cnsn.at=stage[2-4]\.\d+$", "--model.cnsn.kind=cnsn"]
    with pytest.raises(Built) as built:
        main([*DIGITS, *places(tmp_path), *options, "--model.channels_last=true"])
    net = built.value.args[0]
    gates = [part for part in net.modules() if isinstance(part, SelfNorm)]
    assert [gate.channels for gate in gates] == [48] * 4 + [96] * 8 + [192] * 4
    assert not any(is_lazy(parameter) for parameter in net.parameters()) and net.training


def test_half_a_network_is_refused(tmp_path: Path) -> None:
    net = resnet18(num_classes=7)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for path in (
        saved(resnet18(), tmp_path / "a.pth", drop="layer3."),
        saved(resnet18(), tmp_path / "b.pth", drop="layer1.0.conv1"),
        saved(squeezenet1_1(), tmp_path / "c.pth"),
        saved(resnet18(width_per_group=64, num_classes=3), tmp_path / "d.pth", "layer", "stage"),
    ):
        with pytest.raises(ValueError, match=r"differs: \d+ of its \d+ tensors fit"):
            load_weights(net, path, heads=CNSNModule.HEADS)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_selfnorm_starts_open_in_a_pretrained_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(resnet18(num_classes=7), tmp_path / "a.pth")

    def module(weights: str | None, **options: Any) -> CNSNModule:
        torch.manual_seed(0)
        spec = CNSNSpec(kind="sn", **options)
        parts = (CrossNormTraining(), OptimizerSpec())
        return CNSNModule(resnet18(num_classes=7), spec, *parts, weights=weights).eval()

    images = torch.randn(2, 3, 64, 64)
    with caplog.at_level(logging.INFO):
        open_, released = module(path), module(path, start="released")
        plain = resnet18(num_classes=7).eval()
        load_weights(plain, path)
        with torch.no_grad():
            wanted = plain(images)
            moved = [(one(images) - wanted).norm() / wanted.norm() for one in (open_, released)]
    assert moved[0] < 0.05 < moved[1]
    assert sum("start open" in message for message in caplog.messages) == 1
    fresh, again = module(None), module(None, start="released")
    assert any(isinstance(part, SelfNorm) for part in fresh.modules())
    for key, value in fresh.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key


def test_timms_batch_norms_keep_two_domains_apart() -> None:
    timm = pytest.importorskip("timm")
    net = timm.layers.BatchNormAct2d(4).train()
    plain = timm.layers.BatchNormAct2d(4).train()
    part_domains(net, "batch")
    x = torch.randn(6, 4, 5, 5) * 3 + 1
    with two_domains(net, 4):
        found = net(x)
    alone = timm.layers.BatchNormAct2d(4).train()
    torch.testing.assert_close(found, torch.cat([plain(x[:4]), alone(x[4:])]))
    torch.testing.assert_close(net.running_mean, plain.running_mean)
