"""What every task shares: the layers inserted, CrossNorm's random steps, losses and optimiser.

A task derives its LightningModule from :class:`CNSNModule` and writes its own loss and evaluation:

    def training_step(self, batch, batch_idx):
        step = batch["number"]
        if self.crossnorm_step(step):
            with self.crossnorm_view(step):
                ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cnsn import CNSNSpec, crossnorm_active, insert, replace_norms
from cnsn.insertion.active import coins, crossnorm_sites
from cnsn.kinds import GATES
from cnsn.layers import Gate
from cnsn.norms import NORMS, NormsSpec
from data.errors import listed
from data.images import has_two_orders
from data.randomness import derive_seed, generator_for
from tasks.engine.memory import use_memory_format
from tasks.engine.optim import OptimizerSpec, build_optimizer, decay_groups
from tasks.engine.weights import holds_layers

__all__ = ["CNSNModule", "CrossNormTraining", "crossnorm_share"]

SIDES = (64, 224)  # of an image that some network takes


@dataclass(frozen=True)
class CrossNormTraining:
    """When CrossNorm acts during training.

    Args:
        p: probability that a step, on the whole batch, runs with CrossNorm. Of batches that
            accumulate, each tosses its own coin, but where a task has the step toss it.
        k: how many of the network's CrossNorm sites are then active.
        sites: "some" are `k` of them. With "each" every site tosses its own coin with probability
            `p` in every step, `k` means nothing, and there is no consistency loss.
        consistency: weight of the JSD between the clean view and two CrossNorm views, in tasks
            that have one; 0 replaces the clean view by a CrossNorm view instead.
    """

    p: float = 0.5
    k: int = 1
    consistency: float = 0.0
    sites: Literal["some", "each"] = "some"

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"Expected `p` to be in [0, 1], but got {self.p}.")
        if self.k < 1:
            raise ValueError(f"Expected `k` to be at least 1, but got {self.k}.")
        if not 0 <= self.consistency < math.inf:
            raise ValueError(f"Expected `consistency` to be 0 or more, but got {self.consistency}.")
        if self.sites not in ("some", "each"):
            raise ValueError(f"Expected `sites` to be some or each, but got {self.sites!r}.")
        if self.sites == "each" and (self.k != 1 or self.consistency):
            raise ValueError(
                "Expected `k` and `consistency` to be left out with `sites: each`, where every "
                f"site tosses its own coin, but got {self.k} and {self.consistency}."
            )


def crossnorm_share(model: dict[str, Any]) -> float:
    """The share of steps with CrossNorm, by the options of a module that were given.

    At most, where each site tosses its own coin.
    """
    if (model.get("cnsn") or {}).get("kind") not in ("cn", "cnsn"):
        return 0.0
    if (model.get("crossnorm") or {}).get("sites") == "each":
        return 1.0
    return float((model.get("crossnorm") or {}).get("p", CrossNormTraining.p))


class CNSNModule(L.LightningModule):
    """Base of the tasks' modules, whose constructors name their own options and pass on the others.

    Args:
        network: an ordinary network.
        cnsn: the layers to insert.
        crossnorm: when CrossNorm acts.
        optimizer: the optimiser and its schedule.
        weights: pretrained weights: a torchvision weight name or a file, of the plain network or
            of the one with the layers inserted; None keeps its fresh ones.
        channels_last: memory format of network and images.
        compile: run the network through torch.compile.
        seed: of CrossNorm's and dropout's draws; the command line sets it to the run's seed.
        norms: which normalisation takes the place of batch norms, before the layers go in.

    Attributes:
        MONITOR: the logged value, and its better direction, that the checkpoint `best` follows;
            None keeps no such checkpoint.
        LINKS: options that follow from others, as (source, target, when) of jsonargparse's links.
        HEADS: prefixes, in the network, of its output layers.
        MEAN_OVER_SAMPLES: whether the loss is the mean over the process's samples, by whose number
            a batch then counts in an optimiser's step.
        DATA: what the task's batches come from.
        UNIT: what batches hold, as throughput counts it.
        NEUTRAL: options that change nothing in what is learnt or measured.
        MEASURED: options that change nothing but what a test measures.
        VALIDATED: of those, what changes what a validation measures, too.
        COLUMNS: of a table whose file names none: keys of the test's summary, with their headers.
        METRIC: the column that such a table compares by.
        CURVES: titles of logged values on the report's page, where their names say too little.
        PICTURES: of a run's directory, for the page: a pattern of files' names, of which the last
            is shown, with its heading.
        DRAWN: pictures that another command draws below the runs: names, the one that is always
            there first, with their titles.
        ABSENT: what the page says where it has no run of the task, or nothing drawn.
        NETWORKS: class paths of the task's networks by short name.
        SETS: likewise of its data, with the options that follow; the first one is its usual one.
        ONE_GRAPH: whether compiled networks take CrossNorm's views too; with a mask each choice of
            sites would be compiled as a graph of its own, until torch gives up.
        losses: of the last step, as they are logged.
        metrics: set by the end of a test; becomes part of the result line.
        complete: whether `weights` gave every parameter, so that the network needs no training.
        heads_given: whether given weights say which class has which number.
    """

    MONITOR: ClassVar[tuple[str, Literal["min", "max"]] | None] = ("val/error", "min")
    LINKS: ClassVar[tuple[tuple[str, str, Literal["parse", "instantiate"]], ...]] = ()
    MEAN_OVER_SAMPLES: ClassVar[bool] = True
    HEADS: ClassVar[tuple[str, ...]] = ("fc.", "classifier.")
    DATA: ClassVar[type[L.LightningDataModule]] = L.LightningDataModule
    UNIT: ClassVar[str] = "images"
    NEUTRAL: ClassVar[frozenset[str]] = frozenset()
    MEASURED: ClassVar[frozenset[str]] = frozenset()
    VALIDATED: ClassVar[frozenset[str]] = frozenset()
    COLUMNS: ClassVar[Mapping[str, str]] = {}
    METRIC: ClassVar[str] = ""
    CURVES: ClassVar[Mapping[str, str]] = {}
    PICTURES: ClassVar[Mapping[str, str]] = {}
    DRAWN: ClassVar[Mapping[str, str]] = {}
    ABSENT: ClassVar[str] = ""
    ONE_GRAPH: ClassVar[bool] = True
    NETWORKS: ClassVar[Mapping[str, str]] = {
        name: f"cnsn.nets.{name}"
        for name in (
            *("AllConv", "DenseNet", "IBNResNet50", "NarrowResNet", "ResNeXt", "ResNet50"),
            "WideResNet",
        )
    }
    SETS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    losses: Mapping[str, Tensor] = {}
    metrics: dict[str, Any]

    def __init__(
        self,
        network: nn.Module,
        cnsn: CNSNSpec = CNSNSpec(),
        crossnorm: CrossNormTraining = CrossNormTraining(),
        optimizer: OptimizerSpec = OptimizerSpec(),
        *,
        weights: str | None = None,
        channels_last: bool = False,
        compile: bool = False,
        seed: int = 0,
        norms: NormsSpec = NormsSpec(),
    ) -> None:
        super().__init__()
        late = weights is not None and holds_layers(weights)
        self.complete = self.heads_given = False
        if weights is not None and not late:
            self.heads_given = self.load_pretrained(network, weights)
            # Layers that come after have learnt nothing yet.
            self.complete = self.heads_given and cnsn.kind == "none"
            openable = GATES[cnsn.gate].layer.open is not Gate.open
            if cnsn.selfnorm and cnsn.start == "auto" and openable:
                cnsn = replace(cnsn, start="neutral")
                rank_zero_info(
                    "SelfNorm's gates start open, so that the network begins as the one of the "
                    "given weights; `--model.cnsn.start released` starts them as the paper does."
                )
        if norms.kind != "none":
            network = replace_norms(network, norms.kind, norms.where)
            fresh = NORMS[norms.kind].fresh
            rank_zero_info(f"Batch norms were replaced by {norms.kind}; what starts anew: {fresh}.")
        self.network = insert(network, cnsn)
        _find_channels(self.network, self.example)
        if weights is not None and late:
            self.complete = self.heads_given = self.load_pretrained(self.network, weights)
        self.weights = weights
        self.cnsn = cnsn
        self.crossnorm = crossnorm
        self.optimizer_spec = optimizer
        self.seed = seed
        sites = len(crossnorm_sites(self.network))
        if cnsn.crossnorm and crossnorm.sites == "some" and crossnorm.k > sites:
            raise ValueError(
                f"Expected `crossnorm.k` to be at most {sites}, the number of CrossNorm sites, "
                f"but got {crossnorm.k}."
            )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        use_memory_format(self.network, self.memory_format)
        # Compiled in place, so that names in checkpoints stay as they are.
        if compile:
            self.network.compile()

    @property
    def data(self) -> Any:
        """The data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @staticmethod
    def add_arguments(parser: Any) -> None:
        """Add options of a task's own to its command line."""

    @staticmethod
    def check_config(config: Any) -> None:
        """Refuse options that contradict one another, before anything is built.

        Raises:
            ValueError: they do.
        """

    def check_data(self, data: Any) -> None:
        """Refuse a data module that is none of this task's, or contradicts the module's options.

        Called before data are read.

        Raises:
            ValueError: it does not fit.
        """
        if not isinstance(data, self.DATA):
            wanted, kind = (f"{t.__module__}.{t.__qualname__}" for t in (self.DATA, type(data)))
            raise ValueError(
                f"Expected `data` to be a {wanted}, as this task needs it, but got {kind}: "
                "configs/ has a file for every task and data set."
            )

    def check_class_folders(self, data: Any) -> None:
        """Refuse folders of classes that given weights may number otherwise.

        Called once the data know their classes.

        Raises:
            ValueError: their names are numbers, in another order than as names.
        """
        classes = getattr(data, "classes", ())
        given = self.heads_given and self.trainer.ckpt_path is None
        if not given or not has_two_orders(classes) or getattr(data, "class_order", None):
            return
        remedy = "give the folders' names leading zeros (07) in the order that the weights mean"
        if hasattr(data, "class_order"):
            remedy = (
                "`--data.class_order number` is for ImageNetV2 and sets like it, name for weights "
                "that were trained with torchvision's ImageFolder"
            )
        raise ValueError(
            "Expected one order of the classes, which the given weights know by their numbers, but "
            f"as names the {len(classes)} folders stand in another one "
            f"({', '.join(sorted(classes)[:3])}) than as numbers: {remedy}."
        )

    @staticmethod
    def describe_data(data: Any, network: dict[str, Any]) -> dict[str, Any]:
        """What a result will say of `data`, a data module that no trainer has seen.

        Args:
            data: it.
            network: the options of the network that will be trained on them.
        """
        data.setup("validate")
        return data.describe()

    def load_pretrained(self, network: nn.Module, weights: str) -> bool:
        """Load `weights` into the plain network; a task may know other kinds of weights.

        Returns:
            Whether the heads were loaded too.
        """
        from tasks.engine.weights import load_weights

        return load_weights(network, weights, heads=self.HEADS)

    @staticmethod
    def forwards(data: dict[str, Any], model: dict[str, Any]) -> float:
        """Forwards of a training step for each sample of its batch, on the mean; see the tables.

        Args:
            data: the options of the data module that were given.
            model: those of the task's.
        """
        consistency = (model.get("crossnorm") or {}).get("consistency")
        return 1 + (2 * crossnorm_share(model) if consistency else 0)

    @staticmethod
    def example(size: int) -> tuple[Tensor, ...]:
        """What the network takes of one training sample, of that size; values do not count."""
        return (torch.zeros(1, 3, size, size),)

    def units(self, batch: dict[str, Any]) -> int:
        """How many units a batch holds."""
        return len(batch["label"])

    def forward(self, inputs: Tensor) -> Any:
        """What the network makes of (B, C, H, W) inputs."""
        outputs = self.network(inputs.contiguous(memory_format=self.memory_format))
        # Some networks return them beside others, while training (Inception) or always.
        return getattr(outputs, "logits", outputs)

    @staticmethod
    def output_shape(size: int, classes: int) -> tuple[int, ...]:
        """Of what the network makes of one :meth:`example`."""
        return (1, classes)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout's draws are a function of (seed, step, process): a resumed run repeats them."""
        torch.manual_seed(derive_seed(self.seed, "dropout", batch["number"], self.global_rank))
        self._weight = batch.get("share", 1.0) * self._part_of_step(batch["number"], batch_idx)

    def _part_of_step(self, number: int, batch_idx: int) -> float:
        """A batch's weight in its optimiser step, which Lightning divides by all that a step takes.

        Those before the end of an epoch take fewer batches, and its last batch may be smaller.
        """
        taken = self.trainer.accumulate_grad_batches
        if taken == 1:
            return 1.0
        samples = self.data.train_loader.schedule.samples
        first = batch_idx - batch_idx % taken
        end = min(first + taken, int(self.trainer.num_training_batches))
        all_samples = sum(samples(number - batch_idx + place) for place in range(first, end))
        return taken * samples(number) / all_samples

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Smaller batches, of processes at the end of an epoch and of a step, count less."""
        weighted = self.MEAN_OVER_SAMPLES and self._weight != 1.0
        super().backward(self._weight * loss if weighted else loss, *args, **kwargs)

    def crossnorm_step(self, step: int) -> bool:
        """Whether CrossNorm acts in this step: with probability p, the same on all processes.

        Where each site tosses its own coin, whether there are heads.
        """
        if not self.cnsn.crossnorm:
            return False
        if self.crossnorm.sites == "each":
            generator = generator_for(self.seed, "sites", step, 0)
            return any(coins(len(crossnorm_sites(self.network)), self.crossnorm.p, generator))
        coin = torch.rand((), generator=generator_for(self.seed, "coin", step))
        return bool(coin < self.crossnorm.p)

    @contextmanager
    def crossnorm_view(
        self,
        step: int,
        view: int = 0,
        *,
        partner: Tensor | None = None,
        rows: slice | None = None,
    ) -> Iterator[None]:
        """Within it, k sites are active: all processes choose the same, each draws by itself.

        Args:
            step: the batch's number.
            view: of several views in one step, each with sites and draws of its own.
            partner: see :class:`cnsn.CrossNorm`, also for `rows`.
            rows: samples of the batch that it acts on; None means all.
        """
        sites = generator_for(self.seed, "sites", step, view)
        draws = generator_for(self.seed, "draws", step, view, self.global_rank)
        eager = self.network._compiled_call_impl is not None and not self.ONE_GRAPH
        with (
            torch.compiler.set_stance("force_eager") if eager else nullcontext(),
            crossnorm_active(
                self.network,
                self.crossnorm.k,
                sites,
                draws=draws,
                partner=partner,
                rows=rows,
                p=self.crossnorm.p if self.crossnorm.sites == "each" else None,
            ),
        ):
            yield

    def log_losses(self, **losses: Tensor) -> None:
        """Log each as ``train/<name>``.

        Not with ``prog_bar``, for which Lightning reads the value in every step, and so waits for
        the device; :mod:`tasks.engine.progress` shows the loss whenever it is logged.
        """
        values = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.losses = values
        self.log_dict(values, on_step=True, on_epoch=False)

    # Evaluation: a validation and a test do the same with every batch.

    def start_evaluation(self) -> None:
        """Begin a validation or a test."""

    def evaluate(self, batch: dict[str, Any]) -> None:
        """Add a batch to what is scored."""
        raise NotImplementedError

    def tested(self) -> dict[str, Any]:
        """The finished test's part of the result line, with its ``summary``."""
        raise NotImplementedError

    def show_test(self) -> None:
        """Show a test's :attr:`metrics` to loggers and in files, in the first process."""

    def on_validation_epoch_start(self) -> None:
        self.start_evaluation()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate(batch)

    def on_test_epoch_start(self) -> None:
        self.start_evaluation()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate(batch)

    def on_test_epoch_end(self) -> None:
        self.metrics = self.tested()
        self.log_dict({f"test/{name}": value for name, value in self.metrics["summary"].items()})
        if self.trainer.is_global_zero:
            self.show_test()

    def refuse_not_finite(self, where: Sequence[str]) -> None:
        """End an evaluation in which outputs of the network were NaN or infinite.

        A validation during training warns instead: its figures are then NaN.

        Args:
            where: the conditions or sets of images where they were; none is fine.

        Raises:
            ValueError: there are such, and this is no validation during training.
        """
        if not where:
            return
        found = f"outputs of the network are NaN or infinite on {listed(where, 3)}"
        if self.trainer.state.fn == "fit":
            rank_zero_warn(f"In this validation {found}: its figures are NaN, and no best ones.")
            return
        precise = self.trainer.precision == "32-true"
        remedy = "" if precise else ", or `--trainer.precision 32-true`, which overflows later"
        raise ValueError(
            f"Expected finite outputs, but {found}, so that there is nothing to score: give other "
            f"weights{remedy}."
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The network's trained parameters, by weight decay and learning rate."""
        groups = decay_groups(self.network, self.optimizer_spec)
        factor = self.optimizer_spec.head_lr_factor
        if factor == 1:
            return groups
        named = self.network.named_parameters()
        heads = {id(p) for name, p in named if name.startswith(self.HEADS)}
        parted = []
        for group in groups:
            for is_head in (False, True):
                own = [p for p in group["params"] if (id(p) in heads) == is_head]
                rate = {"lr": factor * self.optimizer_spec.lr} if is_head else {}
                if own:
                    parted.append({**group, **rate, "params": own})
        return parted

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        spec = self.optimizer_spec
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if spec.fused is None and scaled and self.trainer.gradient_clip_val:
            # Lightning cannot clip float16's scaled gradients where a fused step unscales them.
            spec = replace(spec, fused=False)
        optimizer, scheduler = build_optimizer(self.parameter_groups(), spec, total)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def print_report(self, record: dict[str, Any]) -> None:
        """Print a test's summary; tasks with more to show print a table."""
        for name, value in record["summary"].items():
            print(f"{name}: {value:.4g}")


@torch.no_grad()
def _find_channels(network: nn.Module, example: Callable[[int], tuple[Tensor, ...]]) -> None:
    """Let one forward tell inserted layers their channels, where the modules do not."""
    if not any(is_lazy(parameter) for parameter in network.parameters()):
        return
    training = network.training
    network.eval()
    for side in SIDES:
        try:
            network(*example(side))
            break
        except RuntimeError as error:
            failure = error
    else:
        raise ValueError(
            "Expected the network to take an image of 64x64 or 224x224, from which the layers that "
            f"`cnsn.at` names learn their channels, but got: {failure}"
        ) from failure
    network.train(training)
