"""Semantic segmentation with CrossNorm and SelfNorm: trained on a source, scored on a target too.

    loss = CE(main head) + 0.4 CE(auxiliary head),   over the pixels that are labelled,

with CrossNorm, with probability p, in the step's forward. Run as
``python -m tasks.segmentation {fit,validate,test,predict} --config configs/gta5.yaml ...``.
Recipe: Tang et al., ICCV 2021, https://arxiv.org/abs/2102.02811, and its released scripts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from cnsn import CNSNSpec
from data.randomness import derive_seed
from data.segmentation.labels import CLASSES, IGNORE
from data.segmentation.module import DOMAINS, SourceAndTarget
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.media import log_matrix
from tasks.engine.metrics import ConfusionMatrices
from tasks.engine.weights import holds_layers
from tasks.runs.dispensable import dispensable
from tasks.segmentation.inference import NO_CLASS, EvaluationSpec, centre_of, segment
from tasks.segmentation.metrics import iou_of
from tasks.segmentation.networks import of_any_size
from tasks.segmentation.pictures import (
    Example,
    class_bars,
    grid,
    log_examples,
    prediction_folder,
    save_prediction,
)
from tasks.segmentation.report import print_segmentation
from tasks.segmentation.weights import load_pretrained

__all__ = ["Segmentation", "pixel_cross_entropy"]


def pixel_cross_entropy(logits: Tensor, label: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the pixels that are labelled; 0, with a gradient, where none is.

    Args:
        logits: (B, classes, H, W).
        label: int64 (B, H, W), 255 where ignored.
        pixels: number that the sum is divided by; None counts the labelled ones.
    """
    total = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="sum")
    if pixels is None:
        pixels = (label != IGNORE).sum()
    return total / pixels.clamp(min=1)


