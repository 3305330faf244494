from __future__ import annotations

from typing import Any

import pytest
import torch

from data import loading
from data.images import ImageTensor
from data.loading import TrainLoader, evaluation_loader


def numbered(n: int) -> ImageTensor:
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2)
    return ImageTensor(images, torch.arange(n))


def indices(batches: list[dict[str, Any]]) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(loading, "process_rank", lambda: (rank, world))


def test_an_epoch_has_every_sample_once_and_epochs_differ() -> None:
    loader = TrainLoader(numbered(37), batch_size=8, seed=1)
    first, second = indices(list(loader)), indices(list(loader))
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(37))
    assert first != second
    assert len(first) == len(loader) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_anywhere_gives_the_rest_of_the_run(workers: int) -> None:
    whole = TrainLoader(numbered(20), batch_size=8, seed=3)
    expected = indices([*whole, *whole])
    for seen in (1, 2, 3, 5):
        resumed = TrainLoader(numbered(20), batch_size=8, seed=3, workers=workers)
        resumed.load_state_dict({"batches_seen": seen})
        batches = []
        for batch in resumed:
            batches.append(batch)
            if len(batches) == len(expected) - seen or len(batches) == len(resumed):
                break
        assert indices(batches) == expected[seen : seen + len(batches)]
        assert [b["number"] for b in batches] == list(range(seen, seen + len(batches)))
        assert resumed.state_dict() == {"batches_seen": seen + len(batches)}


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_out_the_same_global_batches(
    monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    alone = indices(list(TrainLoader(numbered(50), batch_size=16, seed=0)))
    shares = []
    for rank in range(world):
        as_process(monkeypatch, rank, world)
        shares.append(indices(list(TrainLoader(numbered(50), batch_size=16, seed=0))))
    together = [flat(list(parts)) for parts in zip(*shares, strict=True)]
    assert together[:-1] == alone[:-1]
    # The rest of 2 samples cannot be shared out: every process has it whole.
    assert together[-1] == world * alone[-1]


@pytest.mark.parametrize(("n", "world"), [(7, 2), (7, 3), (9, 4), (8, 4), (3, 2)])
def test_weighted_shares_have_the_mean_of_the_whole(n: int, world: int) -> None:
    values = torch.rand(n, generator=torch.Generator().manual_seed(n)).double()
    means = []
    for rank in range(world):
        own, weight = loading.share_of(torch.arange(n), rank, world)
        assert len(own) >= 2
        means.append(weight * values[own].mean())
    assert sum(means) / world == pytest.approx(values.mean().item(), abs=1e-12)


def test_evaluation_counts_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in (1, 2, 3):
        seen = []
        for rank in range(world):
            as_process(monkeypatch, rank, world)
            seen += flat(indices(list(evaluation_loader(numbered(11), batch_size=4))))
        assert sorted(seen) == list(range(11))


def test_bad_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least 2 training samples"):
        TrainLoader(numbered(1), batch_size=8, seed=0)
    as_process(monkeypatch, 0, 3)
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        TrainLoader(numbered(30), batch_size=8, seed=0)
