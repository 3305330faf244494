"""AdaBN and attacks within a test, against the same figures made by hand."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn import CNSNSpec, insert
from cnsn.nets import wide_resnet
from data.classification.module import Arrays, ImageClassificationData
from data.images import Group
from tasks.classification.attacks import AttackSpec, attack
from tasks.classification.module import Classification
from tasks.engine.metrics import GroupedErrors
from tests.fakes import learnable_images

FOG, SNOW = Group("fog", 1), Group("snow", 1)


class Small(ImageClassificationData):
    """32 test images, and two conditions of other brightness and contrast."""

    title, num_classes, COMPLETE = "small", 4, ("fog", "snow")
    MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

    def __init__(self, *, corruptions: tuple[str, ...] = ("fog", "snow"), batch: int = 32) -> None:
        super().__init__(
            batch_size=8,
            eval_batch_size=batch,
            workers=0,
            seed=0,
            padding=0,
            flip=False,
            jitter=0.0,
            corruptions=corruptions,
        )

    def read(self) -> tuple[Arrays, Arrays]:
        labels = np.arange(32) % 4
        images = learnable_images(labels, 4, 0)[:, ::2, ::2]
        return (images[:8], labels[:8]), (images, labels)

    def read_corrupted(self, test: Arrays) -> dict[Group, Arrays]:
        images, labels = test
        changed = {
            "fog": 255 - (255 - images.astype(float)) * 0.5,
            "snow": images * np.array([0.3, 0.6, 0.9]),
        }
        return {
            Group(name, 1): (np.ascontiguousarray(changed[name].astype(np.uint8)), labels)
            for name in self.corruptions
        }


def network() -> nn.Module:
    torch.manual_seed(3)
    return wide_resnet(depth=10, width=1, num_classes=4)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights that know the clean images well, and the others less."""
    net = insert(network(), CNSNSpec(kind="cnsn"))
    pixels, label = pixels_of(Small(), Group("clean", 0))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(net(normalised(pixels)), label).backward()
        optimizer.step()
    return net.state_dict()


def run_test(weights: dict[str, Tensor], data: Small, **options: Any) -> Classification:
    module = Classification(network(), CNSNSpec(kind="cnsn"), **options)
    module.network.load_state_dict(weights)
    before = copy.deepcopy(module.state_dict())
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(accelerator="cpu", enable_model_summary=False, **quiet)
        trainer.test(module, datamodule=data, verbose=False)
    after = module.state_dict()
    assert all(value.equal(after[key]) for key, value in before.items())
    return module


def condition(module: Classification, group: Group) -> dict[str, Any]:
    found = [
        c for c in module.metrics["conditions"] if (c["corruption"], c["severity"]) == tuple(group)
    ]
    assert len(found) == 1
    return found[0]


def pixels_of(data: Small, group: Group) -> tuple[Tensor, Tensor]:
    test = data.read()[1]
    images, labels = test if group.severity == 0 else data.read_corrupted(test)[group]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


