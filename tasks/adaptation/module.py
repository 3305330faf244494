"""Domain adaptation: a labelled source domain, an unlabelled target domain, tested on the target.

    loss = CE(source) [+ c * JSD of CrossNorm views] [+ w * domain-adversarial loss]

CrossNorm takes its style from the source batch or, with ``style: target``, from the target batch:
both go through the network together, and every source sample gets the statistics of a target
sample at the active sites. What batch norms do meanwhile is for `batch_norm` to say: the two
domains never share statistics unless it is asked for.

Run as ``python -m tasks.adaptation {fit,test} --config configs/office31.yaml --data.source amazon
--data.target webcam``. Tang et al., ICCV 2021, https://arxiv.org/abs/2102.02811
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnsn.kinds import RESTYLINGS
from cnsn.losses import jsd_consistency
from data.domains.module import DomainPair
from data.randomness import generator_for
from tasks.adaptation.adversary import (
    AdversarySpec,
    DomainDiscriminator,
    captured_features,
    classifier_of,
)
from tasks.adaptation.confusion import log_confusion, print_confusion, summarise
from tasks.adaptation.domain_norm import Target, part_domains, two_domains
from tasks.engine.adabn import kept_batch_norm, reestimate_batch_norm
from tasks.engine.base import CNSNModule, crossnorm_share
from tasks.engine.metrics import ConfusionMatrices, GroupedErrors

__all__ = ["Adaptation", "BatchNorm", "Style"]

Style = Literal["source", "target"]
BatchNorm = Literal["source", "mixed", "reestimated", "per_domain"]
# Of target images in training: those that the test will have, as far as they are known by then.
TARGET_STATISTICS: dict[str, Target] = {
    "source": "source",
    "reestimated": "batch",
    "per_domain": "kept",
}


class _Pass(NamedTuple):
    """What a forward gave: logits of the source, and features of both domains where they ran."""

    logits: Tensor
    features: Tensor | None


class Adaptation(CNSNModule):
    """Trains on a source domain and tests on a target domain.

    Args:
        style: whose statistics CrossNorm gives to source samples.
        batch_norm: what batch norms normalise by.
            "source": the source's statistics, in training and in the test. Target images that run
            beside it are normalised by the running averages of the source, as in the test.
            "mixed": one statistic of both domains' images together, as implementations of DANN do;
            every step then runs target images, too.
            "reestimated": for the test, statistics are taken anew from the unlabelled target images
            (AdaBN). In training as "source", but that target images which run beside the source
            are normalised by their own batch.
            "per_domain": each domain has running averages of its own from the first step on, and
            the test uses the target's; every step then runs target images, too.
        adversary: domain-adversarial training.

    The other arguments are those of :class:`CNSNModule`.

    Attributes:
        MONITOR: None, since a checkpoint chosen by target labels would not be adaptation without
            them: the last one is the result.
    """

    DATA = DomainPair
    SETS: ClassVar = {"DomainPair": ("data.domains.DomainPair",)}
    LINKS = (("data.num_classes", "model.network.init_args.num_classes", "instantiate"),)
    MONITOR = None
    COLUMNS: ClassVar = {"accuracy": "accuracy"}
    METRIC = "accuracy"
    DRAWN: ClassVar = {
        "tsne.png": "Features in the plane (t-SNE)",
        "confusion.png": "What is taken for what",
        "mistakes.png": "Most confident mistakes",
    }
    ABSENT = "No embeddings: python -m tasks.adaptation.embeddings draws them, below the runs."

    def __init__(
        self,
        *args: Any,
        style: Style = "source",
        batch_norm: BatchNorm = "source",
        adversary: AdversarySpec = AdversarySpec(),
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        _check_choice("style", style, get_args(Style))
        _check_choice("batch_norm", batch_norm, get_args(BatchNorm))
        if style == "target" and not RESTYLINGS[self.cnsn.restyle].layer.PAIRED:
            raise ValueError(
                "Expected `cnsn.restyle` to take styles from other samples for `style: target`, "
                f"but got {self.cnsn.restyle!r}."
            )
        if style == "target" and not self.cnsn.crossnorm:
            raise ValueError(
                "Expected `cnsn.kind` to be cn or cnsn for `style: target`, but got "
                f"{self.cnsn.kind!r}."
            )
        self.style: Style = style
        self.batch_norm: BatchNorm = batch_norm
        self.adversary = adversary
        together = style == "target" or adversary.weight > 0
        if batch_norm == "per_domain" or (together and batch_norm != "mixed"):
            part_domains(self.network, TARGET_STATISTICS[batch_norm])
        self.discriminator: DomainDiscriminator | None = None
        if adversary.weight:
            features = self.classifier.in_features
            self.discriminator = DomainDiscriminator(features, adversary.hidden)
        self.evaluation = ExitStack()

    @staticmethod
    def forwards(data: dict[str, Any], model: dict[str, Any]) -> float:
        if model.get("batch_norm") == "mixed":
            return 2
        return 1 + crossnorm_share(model) * (model.get("style") == "target")

    @property
    def classifier(self) -> nn.Linear:
        """The network's last layer, whose inputs are the features."""
        return classifier_of(self.network)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network's groups, and the discriminator, which learns as fast as a head."""
        groups = super().parameter_groups()
        if self.discriminator is not None:
            rate = self.optimizer_spec.lr * self.optimizer_spec.head_lr_factor
            groups.append({"params": list(self.discriminator.parameters()), "lr": rate})
        return groups

    def units(self, batch: dict[str, Any]) -> int:
        """Images of both domains."""
        return len(batch["label"]) + len(batch.get("target", ()))

    # ---------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        self.check_class_folders(self.data)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        step, views = batch["number"], self._views(batch["number"])
        passes = [self._pass(batch["image"], batch["target"], step, view) for view in views]
        if self.batch_norm == "per_domain" and all(one.features is None for one in passes):
            self._follow_target(batch["target"])
        losses = {"ce": F.cross_entropy(passes[0].logits, batch["label"])}
        loss = losses["ce"]
        if len(passes) > 1:
            losses["jsd"] = jsd_consistency([one.logits for one in passes])
            loss = loss + self.crossnorm.consistency * losses["jsd"]
        if self.discriminator is not None:
            features = passes[0].features
            assert features is not None
            strength = self.adversary.strength(self._progress(step))
            losses["domain"], accuracy = self.discriminator.loss(
                features, len(batch["image"]), strength
            )
            loss = loss + self.adversary.weight * losses["domain"]
            self.log("train/domain_accuracy", accuracy)
        self.log_losses(loss=loss, **losses)
        return loss

    def _views(self, step: int) -> list[int | None]:
        """The forwards of a step: None without CrossNorm, a number for a CrossNorm view."""
        if not self.crossnorm_step(step):
            return [None]
        return [0] if self.crossnorm.consistency == 0 else [None, 0, 1]

    def _progress(self, step: int) -> float:
        steps = self.trainer.estimated_stepping_batches * self.trainer.accumulate_grad_batches
        return min(step / steps, 1.0)

    def _pass(self, source: Tensor, target: Tensor, step: int, view: int | None) -> _Pass:
        """Run the source, and the target beside it where this forward needs it."""
        n = len(source)
        together = self.batch_norm == "mixed" or self.discriminator is not None
        with ExitStack() as stack:
            if view is not None:
                together = together or self.style == "target"
                stack.enter_context(self._styled(n, step, view, together))
            if not together:
                return _Pass(self(source), None)
            if self.batch_norm != "mixed":
                stack.enter_context(two_domains(self.network, n))
            found = stack.enter_context(captured_features(self.classifier))
            logits = self(torch.cat([source, target]))
        return _Pass(logits[:n], found[0])

    def _styled(self, n: int, step: int, view: int, together: bool) -> AbstractContextManager[None]:
        """CrossNorm on the `n` source samples, with styles of theirs or of the `n` target ones."""
        if self.style == "source":
            return self.crossnorm_view(step, view, rows=slice(n) if together else None)
        generator = generator_for(self.seed, "partner", step, view, self.global_rank)
        donors = n + torch.randperm(n, generator=generator)
        # The target's images keep their own style.
        partner = torch.cat([donors, torch.arange(n, 2 * n)])
        return self.crossnorm_view(step, view, partner=partner)

    @torch.no_grad()
    def _follow_target(self, target: Tensor) -> None:
        """Update the target's running averages."""
        with two_domains(self.network, 0):
            self(target)

    # -------------------------------------------------------------------------------- evaluation

    @contextmanager
    def target_view(self, datamodule: Any) -> Iterator[None]:
        """Within it, the network normalises as it does for the target in a test.

        Args:
            datamodule: whose ``target_batches`` the statistics are taken from.
        """
        with ExitStack() as stack:
            if self.batch_norm == "reestimated":
                stack.enter_context(kept_batch_norm(self.network))
                batches = datamodule.target_batches(self.device)
                layout = self.memory_format
                reestimate_batch_norm(
                    self.network, (x.contiguous(memory_format=layout) for x in batches)
                )
            elif self.batch_norm == "per_domain":
                stack.enter_context(two_domains(self.network, 0))
            yield

    def start_evaluation(self) -> None:
        self.errors = GroupedErrors(1).to(self.device)
        self.confusion = ConfusionMatrices(1, self.data.num_classes).to(self.device)
        self.evaluation.enter_context(self.target_view(self.data))

    def evaluate(self, batch: dict[str, Tensor]) -> None:
        logits, label = self(batch["image"]), batch["label"]
        self.errors.update(logits, label, torch.zeros_like(label))
        self.confusion.update(logits.argmax(-1), label, 0)

    def _finish_evaluation(self) -> dict[str, Any]:
        self.evaluation.close()
        found = summarise(self.errors, self.confusion)
        bad = math.isnan(found["summary"]["ece"])
        self.refuse_not_finite(["the target's images"] if bad else [])
        return found

    def on_validation_epoch_end(self) -> None:
        summary = self._finish_evaluation()["summary"]
        self.log("val/accuracy", summary["accuracy"], prog_bar=True)

    def tested(self) -> dict[str, Any]:
        return self._finish_evaluation()

    def show_test(self) -> None:
        log_confusion(self.loggers, self.data.classes, self.metrics["confusion"])

    def print_report(self, record: dict[str, Any]) -> None:
        """Print accuracy by class."""
        print_confusion(record)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {choices}, but got {value!r}.")


TASK = Adaptation


def main(args: list[str] | None = None) -> None:
    """The command line."""
    from tasks.engine.cli import run
    from tasks.engine.predict import predict

    given = sys.argv[1:] if args is None else args
    if given[:1] == ["predict"]:
        predict(TASK, "adaptation", Adaptation.target_view, given[1:])
    else:
        run(TASK, "adaptation", args)


if __name__ == "__main__":
    main()
