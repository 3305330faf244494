"""FixMatch: semi-supervised training with few labels, with and without CrossNorm and SelfNorm.

    loss = CE(labelled) + w * mean(kept * CE(strong view, pseudo-label of the weak view))

One forward serves the labelled images and both views, so that batch normalisation sees them
together. On CrossNorm's steps it acts on the labelled and the strong rows of that batch; the weak
views, which give the labels, stay clean. The exponential moving average (EMA) of the weights is
what is tested; the raw weights are tested beside it. Without unlabelled images
(``--data.unlabelled_ratio 0``) this is supervised training on the same labels.

Run as ``python -m tasks.fixmatch {fit,validate,test} --config configs/fixmatch.yaml ...``.
Source: Sohn et al. 2020, https://arxiv.org/abs/2001.07685, and its released code.
"""

from __future__ import annotations

import copy
import math
import statistics
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cnsn import CNSNSpec
from data.files import write_record
from data.fixmatch.module import SemiSupervised
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.conditions import clean_and_corrupted, log_conditions, summarise
from tasks.engine.metrics import GroupedErrors, not_finite_in, reliability
from tasks.engine.optim import OptimizerSpec
from tasks.fixmatch.pseudo_labels import PseudoLabels, pseudo_label

__all__ = ["CrossNormRows", "FixMatch"]

CrossNormRows = Literal["labelled+strong", "labelled", "strong", "all"]
# The last evaluations whose median is reported.
EVALUATIONS = 20


