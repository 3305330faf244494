from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from cnsn import CNSNSpec
from cnsn.nets import wide_resnet
from tasks.base import CrossNormTraining
from tasks.classification import Classification
from tasks.metrics import GroupedErrors, mean_over_corruptions
from tasks.optim import OptimizerSpec, schedule_factor


def test_grouped_errors_equal_torchmetrics_group_by_group() -> None:
    logits, label = torch.randn(400, 7) * 3, torch.randint(7, (400,))
    group = torch.randint(3, (400,))
    metric = GroupedErrors(3)
    for part in torch.arange(400).split(33):
        metric.update(logits[part], label[part], group[part])
    values = metric.compute()
    for g in range(3):
        own = group == g
        reference = MulticlassCalibrationError(7, n_bins=15, norm="l1")
        ece = reference(logits[own].softmax(-1), label[own])
        wrong = (logits[own].argmax(-1) != label[own]).float().mean()
        assert values["error"][g].item() == pytest.approx(wrong.item())
        assert values["ece"][g].item() == pytest.approx(ece.item(), abs=1e-6)
        assert values["n"][g] == own.sum()


def test_mean_over_corruptions_refuses_a_partial_set() -> None:
    conditions = [("clean", 0), ("fog", 1), ("fog", 2), ("snow", 1), ("snow", 2)]
    values = [0.0, 0.1, 0.3, 0.5, 0.9]
    assert mean_over_corruptions(values, conditions, ["fog", "snow"]) == pytest.approx(0.45)
    with pytest.raises(ValueError, match="frost"):
        mean_over_corruptions(values, conditions, ["fog", "frost"])
    with pytest.raises(ValueError, match="snow"):
        mean_over_corruptions(values[:-1], conditions[:-1], ["fog", "snow"])


def test_cosine_ends_at_the_final_rate() -> None:
    factor = schedule_factor(OptimizerSpec(lr=0.1, final_lr=1e-6), 200)
    rates = [0.1 * factor(step) for step in range(201)]
    expected = [1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi * s / 200)) / 2 for s in range(201)]
    assert np.allclose(rates, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"p": 1.5}, "`p`"), ({"p": -0.1}, "`p`"), ({"k": 0}, "`k`"), ({"consistency": -1}, "consis")],
)
def test_crossnorm_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossNormTraining(**options)  # type: ignore[arg-type]


def test_more_active_sites_than_there_are() -> None:
    network = wide_resnet(depth=10, width=1)
    with pytest.raises(ValueError, match=r"at most 3.*got 4"):
        Classification(network, CNSNSpec(kind="cn"), CrossNormTraining(k=4))
