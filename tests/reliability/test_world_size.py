"""What is trained on is a function of seed and step alone, whatever the number of processes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cnsn import CNSNSpec, CrossNorm
from data import classification, domains, fixmatch, loading, segmentation, text
from data.augmentations.steps import CutMix, Cutout, Mixup
from data.loading import ResumableDataModule
from tasks.engine.base import CNSNModule, CrossNormTraining
from tasks.engine.optim import OptimizerSpec

pytestmark = pytest.mark.promise(
    "global batches, their order and augmentation do not depend on the number of processes"
)


def as_process(patch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    for module in (loading, domains.module, segmentation.module, text.module):
        patch.setattr(module, "process_rank", lambda: (rank, world))


def modules(name: str, data: Path) -> ResumableDataModule:
    """Of a task, with an epoch that ends in a smaller batch where the task has such."""
    if name == "classification":
        return classification.Digits(batch_size=48, jitter=0.3, flip=True, padding=2, seed=3)
    if name in ("mixup", "cutmix"):
        mix = Mixup() if name == "mixup" else CutMix(p=0.7)
        return classification.Digits(batch_size=48, augment=[Cutout(), mix], seed=3)
    if name == "resident":
        return classification.Digits(batch_size=48, augment=[Mixup()], resident=True, seed=3)
    if name == "fixmatch":
        return fixmatch.Digits(batch_size=8, unlabelled_ratio=2, steps_per_epoch=4, seed=3)
    if name == "segmentation":
        return segmentation.SourceAndTarget(
            root=str(data / "scenes"),
            source_root="source",
            target_root="target",
            crop_size=16,
            batch_size=8,
            workers=0,
            seed=3,
        )
    if name == "text":
        root = data / "text"
        return text.IMDbToSST2(
            imdb=str(root), sst2=str(root / "SST-2"), batch_size=16, min_count=1, seed=3
        )
    root = data / "domains"
    return domains.DomainPair(
        str(root), source="plain", target="dim", batch_size=8, resize=24, crop=16, seed=3
    )


def batches(name: str, data: Path, epochs: int = 2) -> list[dict[str, Any]]:
    """What a process trains on: batches after their augmentation."""
    module = modules(name, data)
    module.prepare_data()
    module.setup("fit")
    loader = module.train_dataloader()
    return [module.on_after_batch_transfer(batch, 0) for _ in range(epochs) for batch in loader]


def samples(batch: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Each sample by name and content, in order."""
    for name in sorted(batch):
        value = batch[name]
        if isinstance(value, Tensor) and value.ndim and name != "tokens":
            for row in value:
                yield name, row.numpy().tobytes()
    if "tokens" in batch:
        # Padded to the longest of the process's own.
        for row, length in zip(batch["tokens"], batch["length"], strict=True):
            yield "tokens", row[:length].numpy().tobytes()


NAMES = ("classification", "mixup", "cutmix", "resident")


@pytest.mark.parametrize("name", [*NAMES, "fixmatch", "segmentation", "text", "domains"])
def test_sample_by_sample_for_1_2_and_4_processes(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    tmp_path: Path,
    name: str,
    record_property: Any,
) -> None:
    monkeypatch.setenv("CNSN_CACHE", str(tmp_path))
    whole = batches(name, data)
    for world in (2, 4):
        shares = []
        for rank in range(world):
            as_process(monkeypatch, rank, world)
            shares.append(batches(name, data))
        assert {len(share) for share in shares} == {len(whole)}
        for alone, *parts in zip(whole, *shares, strict=True):
            assert {part["number"] for part in parts} == {alone["number"]}
            assert {part["epoch"] for part in parts} == {alone["epoch"]}
            expected = list(samples(alone))
            together = [sample for part in parts for sample in samples(part)]
            if len(together) == world * len(expected):  # Too small to be shared out.
                assert all(list(samples(part)) == expected for part in parts)
                continue
            assert by_name(together) == by_name(expected)
            # Weighted so, the mean over processes is that of the whole.
            sizes = [len(part["label"]) for part in parts]
            weights = [part.get("share", 1.0) for part in parts]
            assert weights == pytest.approx([world * n / sum(sizes) for n in sizes])
    record_property("cases", 3 * len(whole))


def by_name(found: list[tuple[str, bytes]]) -> dict[str, list[bytes]]:
    """Samples of each name, in order of processes and places."""
    return {name: [c for n, c in found if n == name] for name, _ in found}


class Coins(CNSNModule):
    """Of rank `rank`."""

    def __init__(self, rank: int) -> None:
        networks = importlib.import_module("cnsn.nets")
        spec = CNSNSpec(kind="cnsn", crop="both")
        training = CrossNormTraining(p=0.5, k=2)
        super().__init__(networks.wide_resnet(depth=10, width=1), spec, training, OptimizerSpec())
        self.rank = rank

    @property
    def global_rank(self) -> int:  # type: ignore[override]
        return self.rank


def test_coin_and_sites_agree_and_draws_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one, other = Coins(0), Coins(1)
    other.load_state_dict(one.state_dict())
    coins = [one.crossnorm_step(step) for step in range(40)]
    assert coins == [other.crossnorm_step(step) for step in range(40)]
    assert 8 < sum(coins) < 32
    images = torch.rand(6, 3, 16, 16)
    drawn: list[Any] = []
    draw = CrossNorm.draw
    monkeypatch.setattr(CrossNorm, "draw", lambda *a: (drawn.append(draw(*a)), drawn[-1])[1])
    active, outputs = [], []
    for module in (one, other):
        chosen = []
        with torch.no_grad():
            for step in range(6):
                with module.crossnorm_view(step):
                    layers = dict(module.network.named_modules())
                    chosen.append([n for n, m in layers.items() if getattr(m, "active", False)])
                    outputs.append(module(images))
        active.append(chosen)
    assert active[0] == active[1] and all(len(chosen) == 2 for chosen in active[0])
    assert len({tuple(chosen) for chosen in active[0]}) > 1
    # The same images, weights and sites: only permutations and boxes can differ, and each does.
    assert all(not torch.equal(a, b) for a, b in zip(outputs[:6], outputs[6:], strict=True))
    assert len(drawn) == 2 * 2 * 6  # ranks, sites, steps
    orders, contents, styles = ([*map(str, part)] for part in zip(*drawn, strict=True))
    for part in (orders, contents, styles):
        same = [a == b for a, b in zip(part[:12], part[12:], strict=True)]
        assert sum(same) <= 1, "boxes of small maps may agree by chance"


def test_synchronised_batch_norm_takes_selfnorm_in() -> None:
    """GPUs alone can run it; that every layer is converted, and is the same, is seen anywhere."""
    module = Coins(0)
    before = {n: m for n, m in module.network.named_modules() if isinstance(m, BATCH_NORMS)}
    gates = [name for name in before if name.endswith("g_bn")]
    assert gates
    state = {key: value.clone() for key, value in module.network.state_dict().items()}
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module.network)
    after = dict(converted.named_modules())
    assert all(isinstance(after[name], torch.nn.SyncBatchNorm) for name in before)
    assert all(after[name].momentum == before[name].momentum for name in before)
    assert list(converted.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in converted.state_dict().items())
    # In evaluation a synchronised layer is an ordinary one.
    images = torch.rand(4, 3, 16, 16)
    plain = Coins(0).eval()
    plain.network.load_state_dict(state)
    torch.testing.assert_close(converted.eval()(images), plain.network(images), rtol=0, atol=0)


BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