class Segmentation(CNSNModule):
    """Trains and scores a segmentation network.

    Args:
        network: of (B, 3, H, W) images, that returns logits (B, classes, H, W) or {"out", "aux"};
            see :mod:`tasks.segmentation.networks`. Those of segmentation_models_pytorch get images
            filled up to the sizes that they take.
        cnsn: the layers to insert.
        crossnorm: when CrossNorm acts; there is no consistency loss in this task.
        evaluation: what scores are measured on.
        weights: pretrained weights: a name of torchvision or segmentation_models_pytorch, or a
            file; None keeps the network's fresh ones.
        auxiliary: weight of the auxiliary head's loss.
        pictures: examples, of both domains together, drawn after each epoch; 0 for none.

    The other arguments are those of :class:`CNSNModule`.
    """

    # Chosen on the source alone: the target is not looked at.
    MONITOR = ("val/source_miou", "max")
    DATA = SourceAndTarget
    NETWORKS: ClassVar = {
        name: f"tasks.segmentation_networks.{name}" for name in ("FCNResNet50", "SmallFPN")
    } | {"SMPNetwork": "tasks.segmentation.networks.SMPNetwork"}
    SETS: ClassVar = {"SourceAndTarget": ("data.segmentation.SourceAndTarget",)}
    LINKS = (("data.num_classes", "model.network.init_args.num_classes", "instantiate"),)
    HEADS = ("classifier.", "aux_classifier.", "lateral.", "net.decoder.", "net.segmentation_head.")
    NEUTRAL = frozenset({"pictures"})
    MEASURED = VALIDATED = frozenset({"evaluation"})
    COLUMNS: ClassVar = {
        "target_miou": "target mIoU",
        "source_miou": "source mIoU",
        "target_accuracy": "target pixel accuracy",
    }
    METRIC = "target_miou"
    PICTURES: ClassVar = {
        "pictures/epoch_*.png": "Segmentations",
        "iou_by_class.png": "IoU by class",
    }
    ABSENT = "No segmentations: there is no run of the segmentation task."
    # Over the labelled pixels of all processes: see `_labelled_pixels`.
    MEAN_OVER_SAMPLES = False

    def __init__(
        self,
        network: nn.Module,
        cnsn: CNSNSpec = CNSNSpec(),
        crossnorm: CrossNormTraining = CrossNormTraining(),
        *args: Any,
        evaluation: EvaluationSpec = EvaluationSpec(),
        weights: str | None = None,
        auxiliary: float = 0.4,
        pictures: int = 4,
        **options: Any,
    ) -> None:
        for name, value in (("auxiliary", auxiliary), ("pictures", pictures)):
            if not 0 <= value < math.inf:
                raise ValueError(f"Expected `{name}` to be 0 or more, but got {value}.")
        if crossnorm.consistency:
            raise ValueError(
                "Expected `crossnorm.consistency` to be 0 in segmentation, whose recipe has no "
                f"consistency loss, but got {crossnorm.consistency}."
            )
        if weights is not None and holds_layers(weights) and not cnsn.selfnorm:
            raise ValueError(
                f"Expected `cnsn.kind` to be sn or cnsn for {weights}, which holds SelfNorm, but "
                f"got {cnsn.kind!r}."
            )
        network = of_any_size(network)
        super().__init__(network, cnsn, crossnorm, *args, weights=weights, **options)
        self.evaluation = evaluation
        self.auxiliary = auxiliary
        self.pictures = pictures
        self.confusion = ConfusionMatrices(len(DOMAINS), len(CLASSES), ignore=IGNORE)

    def load_pretrained(self, network: nn.Module, weights: str) -> bool:
        return load_pretrained(network, weights, self.HEADS)

    @staticmethod
    def output_shape(size: int, classes: int) -> tuple[int, ...]:
        return (1, classes, size, size)

    def logits(self, images: Tensor) -> Tensor:
        """Of the main head, (B, classes, H, W)."""
        outputs = self(images)
        return outputs["out"] if isinstance(outputs, dict) else outputs

    # ------------------------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        synchronised = any(isinstance(m, nn.SyncBatchNorm) for m in self.network.modules())
        if synchronised and self.device.type == "cpu":
            raise ValueError(
                "Expected GPUs for `trainer.sync_batchnorm`, which torch has for them alone, but "
                "got processes on CPU: leave it out."
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images, label, number = batch["image"], batch["label"], batch["number"]
        # Dropout draws from the global generator, which a resumed run does not have.
        torch.manual_seed(derive_seed(self.seed, "dropout", number, self.global_rank))
        # One coin an optimiser step, also where it is cut into several forwards.
        if self.crossnorm_step(self.global_step):
            with self.crossnorm_view(number):
                outputs = self(images)
        else:
            outputs = self(images)
        heads = outputs if isinstance(outputs, dict) else {"out": outputs}
        pixels = self._pixels = self._labelled_pixels(label)
        self._crop_pixels = label[0].numel()
        losses = {"ce": pixel_cross_entropy(heads["out"], label, pixels)}
        loss = losses["ce"]
        if "aux" in heads:
            losses["aux"] = pixel_cross_entropy(heads["aux"], label, pixels)
            loss = loss + self.auxiliary * losses["aux"]
        self.log_losses(loss=loss, **losses)
        return loss

    def _labelled_pixels(self, label: Tensor) -> Tensor:
        """The mean over processes of their labelled pixels, as gradients are averaged too."""
        pixels = (label != IGNORE).sum().float()
        if self.trainer.world_size > 1:
            pixels = self.trainer.strategy.reduce(pixels, reduce_op="mean")
        return pixels

    # Of a step that is cut into several forwards, the mean is over the pixels of all of them, which
    # are known once the last is there. Until then the pixels of one crop stand for them, so that
    # the size of the gradients stays usual.

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._pixels_of_step = torch.zeros((), device=self.device)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        taken = self.trainer.accumulate_grad_batches
        if taken > 1:
            self._pixels_of_step += self._pixels
            loss = loss * (taken * self._pixels / self._crop_pixels)
        super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if gradients and self.trainer.accumulate_grad_batches > 1:
            torch._foreach_mul_(gradients, self._crop_pixels / self._pixels_of_step.clamp(min=1))

    def on_train_epoch_end(self) -> None:
        if self.pictures and self.trainer.is_global_zero:
            examples = self.examples()
            folder = Path(self.trainer.default_root_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            grid(examples).save(folder / f"epoch_{self.current_epoch + 1:04d}.png")
            log_examples(self.loggers, examples, self.global_step)

    @torch.inference_mode()
    def examples(self) -> list[Example]:
        """The same few images of source and target each time, as the network sees them now."""
        examples = []
        training = self.network.training
        self.network.eval()
        for name, image, truth in self.data.examples(self.pictures):
            inputs = self.data.normalised(image).to(self.device)
            with self.trainer.precision_plugin.forward_context():
                predicted = segment(self.logits, inputs, self.evaluation)[0]
            if self.evaluation.mode == "centre":
                image, truth = (centre_of(x, self.evaluation.window) for x in (image, truth))
            array = image.permute(1, 2, 0).contiguous().numpy()
            found = predicted.to(torch.uint8).cpu().numpy()
            examples.append(Example(name, array, truth.numpy(), found))
        self.network.train(training)
        return examples

    # ---------------------------------------------------------------------------------- evaluation

    def evaluate(self, batch: dict[str, Any]) -> None:
        label = batch["label"]
        if self.evaluation.mode == "centre":
            label = centre_of(label, self.evaluation.window)
        predicted = segment(self.logits, batch["image"], self.evaluation)
        self.confusion.update(predicted, label, batch["domain"])

    def _scores(self) -> dict[str, dict[str, Tensor]]:
        counts, unknown = self.confusion.compute(), self.confusion.without_class().tolist()
        self.confusion.reset()
        self.counts = counts.cpu()
        scores = {domain: iou_of(self.counts[i]) for i, domain in enumerate(DOMAINS)}
        bad = [domain for domain, pixels in zip(DOMAINS, unknown, strict=True) if pixels]
        self.refuse_not_finite([f"the {domain}'s images" for domain in bad])
        for domain in bad:
            scores[domain] = {name: value * math.nan for name, value in scores[domain].items()}
        return scores

    def on_validation_epoch_end(self) -> None:
        for domain, scores in self._scores().items():
            self.log(f"val/{domain}_miou", scores["miou"].item(), prog_bar=True)
            self.log(f"val/{domain}_accuracy", scores["accuracy"].item())

    def tested(self) -> dict[str, Any]:
        scores = self._scores()
        self._require_labelled()
        iou = {domain: values["iou"].tolist() for domain, values in scores.items()}
        # Scored otherwise, a result has other names, so that tables never mix the two.
        suffix = "" if self.evaluation == EvaluationSpec() else f" ({self.evaluation})"
        summary = {
            f"{domain}_{name}{suffix}": values[name].item()
            for name in ("miou", "accuracy")
            for domain, values in scores.items()
        }
        self.log_dict(
            {f"test/{d}_iou/{CLASSES[c]}": v for d, own in iou.items() for c, v in enumerate(own)}
        )
        present = [c for c in range(len(CLASSES)) if iou["target"][c] == iou["target"][c]]
        return {
            "summary": summary,
            "breakdown": {CLASSES[c]: iou["target"][c] for c in present},
            "iou": {domain: dict(zip(CLASSES, v, strict=True)) for domain, v in iou.items()},
            "evaluation": str(self.evaluation),
            "mean_over": "classes in truth or prediction",  # lines without it: in truth alone
        }

    def _require_labelled(self) -> None:
        for domain, counts in zip(DOMAINS, self.counts, strict=True):
            if not counts.any():
                raise ValueError(
                    f"Expected labelled pixels in the {domain} images that are scored, but there "
                    "are none, so there is no score: `model.evaluation.mode` and "
                    "`trainer.limit_test_batches` decide what is scored, source first."
                )

    def show_test(self) -> None:
        iou = {domain: list(values.values()) for domain, values in self.metrics["iou"].items()}
        folder = Path(self.trainer.default_root_dir)
        confusion = dict(zip(DOMAINS, self.counts.tolist(), strict=True))
        content = {"classes": CLASSES, "evaluation": str(self.evaluation), "confusion": confusion}
        with dispensable(path := folder / "confusion.json"):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content) + "\n")
        title = f"{self.data.describe()['dataset']}, {self.evaluation}"
        classes = {
            name: {domain: 100 * iou[domain][c] for domain in iou} for c, name in enumerate(CLASSES)
        }
        log_matrix(self.loggers, "test/iou_by_class", classes, corner="class", title="IoU in %")
        with dispensable(path := folder / "iou_by_class.png"):
            class_bars(iou, title, path)
            for logger in self.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image(key="test/iou_picture", images=[str(path)])

    # ---------------------------------------------------------------------------------- prediction

    def on_predict_start(self) -> None:
        self.predictions = prediction_folder(
            Path(self.trainer.default_root_dir) / "predictions",
            self.data.plain,
            self.network.state_dict(),
            checkpoint=self.trainer.ckpt_path,
            way=f"{self.evaluation}, {self.trainer.precision}",
        )

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        spec = self.evaluation
        predicted = segment(self.logits, batch["image"], spec).cpu()
        for position, classes in zip(batch["index"].tolist(), predicted, strict=True):
            name, image = self.data.plain.named(position)
            self.refuse_not_finite([name] if (classes == NO_CLASS).any() else [])
            found = classes.to(torch.uint8).numpy()
            if spec.mode == "centre":
                image = centre_of(image, spec.window)
            array = image.permute(1, 2, 0).contiguous().numpy()
            save_prediction(self.predictions, name, array, found)

    def on_predict_end(self) -> None:
        rank_zero_info(
            f"Predictions are in {self.predictions}: ids/, as Cityscapes' server takes them, "
            "colour/ and overlay/."
        )

    def print_report(self, record: dict[str, Any]) -> None:
        """Print a test's figures as a table."""
        print_segmentation(record)


TASK = Segmentation


def main(args: list[str] | None = None) -> None:
    """The command line."""
    from tasks.engine.cli import run

    run(TASK, "segmentation", args)


if __name__ == "__main__":
    main()
