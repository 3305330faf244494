from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from cnsn import CNSNSpec
from cnsn.layers import Crop
from cnsn.nets import wide_resnet
from data.corruptions.recipes import CORRUPTIONS
from data.imagenet.layout import ALEXNET_ERRORS
from tasks.classification.module import Classification
from tasks.engine.base import CrossNormTraining
from tasks.engine.conditions import clean_and_corrupted, mean_over_corruptions, summarise
from tasks.engine.metrics import GroupedErrors, reliability
from tasks.engine.optim import OptimizerSpec, schedule_factor
from tasks.report.sections import pooled_ece


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


def test_reliability_holds_what_the_calibration_error_is_made_of() -> None:
    conditions = [("clean", 0), ("fog", 1), ("fog", 5), ("saturate", 1)]
    logits, label = torch.randn(300, 4) * 3, torch.randint(4, (300,))
    group = torch.randint(4, (300,))
    metric = GroupedErrors(4)
    metric.update(logits, label, group)
    parts = clean_and_corrupted(conditions)
    # "saturate" is none of the corruptions that the mean is over.
    assert parts == {"clean": [0], "corrupted": [1, 2]}
    found = reliability(metric.counts(), parts)
    for name, groups in parts.items():
        own = torch.isin(group, torch.tensor(groups))
        bins = found[name]
        n = np.array(bins["n"])
        assert n.sum() == own.sum()
        gaps = n * np.abs(np.array(bins["accuracy"]) - np.array(bins["confidence"]))
        reference = MulticlassCalibrationError(4, n_bins=15, norm="l1")
        ece = reference(logits[own].softmax(-1), label[own])
        assert gaps.sum() / n.sum() == pytest.approx(ece.item(), abs=1e-6)
    assert "corrupted" not in reliability(metric.counts(), {"clean": [0], "corrupted": []})


def test_mean_corruption_ece_and_pooled_ece_are_two_numbers() -> None:
    """The mean of the conditions' own, and that of all their samples in one set of bins."""
    conditions = [("clean", 0), ("fog", 1), ("fog", 2), ("snow", 1), ("snow", 2)]
    label = torch.randint(4, (5, 60))
    logits = torch.randn(5, 60, 4)
    # Too sure under fog, too unsure under snow: in bins that they share, these gaps cancel.
    logits[1:3] *= 4
    logits[3:].scatter_(-1, label[3:, :, None], 1.5)
    metric = GroupedErrors(5)
    metric.update(logits.flatten(0, 1), label.flatten(), torch.arange(5).repeat_interleave(60))

    def reference(groups: slice) -> float:
        own = MulticlassCalibrationError(4, n_bins=15, norm="l1")
        probabilities = logits[groups].flatten(0, 1).softmax(-1)
        return float(own(probabilities, label[groups].flatten()))

    values = {name: value.tolist() for name, value in metric.compute().items()}
    mean = summarise(values, conditions)["summary"]["corrupted_ece"]
    each = [reference(slice(group, group + 1)) for group in range(1, 5)]
    assert mean == pytest.approx(np.mean(each), abs=1e-6)
    bins = reliability(metric.counts(), clean_and_corrupted(conditions))["corrupted"]
    pooled = pooled_ece(bins)
    assert pooled == pytest.approx(reference(slice(1, 5)), abs=1e-6)
    assert pooled < mean - 0.05


def test_mean_over_corruptions_refuses_a_partial_set() -> None:
    conditions = [("clean", 0), ("fog", 1), ("fog", 2), ("snow", 1), ("snow", 2)]
    values = [0.0, 0.1, 0.3, 0.5, 0.9]
    assert mean_over_corruptions(values, conditions, ["fog", "snow"]) == pytest.approx(0.45)
    with pytest.raises(ValueError, match="frost"):
        mean_over_corruptions(values, conditions, ["fog", "frost"])
    with pytest.raises(ValueError, match="snow"):
        mean_over_corruptions(values[:-1], conditions[:-1], ["fog", "snow"])


def conditions_of(names: Sequence[str]) -> list[tuple[str, int]]:
    return [("clean", 0), *((name, severity) for name in names for severity in range(1, 6))]


def values_of(conditions: list[tuple[str, int]], errors: dict[str, float]) -> dict[str, Any]:
    """Errors that rise with the severity around those given."""
    around = {0: 0.0, 1: -0.02, 2: -0.01, 3: 0.0, 4: 0.01, 5: 0.02}
    error = [errors.get(name, 0.2) + around[severity] for name, severity in conditions]
    return {"error": error, "ece": [e / 2 for e in error], "n": [10] * len(error)}


def test_alexnet_normalises_its_own_errors_to_one() -> None:
    conditions = conditions_of(CORRUPTIONS)
    values = values_of(conditions, ALEXNET_ERRORS)
    summary = summarise(values, conditions, complete=CORRUPTIONS, reference=ALEXNET_ERRORS)
    assert summary["summary"]["mce_alexnet"] == pytest.approx(1.0)
    assert summary["summary"]["mce"] == pytest.approx(np.mean(list(ALEXNET_ERRORS.values())))
    halves = {name: 0.5 if name == "fog" else error for name, error in ALEXNET_ERRORS.items()}
    values = values_of(conditions, halves)
    summary = summarise(values, conditions, complete=CORRUPTIONS, reference=ALEXNET_ERRORS)
    expected = (14 + 0.5 / 0.819324) / 15
    assert summary["summary"]["mce_alexnet"] == pytest.approx(expected)


def test_a_mean_over_less_than_the_set_is_marked_partial() -> None:
    whole = conditions_of(CORRUPTIONS)
    extra = conditions_of([*CORRUPTIONS, "saturate"])
    fewer = conditions_of(CORRUPTIONS[:14])
    milder = [(name, severity) for name, severity in whole if severity < 5]
    for conditions, complete in ((whole, True), (extra, True), (fewer, False), (milder, False)):
        values = values_of(conditions, {})
        found = summarise(values, conditions, complete=CORRUPTIONS, reference=ALEXNET_ERRORS)
        keys = set(found["summary"]) - {"error", "ece"}
        marked = {"partial_mce", "partial_corrupted_ece"}
        assert keys == ({"mce", "corrupted_ece", "mce_alexnet"} if complete else marked)
    found = summarise(values_of(whole[:1], {}), whole[:1], complete=CORRUPTIONS)
    assert found["summary"].keys() == {"error", "ece"}


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


@pytest.mark.parametrize("crop", ["neither", "both"])
def test_crossnorm_views_run_in_the_one_compiled_graph(crop: Crop) -> None:
    network = wide_resnet(depth=10, width=1)
    spec = CNSNSpec(kind="cn", crop=crop)
    module = Classification(network, spec, CrossNormTraining(p=1.0, k=1)).train()
    x = torch.randn(4, 3, 8, 8)
    torch._dynamo.reset()
    graphs = calls = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1

        def run(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            return graph(*args)

        return run

    module.network.compile(backend=backend, fullgraph=True)
    clean = module(x)
    for step in range(6):
        with module.crossnorm_view(step):
            view = module(x)
        assert not torch.allclose(view, clean)
        with torch.compiler.set_stance("force_eager"), module.crossnorm_view(step):
            torch.testing.assert_close(module(x), view)
        torch.testing.assert_close(module(x), clean)
    assert graphs == 1 and calls == 1 + 2 * 6
