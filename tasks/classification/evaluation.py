"""Further ways to test a classifier: with re-estimated batch norms, and under attack.

Both pass over the data module's conditions one by one, after the ordinary test, and leave the
network as it was. A condition's figures depend on its own images alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

import lightning as L
import torch
from torch import Tensor
from tqdm import tqdm

from data.images import Group
from data.randomness import derive_seed, sample_uniform
from tasks.classification.attacks import AttackSpec, attack
from tasks.engine.adabn import kept_batch_norm, reestimate_batch_norm
from tasks.engine.metrics import GroupedErrors

__all__ = [
    "Attack",
    "ConditionData",
    "add_adabn",
    "add_attacks",
    "evaluate_adabn",
    "evaluate_attacks",
]

Attack = Literal["fgsm", "pgd"]
Values = dict[str, list[float]]


class ConditionData(Protocol):
    """A data module whose test has several conditions, each to be had by itself."""

    mean: Sequence[float]
    std: Sequence[float]

    @property
    def groups(self) -> Sequence[Group]: ...

    def condition_loader(self, group: int, *, shuffled: bool = False) -> Any: ...


class _Inputs:
    """The normalised images of a loader on the module's device, as often as asked for."""

    def __init__(self, module: L.LightningModule, loader: Any) -> None:
        self.module = module
        self.loader = loader

    def batches(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            yield self.module.trainer.precision_plugin.convert_input(
                self.module.trainer.strategy.batch_to_device(batch)
            )

    def __iter__(self) -> Iterator[Tensor]:
        return (batch["image"] for batch in self.batches())


def evaluate_adabn(
    module: L.LightningModule, data: ConditionData, *, passes: int = 1, selfnorm: bool = True
) -> Values:
    """Error, ECE and n of every condition, batch norms re-estimated on its unlabelled images first.

    Each condition starts from the trained statistics, so that their order does not matter. Its
    images are read once for every pass and once for the test.

    Args:
        module: a classifier of its batches' images, within a running test.
        data: its data module.
        passes, selfnorm: see :func:`tasks.engine.adabn.reestimate_batch_norm`.
    """
    errors = GroupedErrors(len(data.groups)).to(module.device)
    context = module.trainer.precision_plugin.test_step_context
    for number in _progress(module, range(len(data.groups)), "AdaBN"):
        shuffled = data.condition_loader(number, shuffled=True)
        inputs = _Inputs(module, data.condition_loader(number))
        with kept_batch_norm(module), context():
            reestimate_batch_norm(
                module, _Inputs(module, shuffled), passes=passes, selfnorm=selfnorm
            )
            for batch in inputs.batches():
                errors.update(module(batch["image"]), batch["label"], batch["group"])
    return {name: value.reshape(-1).tolist() for name, value in errors.compute().items()}


def evaluate_attacks(
    module: L.LightningModule,
    data: ConditionData,
    attacks: Sequence[Attack],
    spec: AttackSpec,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Error and ECE on the clean test images under each attack, and the attack's sizes.

    The attacker knows the network as it is tested: its loss is that of evaluation mode.

    Args:
        module: see :func:`evaluate_adabn`.
        data: its data module; condition 0 is attacked.
        attacks: which. FGSM is one step of size `eps`, from the image itself.
        spec: sizes; of FGSM `eps` alone.
        seed: of PGD's random starts, which follow seed and image.
    """
    one_step = AttackSpec(eps=spec.eps, step_size=spec.eps, steps=1, random_start=False)
    specs = {"fgsm": one_step, "pgd": spec}
    errors = GroupedErrors(len(attacks)).to(module.device)
    inputs = _Inputs(module, _progress(module, data.condition_loader(0), "attacks"))
    with module.trainer.precision_plugin.test_step_context():
        for batch in inputs.batches():
            images, label = batch["image"], batch["label"]
            draws = sample_uniform(derive_seed(seed, "attack"), batch["index"], images[0].numel())
            for number, name in enumerate(attacks):
                attacked = attack(
                    module,
                    images,
                    label,
                    specs[name],
                    mean=data.mean,
                    std=data.std,
                    uniform=draws.view(images.shape),
                )
                errors.update(module(attacked), label, torch.full_like(label, number))
    values = {name: value.reshape(-1).tolist() for name, value in errors.compute().items()}
    return [
        {
            "attack": name,
            **{key: value[number] for key, value in values.items()},
            **asdict(specs[name]),
        }
        for number, name in enumerate(attacks)
    ]


def add_adabn(metrics: dict[str, Any], adabn: dict[str, Any], **how: Any) -> None:
    """Put the figures with AdaBN beside the plain ones, as ``adabn_<name>``.

    Args:
        metrics: of the plain test, from :func:`tasks.engine.conditions.summarise`; changed in
            place.
        adabn: of the test with AdaBN, likewise.
        how: the options of the re-estimate, for the record.
    """
    metrics["adabn"] = how
    metrics["summary"] |= {f"adabn_{name}": v for name, v in adabn["summary"].items()}
    for condition, other in zip(metrics["conditions"], adabn["conditions"], strict=True):
        condition |= {"adabn_error": other["error"], "adabn_ece": other["ece"]}


def add_attacks(metrics: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Put the figures of each attack beside the plain ones, as ``<attack>_error`` and ``_ece``."""
    metrics["attacks"] = list(results)
    for result in results:
        name = result["attack"]
        metrics["summary"] |= {f"{name}_error": result["error"], f"{name}_ece": result["ece"]}


def _progress(module: L.LightningModule, items: Any, name: str) -> Any:
    quiet = module.trainer.progress_bar_callback is None or not module.trainer.is_global_zero
    return tqdm(items, desc=name, disable=True if quiet else None)
