"""Sentiment of texts with CrossNorm and SelfNorm: trained on IMDb's reviews, tested on SST-2 too.

    loss = CE(clean view)                                                           always
    loss = CE(one view under CrossNorm)                          with probability p, or
    loss = CE(clean) + c * JSD(clean, CN view 1, CN view 2)      with p, where c > 0

    python -m tasks.text {fit,validate,test} --config configs/sst2.yaml --data.imdb X --data.sst2 Y
    python -m tasks.text predict --ckpt_path .../last.ckpt --text "A warm, funny film."

A checkpoint holds its vocabulary and its network's options, so that `predict` needs nothing else.
Recipe: Tang et al., ICCV 2021, https://arxiv.org/abs/2102.02811, with the network of Kim 2014.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from cnsn import CNSNSpec
from cnsn.losses import jsd_consistency
from cnsn.nets.text_cnn import TextNetwork
from data.text.glove import find_glove
from data.text.module import HELD_OUT, IMDbToSST2
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.metrics import ConfusionMatrices, GroupedErrors, not_finite_in, reliability
from tasks.engine.optim import OptimizerSpec
from tasks.text.metrics import summarise
from tasks.text.report import log_test_sets

__all__ = ["Text"]

CURVES = ("error", "sst2_error", "ece", "sst2_ece")


class Text(CNSNModule):
    """Trains and tests a classifier of texts.

    Args:
        network: cnsn.nets.TextCNN or cnsn.nets.TextResNet; the data say its vocabulary's size.
        cnsn: the layers to insert.
        crossnorm: when CrossNorm acts.
        optimizer: the optimiser and its schedule.

    The other arguments are those of :class:`CNSNModule`; there are no pretrained weights.
    """

    DATA = IMDbToSST2
    NETWORKS: ClassVar = {name: f"cnsn.nets.{name}" for name in ("TextCNN", "TextResNet")}
    SETS: ClassVar = {"IMDbToSST2": ("data.text.IMDbToSST2",)}
    LINKS = (
        ("data.num_classes", "model.network.init_args.num_classes", "instantiate"),
        ("data.vocabulary_size", "model.network.init_args.vocabulary_size", "instantiate"),
    )
    UNIT = "texts"
    COLUMNS: ClassVar = {
        "accuracy": "IMDb test",
        "sst2_accuracy": "SST-2",
        "ece": "IMDb ECE",
        "sst2_ece": "SST-2 ECE",
    }
    METRIC = "sst2_accuracy"
    ONE_GRAPH = False

    def __init__(
        self,
        network: TextNetwork,
        cnsn: CNSNSpec = CNSNSpec(position="conv"),
        crossnorm: CrossNormTraining = CrossNormTraining(),
        optimizer: OptimizerSpec = OptimizerSpec(
            algorithm="adam", lr=1e-3, weight_decay=0.0, schedule="constant"
        ),
        **options: Any,
    ) -> None:
        super().__init__(
            network, cnsn, crossnorm, optimizer, weights=None, channels_last=False, **options
        )
        self.history: list[dict[str, float]] = []

    @staticmethod
    def example(size: int) -> tuple[Tensor, ...]:
        return torch.zeros(1, size, dtype=torch.long), torch.full((1,), size)

    @staticmethod
    def check_config(config: Any) -> None:
        # Of the data module alone, since to build it is to read the reviews.
        freeze = config.get("model.network.init_args.freeze_embedding")
        if freeze and config.get("data.init_args.glove") is None:
            raise ValueError(
                "Expected `--data.glove` with `freeze_embedding`, but got none: random word "
                "vectors must be trained."
            )

    @staticmethod
    def describe_data(data: Any, network: dict[str, Any]) -> dict[str, Any]:
        data.vectors(network["dimension"])  # They are a part of the data.
        return CNSNModule.describe_data(data, network)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        if data.glove is not None:
            find_glove(data.glove)

    def setup(self, stage: str) -> None:
        network: Any = self.network
        vectors = self.data.vectors(network.options["dimension"])
        if stage != "fit":
            return
        if vectors is None:
            rank_zero_info(f"Word vectors: random, {len(network.embedding.weight)} words.")
            return
        network.load_embedding(torch.from_numpy(vectors.vectors), torch.from_numpy(vectors.known))
        counts = self.data.corpus.counts
        rank_zero_info(
            f"Word vectors: {vectors.source} has {100 * vectors.coverage():.1f} % of the "
            f"vocabulary's {len(vectors.known)} words, {100 * vectors.coverage(counts):.1f} % of "
            "the training text; the others are random."
        )

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:  # type: ignore[override]
        """Logits (B, classes) of words' numbers (B, L) and lengths (B,)."""
        return self.network(tokens, length)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        texts, label = (batch["tokens"], batch["length"]), batch["label"]
        # From the loader, which knows it exactly also after a resume in the middle of an epoch.
        step = batch["number"]
        if not self.crossnorm_step(step):
            loss = F.cross_entropy(self(*texts), label)
            self.log_losses(loss=loss, ce=loss)
        elif self.crossnorm.consistency == 0:
            loss = F.cross_entropy(self._crossnorm_logits(*texts, step, 0), label)
            self.log_losses(loss=loss, ce=loss)
        else:
            clean = self(*texts)
            views = [self._crossnorm_logits(*texts, step, view) for view in (0, 1)]
            ce = F.cross_entropy(clean, label)
            jsd = jsd_consistency([clean, *views])
            loss = ce + self.crossnorm.consistency * jsd
            self.log_losses(loss=loss, ce=ce, jsd=jsd)
        return loss

    def _crossnorm_logits(self, tokens: Tensor, length: Tensor, step: int, view: int) -> Tensor:
        with self.crossnorm_view(step, view):
            return self(tokens, length)

    # Evaluation: IMDb's test reviews and all sentences in one pass, in validation too, so that the
    # curves of both can be drawn; nothing is selected by them, and results are the last epoch's.
    # Where training reviews are held out, a validation scores these alone, and `best` follows them.

    def start_evaluation(self) -> None:
        data = self.data
        self.sets = [HELD_OUT] if data.held_out and not self.trainer.testing else data.groups
        sst2 = slice(1, 1 + len(data.splits))
        self.errors = GroupedErrors(len(self.sets), pooled=sst2).to(self.device)
        self.confusion = ConfusionMatrices(len(self.sets), data.num_classes).to(self.device)

    def evaluate(self, batch: dict[str, Tensor]) -> None:
        logits = self(batch["tokens"], batch["length"])
        self.errors.update(logits, batch["label"], batch["group"])
        self.confusion.update(logits.argmax(-1), batch["label"], batch["group"])

    def _evaluated(self) -> dict[str, Any]:
        values = self.errors.compute()
        self.refuse_not_finite(not_finite_in(values, self.sets))
        return summarise(values, self.confusion.compute(), self.sets)

    def on_validation_epoch_end(self) -> None:
        summary = self._evaluated()["summary"]
        if self.trainer.sanity_checking:
            return
        self.log("val/error", summary["error"], prog_bar=True)
        self.log("val/ece", summary["ece"])
        if len(self.sets) > 1:
            self.log("val/sst2_error", summary["sst2_error"], prog_bar=True)
            self.log("val/sst2_ece", summary["sst2_ece"])
        kept = [key for key in CURVES if len(self.sets) > 1 or not key.startswith("sst2")]
        if self.trainer.state.fn == "fit":
            epoch = float(self.current_epoch + 1)
            self.history.append({"epoch": epoch} | {name: summary[name] for name in kept})

    def tested(self) -> dict[str, Any]:
        metrics = self._evaluated() | {"history": self.history}
        parts = {"IMDb test": [0], "SST-2": list(range(1, 1 + len(self.data.splits)))}
        return {**metrics, "reliability": reliability(self.errors.counts(), parts)}

    def show_test(self) -> None:
        log_test_sets(self.loggers, self.metrics["test_sets"])

    def print_report(self, record: dict[str, Any]) -> None:
        """Print a test's figures as a table."""
        from tasks.text.report import print_text

        print_text(record)

    # What a checkpoint must hold to be used by itself.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        network: Any = self.network
        checkpoint["text"] = {
            "vocabulary": self.data.corpus.vocabulary.words,
            "max_length": self.data.max_length,
            "network": type(network).__name__,
            "options": network.options,
            "cnsn": asdict(self.cnsn),
            "word_vectors": self.data.describe()["word_vectors"],
            "history": self.history,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get("text", {})
        if stored.get("vocabulary") != self.data.corpus.vocabulary.words:
            raise ValueError(
                "Expected the checkpoint to have been trained on the vocabulary of these reviews, "
                "but its words are others: give the options of `--data` that it was trained with."
            )
        own = self.data.describe()["word_vectors"]
        if (begun := stored.get("word_vectors", own)) != own:
            raise ValueError(
                f"Expected the word vectors that the checkpoint began with, {begun['source']}, but "
                f"got {own['source']}: give the `--data.glove` that it was trained with, as the "
                "result names it."
            )
        self.history = list(stored["history"])


TASK = Text


def main(args: list[str] | None = None) -> None:
    """The command line."""
    from tasks.engine.cli import run
    from tasks.text.predict import predict

    given = sys.argv[1:] if args is None else args
    if given[:1] == ["predict"]:
        predict(given[1:])
    else:
        run(TASK, "text", args)


if __name__ == "__main__":
    main()
