"""Image classification with CrossNorm and SelfNorm, clean and corrupted.

    loss = CE(clean view)                                                           always
    loss = CE(one view under CrossNorm)                          with probability p, or
    loss = CE(clean) + c * JSD(clean, CN view 1, CN view 2)      with p, where c > 0

AugMix (``--config configs/augment/augmix.yaml``) adds a * JSD(clean, view 1, view 2), all three in
one forward. With CrossNorm but no consistency that forward runs under CrossNorm with probability p.
Adversarial training attacks the images first.

Run as ``python -m tasks.classification {fit,validate,test,predict} --config ... ...``.
Recipes: Tang et al., ICCV 2021, https://arxiv.org/abs/2102.02811, and its released scripts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cnsn import load_official
from cnsn.losses import jsd_consistency
from data.augmentations.steps import AugMix
from data.classification.module import ImageClassificationData
from data.randomness import derive_seed
from tasks.classification.attacks import AttackSpec, adversarial_images
from tasks.classification.evaluation import (
    Attack,
    add_adabn,
    add_attacks,
    evaluate_adabn,
    evaluate_attacks,
)
from tasks.engine.base import CNSNModule
from tasks.engine.conditions import clean_and_corrupted, log_conditions, summarise
from tasks.engine.metrics import GroupedErrors, not_finite_in, reliability

__all__ = ["Classification"]


class Classification(CNSNModule):
    """Trains and tests a classifier.

    Args:
        official: a checkpoint of the paper's authors, or one converted from it, loaded once the
            layers are inserted; `test` then needs no trained run, `fit` starts from it.
        augmix: weight of AugMix's JSD, where the data have its views.
        adversarial: train on attacked images instead of the clean ones; None does not.
        adabn: also test with batch norms re-estimated on each condition's unlabelled images.
        adabn_passes: over the images, to re-estimate them; see :mod:`tasks.engine.adabn`.
        adabn_selfnorm: re-estimate the batch norms inside SelfNorm too.
        attacks: also test on adversarial versions of the clean images.
        attack: sizes of the attacks: of FGSM `eps` alone, of PGD all.

    The other arguments are those of :class:`CNSNModule`.
    """

    DATA = ImageClassificationData
    LINKS = (("data.num_classes", "model.network.init_args.num_classes", "instantiate"),)
    SETS: ClassVar = {
        "CIFAR10": ("data.classification.CIFAR", "--data.name=cifar10"),
        "CIFAR100": ("data.classification.CIFAR", "--data.name=cifar100"),
        "Digits": ("data.classification.Digits",),
        "ImageNet": ("data.imagenet.ImageNet",),
    }
    MEASURED = frozenset({"adabn", "adabn_passes", "adabn_selfnorm", "attack", "attacks"})
    COLUMNS: ClassVar = {
        "error": "clean error",
        "mce": "mean corruption error",
        "ece": "clean ECE",
        "corrupted_ece": "mean corruption ECE",
    }
    METRIC = "mce"

    def __init__(
        self,
        *args: Any,
        official: str | None = None,
        augmix: float = 12.0,
        adversarial: AttackSpec | None = None,
        adabn: bool = False,
        adabn_passes: int = 1,
        adabn_selfnorm: bool = True,
        attacks: Sequence[Attack] = (),
        attack: AttackSpec = AttackSpec(steps=20),
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if official is not None:
            if self.weights is not None:
                raise ValueError(
                    "Expected one of `weights` and `official`, but got both: the official "
                    "checkpoint holds every weight."
                )
            load_official(self.network, official)
            self.heads_given = True
        if not 0 <= augmix < math.inf:
            raise ValueError(f"Expected `augmix` to be 0 or more, but got {augmix}.")
        if adabn_passes < 1:
            raise ValueError(f"Expected `adabn_passes` to be at least 1, but got {adabn_passes}.")
        self.augmix, self.adversarial = augmix, adversarial
        self.adabn = adabn
        self.adabn_options: dict[str, Any] = {"passes": adabn_passes, "selfnorm": adabn_selfnorm}
        self.attacks, self.attack = tuple(dict.fromkeys(attacks)), attack
        self.errors: GroupedErrors | None = None

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        augmix = any(isinstance(step, AugMix) for step in data.augment)
        if self.adversarial is not None and augmix:
            raise ValueError(
                "Expected adversarial training or AugMix, but got both: AugMix compares views with "
                "the clean image, which adversarial training does not look at. Leave out one."
            )

    def setup(self, stage: str) -> None:
        self.check_class_folders(self.data)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images = batch["image"]
        if self.adversarial is not None:
            seed = derive_seed(self.seed, "adversarial", batch["epoch"])
            images = adversarial_images(self, batch, self.adversarial, data=self.data, seed=seed)
        views = [images, *batch.get("views", [])]
        # From the loader, which knows it exactly also after a resume in the middle of an epoch.
        step = batch["number"]
        active = self.crossnorm_step(step)
        consistent = active and self.crossnorm.consistency > 0
        with self.crossnorm_view(step) if active and not consistent else nullcontext():
            # One forward, so that batch norm sees all views together.
            logits = self(torch.cat(views) if len(views) > 1 else images).chunk(len(views))
        ce = F.cross_entropy(logits[0], batch["label"])
        loss, losses = ce, {"ce": ce}
        if len(views) > 1:
            losses["augmix"] = jsd_consistency(logits)
            loss = loss + self.augmix * losses["augmix"]
        if consistent:
            own = [self._crossnorm_logits(images, step, view) for view in (0, 1)]
            losses["jsd"] = jsd_consistency([logits[0], *own])
            loss = loss + self.crossnorm.consistency * losses["jsd"]
        self.log_losses(loss=loss, **losses)
        return loss

    def _crossnorm_logits(self, images: Tensor, step: int, view: int) -> Tensor:
        with self.crossnorm_view(step, view):
            return self(images)

    # Evaluation: one metric over all conditions; validation has the clean one alone.

    def start_evaluation(self) -> None:
        self.conditions = [tuple(group) for group in self.data.groups]
        self.errors = GroupedErrors(len(self.conditions)).to(self.device)

    def evaluate(self, batch: dict[str, Tensor]) -> None:
        assert self.errors is not None
        self.errors.update(self(batch["image"]), batch["label"], batch["group"])

    def _values(self) -> dict[str, list[float]]:
        """``error``, ``ece`` and ``n`` of every condition."""
        assert self.errors is not None
        found = self.errors.compute()
        self.refuse_not_finite(not_finite_in(found, self.conditions))
        return {name: value.reshape(-1).tolist() for name, value in found.items()}

    def on_validation_epoch_end(self) -> None:
        values = self._values()
        self.log("val/error", values["error"][0], prog_bar=True)
        self.log("val/ece", values["ece"][0])

    def tested(self) -> dict[str, Any]:
        values = self._values()
        assert self.errors is not None
        metrics = self._summary(values)
        parts = clean_and_corrupted(self.conditions)
        metrics["reliability"] = reliability(self.errors.counts(), parts)
        if self.adabn:
            again = evaluate_adabn(self, self.data, **self.adabn_options)
            bad = not_finite_in(again, self.conditions)
            self.refuse_not_finite([f"{name} with AdaBN" for name in bad])
            add_adabn(metrics, self._summary(again), **self.adabn_options)
        if self.attacks:
            found = evaluate_attacks(self, self.data, self.attacks, self.attack, seed=self.seed)
            for one in found:
                self.refuse_not_finite(not_finite_in(one, [one["attack"]]))
            add_attacks(metrics, found)
        table = zip(self.conditions, values["error"], strict=True)
        self.log_dict({f"test/error/{name}/{severity}": v for (name, severity), v in table})
        return metrics

    def show_test(self) -> None:
        log_conditions(self.loggers, self.metrics["conditions"])

    def _summary(self, values: dict[str, list[float]]) -> dict[str, Any]:
        return summarise(
            values,
            self.conditions,
            complete=self.data.COMPLETE,
            reference=self.data.reference_errors(),
        )

    @staticmethod
    def forwards(data: dict[str, Any], model: dict[str, Any]) -> float:
        names = [step["class_path"].rpartition(".")[2] for step in data.get("augment", [])]
        views = 2 if AugMix.__name__ in names else 0
        attack = model.get("adversarial")
        steps = attack.get("steps", AttackSpec.steps) if attack else 0
        return CNSNModule.forwards(data, model) + views + steps

    def print_report(self, record: dict[str, Any]) -> None:
        """Print a test's figures as a table."""
        from tasks.engine.conditions import print_conditions

        print_conditions(record)


TASK = Classification


def main(args: list[str] | None = None) -> None:
    """The command line."""
    from tasks.engine.cli import run
    from tasks.engine.predict import predict

    given = sys.argv[1:] if args is None else args
    if given[:1] == ["predict"]:
        predict(TASK, "classification", lambda module, data: nullcontext(), given[1:])
    else:
        run(TASK, "classification", args)


if __name__ == "__main__":
    main()