def normalised(pixels: Tensor) -> Tensor:
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    return (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


@pytest.mark.parametrize("selfnorm", [True, False])
def test_adabn_equals_momentum_one_on_the_whole_condition(
    trained: dict[str, Tensor], selfnorm: bool
) -> None:
    """PyTorch's own running averages, made of one batch of all the images."""
    data = Small()
    module = run_test(trained, data, adabn=True, adabn_selfnorm=selfnorm)
    for group in (Group("clean", 0), FOG, SNOW):
        net = copy.deepcopy(module.network).eval()
        for name, layer in net.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (
                selfnorm or "_bn" not in name
            ):
                layer.momentum = 1.0
                layer.train()
        pixels, label = pixels_of(data, group)
        with torch.no_grad():
            net(normalised(pixels))
            logits = net.eval()(normalised(pixels))
        metric = GroupedErrors(1)
        metric.update(logits, label, torch.zeros_like(label))
        values = metric.compute()
        assert condition(module, group)["adabn_error"] == pytest.approx(values["error"].item())
        assert condition(module, group)["adabn_ece"] == pytest.approx(
            values["ece"].item(), abs=1e-5
        )
    assert any(c["adabn_error"] != c["error"] for c in module.metrics["conditions"])
    summary = module.metrics["summary"]
    mean = np.mean([condition(module, group)["adabn_error"] for group in (FOG, SNOW)])
    assert summary["adabn_partial_mce"] == pytest.approx(mean)
    assert module.metrics["adabn"] == {"passes": 1, "selfnorm": selfnorm}


def test_adabn_does_not_depend_on_the_order_of_conditions(trained: dict[str, Tensor]) -> None:
    options = {"adabn": True, "adabn_passes": 2}
    one = run_test(trained, Small(batch=7), **options)
    two = run_test(trained, Small(batch=7, corruptions=("snow", "fog")), **options)
    alone = run_test(trained, Small(batch=7, corruptions=("snow",)), **options)
    for group in (Group("clean", 0), SNOW):
        found = [condition(module, group) for module in (one, two, alone)]
        # A sum of confidences, whose last digit may depend on the batches' order.
        first, *others = [c.pop("ece") for c in found]
        assert others == [pytest.approx(first, rel=1e-6)] * 2
        assert found[0] == found[1] == found[2]
    assert condition(one, FOG) == condition(two, FOG)


def test_attacks_within_a_test_equal_those_by_hand(trained: dict[str, Tensor]) -> None:
    data = Small()
    spec = AttackSpec(eps=4, step_size=1, steps=3, random_start=False)
    module = run_test(trained, data, attacks=["fgsm", "pgd"], attack=spec)
    net = copy.deepcopy(module.network).eval()
    pixels, label = pixels_of(data, Group("clean", 0))

    def raised(x: Tensor, step: float) -> Tensor:
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(net(normalised(x)), label), x)
        return (x.detach() + step * slope.sign()).clamp(0, 1)

    def error(x: Tensor) -> float:
        with torch.no_grad():
            return (net(normalised(x)).argmax(1) != label).float().mean().item()

    x = pixels
    for _ in range(3):
        x = raised(x, 1 / 255)
    summary = module.metrics["summary"]
    assert summary["fgsm_error"] == pytest.approx(error(raised(pixels, 4 / 255)), abs=1e-6)
    assert summary["pgd_error"] == pytest.approx(error(x), abs=1e-6)
    assert summary["pgd_error"] > summary["error"]
    first, second = module.metrics["attacks"]
    assert first["attack"] == "fgsm" and first["eps"] == first["step_size"] == 4
    assert first["steps"] == 1 and first["random_start"] is False
    assert second["steps"] == 3 and second["n"] == 32 and 0 <= second["ece"] <= 1


def test_attacks_follow_seed_and_image_alone(trained: dict[str, Tensor]) -> None:
    options: dict[str, Any] = {"attacks": ["pgd"], "attack": AttackSpec(eps=8, steps=1)}
    found = {
        (size, seed): run_test(trained, Small(batch=size), seed=seed, **options).metrics["attacks"]
        for size, seed in ((32, 0), (5, 0), (32, 1))
    }
    (one,), (two,), (other,) = found.values()
    assert one["error"] == two["error"] and one["ece"] == pytest.approx(two["ece"], abs=1e-5)
    assert abs(one["ece"] - other["ece"]) > 1e-4


def test_pgd_finds_a_linear_networks_worst_image() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    pixels, label = 0.3 + 0.4 * torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 1])
    weight = net[1].weight.detach()
    # The margin w_other - w_true grows fastest along its sign.
    away = (weight[1 - label] - weight[label]).view_as(pixels)
    plain: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    start = torch.rand(pixels.shape)
    found = attack(net, pixels, label, AttackSpec(steps=10), uniform=start, **plain)
    torch.testing.assert_close(found, pixels + 8 / 255 * away.sign(), rtol=0, atol=1e-6)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="`adabn_passes`"):
        Classification(network(), adabn_passes=0)
