"""Image classification with CrossNorm and SelfNorm, clean and corrupted.

    loss = CE(clean view)                                                           always
    loss = CE(one view under CrossNorm)                          with probability p, or
    loss = CE(clean) + c * JSD(clean, CN view 1, CN view 2)      with p, where c > 0

Run as ``python -m tasks.classification {fit,validate,test} --config configs/cifar10.yaml ...``.
Recipes: Tang et al., ICCV 2021, https://arxiv.org/abs/2102.02811, and its released scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cnsn import CNSNSpec, load_official
from cnsn.losses import jsd_consistency
from tasks.attacks import AttackSpec
from tasks.base import CNSNModule, CrossNormTraining
from tasks.evaluation import Attack, add_adabn, add_attacks, evaluate_adabn, evaluate_attacks
from tasks.metrics import GroupedErrors, summarise
from tasks.optim import OptimizerSpec

__all__ = ["Classification"]


class Classification(CNSNModule):
    """Trains and tests a classifier.

    Args:
        network: an ordinary classifier of (B, 3, H, W) images.
        cnsn: the layers to insert.
        crossnorm: when CrossNorm acts.
        optimizer: the optimiser and its schedule.
        weights: pretrained weights of the plain network: a torchvision weight name or a file; None
            keeps its fresh ones.
        official: a checkpoint of the paper's authors, or one converted from it, loaded once the
            layers are inserted; `test` then needs no trained run, `fit` starts from it.
        adabn: also test with batch norms re-estimated on each condition's unlabelled images.
        adabn_passes: over the images, to re-estimate them; see :mod:`tasks.adabn`.
        adabn_selfnorm: re-estimate the batch norms inside SelfNorm too.
        attacks: also test on adversarial versions of the clean images.
        attack: sizes of the attacks: of FGSM `eps` alone, of PGD all.
        channels_last: memory format of network and images.
        compile: run the network through torch.compile.
        seed: of CrossNorm's draws; the command line sets it to the run's seed.
    """

    LINKS = (("data.num_classes", "model.network.init_args.num_classes", "instantiate"),)

    def __init__(
        self,
        network: nn.Module,
        cnsn: CNSNSpec = CNSNSpec(),
        crossnorm: CrossNormTraining = CrossNormTraining(),
        optimizer: OptimizerSpec = OptimizerSpec(),
        *,
        weights: str | None = None,
        official: str | None = None,
        adabn: bool = False,
        adabn_passes: int = 1,
        adabn_selfnorm: bool = True,
        attacks: Sequence[Attack] = (),
        attack: AttackSpec = AttackSpec(steps=20),
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            network,
            cnsn,
            crossnorm,
            optimizer,
            weights=weights,
            channels_last=channels_last,
            compile=compile,
            seed=seed,
        )
        if official is not None:
            if weights is not None:
                raise ValueError(
                    "Expected one of `weights` and `official`, but got both: the official "
                    "checkpoint holds every weight."
                )
            load_official(self.network, official)
        if adabn_passes < 1:
            raise ValueError(f"Expected `adabn_passes` to be at least 1, but got {adabn_passes}.")
        self.adabn = adabn
        self.adabn_options: dict[str, Any] = {"passes": adabn_passes, "selfnorm": adabn_selfnorm}
        self.attacks, self.attack = tuple(dict.fromkeys(attacks)), attack
        self.errors: GroupedErrors | None = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images, label = batch["image"], batch["label"]
        # From the loader, which knows it exactly also after a resume in the middle of an epoch.
        step = batch["number"]
        if not self.crossnorm_step(step):
            loss = F.cross_entropy(self(images), label)
            self.log_losses(loss=loss, ce=loss)
        elif self.crossnorm.consistency == 0:
            loss = F.cross_entropy(self._crossnorm_logits(images, step, 0), label)
            self.log_losses(loss=loss, ce=loss)
        else:
            clean = self(images)
            views = [self._crossnorm_logits(images, step, view) for view in (0, 1)]
            ce = F.cross_entropy(clean, label)
            jsd = jsd_consistency([clean, *views])
            loss = ce + self.crossnorm.consistency * jsd
            self.log_losses(loss=loss, ce=ce, jsd=jsd)
        return loss

    def _crossnorm_logits(self, images: Tensor, step: int, view: int) -> Tensor:
        with self.crossnorm_view(step, view):
            return self(images)

    # Evaluation: one metric over all conditions; validation has the clean one alone.

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _start_evaluation(self) -> None:
        self.conditions = [tuple(group) for group in self._data.groups]
        self.errors = GroupedErrors(len(self.conditions)).to(self.device)

    def _evaluate(self, batch: dict[str, Tensor]) -> None:
        assert self.errors is not None
        self.errors.update(self(batch["image"]), batch["label"], batch["group"])

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        assert self.errors is not None
        clean = {name: value.reshape(-1)[0].item() for name, value in self.errors.compute().items()}
        self.log("val/error", clean["error"], prog_bar=True)
        self.log("val/ece", clean["ece"])

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        assert self.errors is not None
        values = {name: value.reshape(-1).tolist() for name, value in self.errors.compute().items()}
        self.metrics = self._summary(values)
        if self.adabn:
            again = evaluate_adabn(self, self._data, **self.adabn_options)
            add_adabn(self.metrics, self._summary(again), **self.adabn_options)
        if self.attacks:
            found = evaluate_attacks(self, self._data, self.attacks, self.attack, seed=self.seed)
            add_attacks(self.metrics, found)
        self.log_dict({f"test/{name}": v for name, v in self.metrics["summary"].items()})
        table = zip(self.conditions, values["error"], strict=True)
        self.log_dict({f"test/error/{name}/{severity}": v for (name, severity), v in table})

    def _summary(self, values: dict[str, list[float]]) -> dict[str, Any]:
        return summarise(
            values,
            self.conditions,
            complete=self._data.COMPLETE,
            reference=self._data.reference_errors(),
        )

    def print_report(self, record: dict[str, Any]) -> None:
        """Print a test's figures as a table."""
        from tasks.report_table import print_classification

        print_classification(record)


TASK = Classification


def main(args: list[str] | None = None) -> None:
    """The command line."""
    from tasks.cli import run

    run(TASK, "classification", args)


if __name__ == "__main__":
    main()
