"""A step that is cut into several batches is the step of all their samples in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.waiting_cases import Case, cases
from cnsn.nets import wide_resnet
from data import classification
from data.text.tokens import PAD
from tasks.classification.module import Classification
from tasks.engine.optim import OptimizerSpec
from tests.reliability.test_world_size import as_process

# Task: batches of a step, and images of a batch where the case's own number would not do.
STEPS = {
    "classification": (3, None),  # 256 images, the last batch of an epoch 176
    "fixmatch, none, 3 unlabelled images a labelled one": (3, None),
    "segmentation, none": (2, 4),  # of a step
    "adaptation, mixed, style of the target, adversary 0": (4, None),
    "text, crop neither": (4, 12),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    def digits() -> tuple[Any, Any]:
        network = wide_resnet(depth=10, width=1)
        return Classification(network), classification.Digits(batch_size=256)

    return {**cases(tmp_path_factory.mktemp("accumulation")), "classification": digits}


class Gradients(L.Callback):
    """Keeps every step's gradient, and that of the loss of all the step's samples in one batch.

    What would tell the two apart by right is off, as in an evaluation.
    """

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.counts: list[int] = []
        self.found: list[Tensor] = []
        self.whole: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        module.network.eval()
        if batch["label"].ndim == 3:  # of segmentation: batches with few labelled pixels
            batch["label"][:, : 10 * batch_idx] = 255
        self.batches.append(dict(batch))

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.global_step == len(self.found):
            return
        parameters = [p for p in module.network.parameters() if p.grad is not None]
        self.found.append(torch.cat([p.grad.flatten() for p in parameters]))
        loss = module.training_step(joined(self.batches), 0)
        whole = torch.autograd.grad(loss, parameters)
        self.whole.append(torch.cat([gradient.flatten() for gradient in whole]))
        self.counts.append(len(self.batches))
        self.batches = []


def joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """One batch of the samples of several."""
    found = dict(batches[0])
    for name, value in found.items():
        if name == "tokens":  # padded to the longest of each batch
            rows = [row for batch in batches for row in batch[name]]
            found[name] = pad_sequence(rows, batch_first=True, padding_value=PAD)
        elif isinstance(value, Tensor):
            found[name] = torch.cat([batch[name] for batch in batches])
    return found


def trained(case: Case, accumulated: int, batch_size: int | None, root: Path) -> Gradients:
    torch.manual_seed(0)
    module, data = case()
    if batch_size is not None:
        data.batch_size = batch_size  # type: ignore[attr-defined]
    # Weights that stay, so that the gradients of all steps can be compared.
    module.optimizer_spec = OptimizerSpec(
        lr=1e-30, final_lr=0.0, weight_decay=0.0, schedule="constant"
    )
    quiet = dict.fromkeys(("log", "log_dict", "log_losses"), lambda *_, **__: None)
    vars(module).update(quiet)
    gradients = Gradients()
    L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=7,
        limit_val_batches=0,
        accumulate_grad_batches=accumulated,
        callbacks=[gradients],
        default_root_dir=str(root),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(module, data)
    return gradients


def difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path))
    yield


@pytest.mark.parametrize("name", STEPS)
def test_gradient_of_all_samples_in_one_batch(
    made: dict[str, Case], name: str, tmp_path: Path
) -> None:
    gradients = trained(made[name], *STEPS[name], tmp_path)
    assert 0 < gradients.counts[-1] < STEPS[name][0] == gradients.counts[0]
    for found, whole in zip(gradients.found, gradients.whole, strict=True):
        assert difference(found, whole) < 1e-5


@pytest.mark.parametrize(
    "name", [name for name in STEPS if name.partition(",")[0] not in ("segmentation", "fixmatch")]
)
def test_mean_gradient_of_two_processes(
    made: dict[str, Case], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = trained(made[name], *STEPS[name], tmp_path)
    shares = []
    for rank in (0, 1):
        with monkeypatch.context() as patch:
            as_process(patch, rank, 2)
            shares.append(trained(made[name], *STEPS[name], tmp_path).found)
    for one, other, whole in zip(*shares, alone.found, strict=True):
        assert difference((one + other) / 2, whole) < 1e-5
