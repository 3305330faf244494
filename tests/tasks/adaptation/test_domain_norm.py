"""Batch norms that keep two domains apart, against separate networks; the adversary's gradients."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from cnsn import CNSNSpec, insert
from cnsn.nets import NarrowResNet
from tasks.adaptation.adversary import (
    AdversarySpec,
    DomainDiscriminator,
    captured_features,
    classifier_of,
)
from tasks.adaptation.domain_norm import Target, part_domains, two_domains

SOURCE = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TARGET = 3 * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) + 2


def network(kind: str = "cnsn") -> nn.Module:
    torch.manual_seed(0)
    net = insert(NarrowResNet(width=4, blocks=(1, 1), num_classes=3), CNSNSpec(kind=kind))  # type: ignore[arg-type]
    return net.train()


@pytest.mark.parametrize("target", ["source", "batch", "kept"])
def test_both_domains_are_normalised_as_if_alone(target: Target) -> None:
    net, alone, other = network(), network(), network()
    keys = list(net.state_dict())
    part_domains(net, target)
    assert [key for key in net.state_dict() if "target_" not in key] == keys
    # Outside of the context nothing has changed.
    torch.testing.assert_close(net(SOURCE), alone(SOURCE), rtol=0, atol=0)
    with two_domains(net, len(SOURCE)):
        together = net(torch.cat([SOURCE, TARGET]))
    torch.testing.assert_close(together[:5], alone(SOURCE))
    state, expected = net.state_dict(), alone.state_dict()
    reference = alone.eval() if target == "source" else other
    torch.testing.assert_close(together[5:], reference(TARGET))
    for key in keys:
        torch.testing.assert_close(state[key], expected[key], msg=key)
    for key, value in other.state_dict().items():
        if target == "kept" and key.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(state[key.replace("running", "target")], value, msg=key)
    assert any("target_mean" in key for key in state) == (target == "kept")


def test_gradients_are_those_of_separate_forwards() -> None:
    net, apart = network(), network()
    part_domains(net, "batch")
    with two_domains(net, len(SOURCE)):
        net(torch.cat([SOURCE, TARGET])).square().sum().backward()
    (apart(SOURCE).square().sum() + apart(TARGET).square().sum()).backward()
    for (name, one), two in zip(net.named_parameters(), apart.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_evaluation_uses_the_averages_of_the_domain() -> None:
    net = network("sn")
    part_domains(net, "kept")
    for _ in range(3):
        with two_domains(net, len(SOURCE)):
            net(torch.cat([SOURCE, TARGET]))
    net.eval()
    swapped = copy.deepcopy(net)
    for module in swapped.modules():
        if hasattr(module, "target_mean"):
            module.running_mean, module.running_var = module.target_mean, module.target_var
    with two_domains(net, 0):
        torch.testing.assert_close(net(TARGET), swapped(TARGET))
    assert not torch.allclose(net(TARGET), swapped(TARGET), atol=1e-3)


def test_norms_that_cannot_keep_domains_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="got BatchNorm3d"):
        part_domains(nn.Sequential(nn.BatchNorm3d(2)), "batch")
    with pytest.raises(ValueError, match="got none"):
        part_domains(nn.Linear(2, 2), "batch")
    net = network()
    part_domains(net, "batch")
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    with pytest.raises(ValueError, match="sync_batchnorm"), two_domains(synchronised, 1):
        pass


# ------------------------------------------------------------------------------------- adversary


def test_strength_follows_the_published_schedule() -> None:
    spec = AdversarySpec(weight=1.0)
    for progress in (0.0, 0.1, 0.5, 1.0):
        assert spec.strength(progress) == pytest.approx(math.tanh(5 * progress))
    with pytest.raises(ValueError, match="`weight`"):
        AdversarySpec(weight=-1.0)
    with pytest.raises(ValueError, match="`hidden`"):
        AdversarySpec(hidden=0)


def test_only_the_features_gradient_is_turned() -> None:
    torch.manual_seed(0)
    discriminator = DomainDiscriminator(6, 8)
    features = torch.randn(7, 6)
    truth = torch.tensor([1.0] * 3 + [0.0] * 4)

    def gradients(loss: Tensor, x: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [x, *discriminator.parameters()]))

    x = features.clone().requires_grad_()
    loss, accuracy = discriminator.loss(x, 3, 0.3)
    turned = gradients(loss, x)
    logits = discriminator.layers(x).squeeze(1)
    plain = nn.functional.binary_cross_entropy_with_logits(logits, truth)
    straight = gradients(plain, x)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(turned[0], -0.3 * straight[0])
    for one, two in zip(turned[1:], straight[1:], strict=True):
        torch.testing.assert_close(one, two)
    assert accuracy.item() == pytest.approx(((logits > 0) == truth.bool()).float().mean().item())


def test_features_are_the_inputs_of_the_last_layer() -> None:
    net = network("none")
    with captured_features(classifier_of(net)) as found:
        logits = net(SOURCE)
    (features,) = found
    torch.testing.assert_close(net.fc(features), logits)  # type: ignore[operator]
    net(SOURCE)
    assert len(found) == 1
    with pytest.raises(ValueError, match="linear layer"):
        classifier_of(nn.Conv2d(3, 3, 1))