class FixMatch(CNSNModule):
    """Trains and tests a classifier of which few images have labels.

    Args:
        network: an ordinary classifier of (B, 3, H, W) images.
        cnsn: the layers to insert.
        crossnorm: when CrossNorm acts; its consistency loss has no place here.
        optimizer: the optimiser and its schedule.
        threshold: confidence from which on a pseudo-label counts, in [0, 1].
        unlabelled_weight: w, of the loss on unlabelled images.
        temperature: of the softmax behind the pseudo-labels.
        ema_decay: of the moving average, in [0, 1); 0 follows the raw weights.
        crossnorm_rows: the images of a batch that CrossNorm acts on.

    The other arguments are those of :class:`CNSNModule`.
    """

    SETS: ClassVar = {
        "CIFAR10": ("data.fixmatch.CIFAR", "--data.name=cifar10"),
        "CIFAR100": ("data.fixmatch.CIFAR", "--data.name=cifar100"),
        "Digits": ("data.fixmatch.Digits",),
    }
    LINKS = (("data.num_classes", "model.network.init_args.num_classes", "instantiate"),)
    COLUMNS: ClassVar = {
        "error": "clean error (EMA)",
        "mce": "mean corruption error (EMA)",
        "raw_error": "clean error (raw weights)",
        "raw_mce": "mean corruption error (raw weights)",
    }
    METRIC = "mce"
    CURVES: ClassVar = {
        "train/mask_rate": "train/mask_rate: unlabelled images kept by the threshold"
    }
    ABSENT = "No mask rate: there is no run of FixMatch."

    def __init__(
        self,
        network: nn.Module,
        cnsn: CNSNSpec = CNSNSpec(),
        crossnorm: CrossNormTraining = CrossNormTraining(),
        optimizer: OptimizerSpec = OptimizerSpec(
            lr=0.03, decay_norm_and_bias=False, schedule="cosine_7_16"
        ),
        *,
        threshold: float = 0.95,
        unlabelled_weight: float = 1.0,
        temperature: float = 1.0,
        ema_decay: float = 0.999,
        crossnorm_rows: CrossNormRows = "labelled+strong",
        **options: Any,
    ) -> None:
        super().__init__(network, cnsn, crossnorm, optimizer, **options)
        self._check(threshold, unlabelled_weight, temperature, ema_decay, crossnorm_rows)
        self.threshold = threshold
        self.unlabelled_weight = unlabelled_weight
        self.temperature = temperature
        self.crossnorm_rows: CrossNormRows = crossnorm_rows
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self._average = get_ema_multi_avg_fn(ema_decay)
        # Of the last evaluations during training; a part of checkpoints.
        self.evaluations: list[dict[str, Any]] = []
        self._errors: dict[str, GroupedErrors] = {}

    def _check(
        self, threshold: float, weight: float, temperature: float, decay: float, rows: str
    ) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"Expected `threshold` to be in [0, 1], but got {threshold}.")
        if not 0 <= weight < math.inf:
            raise ValueError(f"Expected `unlabelled_weight` to be 0 or more, but got {weight}.")
        if not 0 < temperature < math.inf:
            raise ValueError(f"Expected `temperature` to be positive, but got {temperature}.")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"Expected `ema_decay` to be in [0, 1), but got {decay}.")
        if rows not in get_args(CrossNormRows):
            raise ValueError(
                f"Expected `crossnorm_rows` to be one of {get_args(CrossNormRows)}, "
                f"but got {rows!r}."
            )
        if self.crossnorm.consistency > 0:
            raise ValueError(
                "Expected `crossnorm.consistency` to be 0, but got "
                f"{self.crossnorm.consistency}: FixMatch has a consistency of its own."
            )

    @staticmethod
    def forwards(data: dict[str, Any], model: dict[str, Any]) -> float:
        return CNSNModule.forwards(data, model) + 2 * float(data["unlabelled_ratio"])

    def check_data(self, data: Any) -> None:
        if not isinstance(data, SemiSupervised):
            kind = type(data)
            raise ValueError(
                "Expected `data` to be a module with few labels, such as data.fixmatch.CIFAR, but "
                f"got {kind.__module__}.{kind.__qualname__}: see data/fixmatch/module.py."
            )
        if data.unlabelled_ratio == 0 and self.crossnorm_rows == "strong":
            raise ValueError(
                "Expected `crossnorm_rows` to have labelled images where `unlabelled_ratio` is 0, "
                "but got 'strong'."
            )

    def setup(self, stage: str) -> None:
        self.pseudo_labels = PseudoLabels(self.data.num_classes)

    def units(self, batch: dict[str, Any]) -> int:
        """Labelled and unlabelled images; each of the latter is seen in two views."""
        return len(batch["label"]) + len(batch.get("weak", ()))

    # Training.

    def on_fit_start(self) -> None:
        if self.trainer.is_global_zero:
            path = Path(self.trainer.default_root_dir) / "labelled.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_record(path, self.data.labelled_draw())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        image, label = batch["image"], batch["label"]
        if "weak" not in batch:
            loss = F.cross_entropy(self._logits(image, batch["number"], len(image)), label)
            self.log_losses(loss=loss, supervised=loss)
            return loss
        strong, weak = batch["strong"], batch["weak"]
        images = torch.cat([image, strong, weak])
        logits = self._logits(images, batch["number"], len(image))
        labelled, strong_logits, weak_logits = logits.split([len(image), len(strong), len(weak)])
        target, kept = pseudo_label(
            weak_logits, threshold=self.threshold, temperature=self.temperature
        )
        supervised = F.cross_entropy(labelled, label)
        unsupervised = (F.cross_entropy(strong_logits, target, reduction="none") * kept).mean()
        loss = supervised + self.unlabelled_weight * unsupervised
        self.pseudo_labels.update(target, kept, batch["hidden"])
        self.log_losses(loss=loss, supervised=supervised, unsupervised=unsupervised)
        self.log("train/mask_rate", kept.float().mean(), on_step=True, on_epoch=False)
        return loss

    def _logits(self, images: Tensor, step: int, labelled: int) -> Tensor:
        """Of labelled, strong and weak images, in this order; CrossNorm acts where asked to."""
        if not self.crossnorm_step(step):
            return self(images)
        # There are as many strong as weak images.
        strong = labelled + (len(images) - labelled) // 2
        rows = {
            "labelled": slice(0, labelled),
            "labelled+strong": slice(0, strong),
            "strong": slice(labelled, strong),
            "all": None,
        }
        with self.crossnorm_view(step, rows=rows[self.crossnorm_rows]):
            return self(images)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here, and not at the end of the batch: checkpoints are written between the two.
        self.update_average()

    @torch.no_grad()
    def update_average(self) -> None:
        """EMA of the parameters; buffers (batch statistics) are copied, as in the reference."""
        averaged: Any = list(self.ema.parameters())
        self._average(averaged, list(self.network.parameters()), None)
        for own, current in zip(self.ema.buffers(), self.network.buffers(), strict=True):
            own.copy_(current)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["evaluations"] = self.evaluations
        # A copy, which the sum over processes may change.
        counts = self.pseudo_labels.table.clone()
        counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        checkpoint["pseudo_labels"] = counts.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.evaluations = checkpoint["evaluations"]
        # Counts of all processes since the last evaluation: one of them goes on from these.
        if self.trainer.is_global_zero:
            self.pseudo_labels.table = checkpoint["pseudo_labels"]

    # Evaluation of EMA and raw weights: one metric over all conditions each.

    def start_evaluation(self) -> None:
        self.conditions = [tuple(group) for group in self.data.groups]
        n = len(self.conditions)
        self._errors = {name: GroupedErrors(n).to(self.device) for name in ("ema", "raw")}

    def evaluate(self, batch: dict[str, Tensor]) -> None:
        images = batch["image"].contiguous(memory_format=self.memory_format)
        for name, network in (("ema", self.ema), ("raw", self.network)):
            self._errors[name].update(network(images), batch["label"], batch["group"])

    def _values(self, weights: str) -> dict[str, list[float]]:
        values = self._errors[weights].compute()
        bad = not_finite_in(values, self.conditions)
        self.refuse_not_finite([f"{name} ({weights} weights)" for name in bad])
        return {name: value.reshape(-1).tolist() for name, value in values.items()}

    def on_validation_epoch_end(self) -> None:
        ema, raw = self._values("ema"), self._values("raw")
        self.log("val/error", ema["error"][0], prog_bar=True)
        self.log("val/ece", ema["ece"][0])
        self.log("val/raw_error", raw["error"][0])
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        found: dict[str, Any] = {"error": ema["error"][0], "raw_error": raw["error"][0]}
        if self.data.unlabelled_ratio:
            found["pseudo_labels"] = self._pseudo_label_figures()
        if not math.isnan(found["error"] + found["raw_error"]):
            evaluated = {"step": self.global_step, **found}
            self.evaluations = [*self.evaluations, evaluated][-EVALUATIONS:]
        if self.evaluations:
            self.log("val/median_error", self._median())

    def _pseudo_label_figures(self) -> dict[str, Any]:
        """Of all draws since the last evaluation, which is several times the unlabelled set."""
        figures = self.pseudo_labels.compute()
        self.pseudo_labels.reset()
        scalars = {k: v for k, v in figures.items() if k != "classes"}
        scalars |= {f"class_{i}": share for i, share in enumerate(figures["classes"])}
        self.log_dict({f"pseudo/{name}": value for name, value in scalars.items()})
        return figures

    def _median(self) -> float:
        return statistics.median(e["error"] for e in self.evaluations)

    def tested(self) -> dict[str, Any]:
        complete = self.data.COMPLETE
        ema, raw = (
            summarise(self._values(weights), self.conditions, complete=complete)
            for weights in ("ema", "raw")
        )
        summary = ema["summary"]
        summary |= {f"raw_{name}": value for name, value in raw["summary"].items()}
        if self.evaluations:
            summary["median_error"] = self._median()
        for condition, other in zip(ema["conditions"], raw["conditions"], strict=True):
            condition |= {"raw_error": other["error"], "raw_ece": other["ece"]}
        parts = clean_and_corrupted(self.conditions)
        drawn = reliability(self._errors["ema"].counts(), parts)
        return {**ema, "weights": "EMA", "evaluations": self.evaluations, "reliability": drawn}

    def show_test(self) -> None:
        log_conditions(self.loggers, self.metrics["conditions"])

    def print_report(self, record: dict[str, Any]) -> None:
        """Print EMA's figures by condition, then both weights', then the pseudo-labels'."""
        from tasks.engine.conditions import print_conditions

        print_conditions(record)
        print(
            "Reported: EMA weights after the last step. raw_: the weights themselves. median_: of "
            f"the last {len(record['evaluations'])} evaluations during training (EMA, clean)."
        )
        pseudo = (record["evaluations"] or [{}])[-1].get("pseudo_labels")
        if pseudo is not None:
            kept, right = (100 * pseudo[name] for name in ("mask_rate", "accuracy"))
            print(
                f"Pseudo-labels of the last epoch: {kept:.1f} % kept, "
                + (f"{right:.1f} % of them right." if kept else "so none to be right.")
            )


TASK = FixMatch


def main(args: list[str] | None = None) -> None:
    """The command line."""
    from tasks.engine.cli import run

    run(TASK, "fixmatch", args)


if __name__ == "__main__":
    main()
