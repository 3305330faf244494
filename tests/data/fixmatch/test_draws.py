from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from data import loading
from data.fixmatch.draws import Draws, PairedSchedule, draw_hash, draw_labelled, labels_by_class
from data.images import ImageTensor
from data.loading import NumberedLoader


def numbered(n: int) -> ImageTensor:
    images = torch.zeros(n, 3, 2, 2, dtype=torch.uint8)
    return ImageTensor(images, torch.arange(n))


def cyclic_labels(n: int, classes: int = 10) -> Tensor:
    return torch.arange(n) % classes


def test_the_draw_is_balanced_and_a_function_of_its_seed() -> None:
    label = torch.randint(10, (3000,))
    drawn = draw_labelled(label, 250, num_classes=10, seed=1)
    assert torch.bincount(label[drawn]).tolist() == [25] * 10
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    torch.manual_seed(99)
    assert torch.equal(drawn, draw_labelled(label, 250, num_classes=10, seed=1))
    assert not torch.equal(drawn, draw_labelled(label, 250, num_classes=10, seed=2))


def test_the_draw_is_the_same_on_every_machine() -> None:
    # Golden: a change of it would silently give published recipes other labels.
    drawn = draw_labelled(cyclic_labels(1000), 20, num_classes=10, seed=1)
    assert drawn.tolist()[:6] == [25, 144, 199, 250, 262, 313]
    assert draw_hash(drawn) == "d7ac14d9d2edc6fb"


def test_a_draw_of_all_images_has_them_all() -> None:
    drawn = draw_labelled(cyclic_labels(30), 30, num_classes=10, seed=0)
    assert drawn.tolist() == list(range(30))


def test_labels_that_classes_do_not_divide_differ_by_one() -> None:
    counts = labels_by_class(47, 10, seed=1)
    assert sum(counts) == 47 and sorted(counts) == [4] * 3 + [5] * 7
    label = cyclic_labels(200)
    drawn = draw_labelled(label, 47, num_classes=10, seed=1)
    assert torch.bincount(label[drawn]).tolist() == counts
    # The classes with one more are not always the first.
    assert len({tuple(labels_by_class(12, 10, seed=seed)) for seed in range(20)}) > 5


@pytest.mark.parametrize(
    ("label", "n", "message"),
    [
        (cyclic_labels(100), 9, "at least 10, one for each class, but got 9"),
        (cyclic_labels(100), 101, "at most 100, the number of training images, but got 101"),
        (cyclic_labels(100, 9), 20, r"at least 2 training images of class 9.*got 0"),
        (torch.tensor([0] * 50 + [1]), 4, "class 1"),
    ],
)
def test_labels_that_the_data_cannot_give(label: Tensor, n: int, message: str) -> None:
    classes = 2 if len(label) == 51 else 10
    with pytest.raises(ValueError, match=message):
        draw_labelled(label, n, num_classes=classes, seed=1)


def positions(draws: Draws, batches: range) -> list[list[int]]:
    return [draws[number]["index"].tolist() for number in batches]


def test_batches_of_one_size_with_no_image_twice() -> None:
    draws = Draws(numbered(50), torch.arange(5, 50), batch_size=20, seed=3)
    batches = positions(draws, range(6))
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        # 45 images give two whole batches a pass.
        assert len({*first, *second}) == 40 and set(first + second) <= set(range(5, 50))
    assert len({tuple(batch) for batch in batches}) == 6
    assert positions(draws, range(3, 4)) == [batches[3]]


def test_a_set_smaller_than_a_batch_is_used_evenly() -> None:
    draws = Draws(numbered(40), torch.arange(0, 40, 4), batch_size=64, seed=0)
    uses = torch.bincount(torch.tensor(positions(draws, range(5))).flatten(), minlength=40)
    assert uses.sum() == 5 * 64
    assert (uses[::4] == 32).all() and uses[1::4].sum() == 0
    counted = torch.cat([draws[number]["draw"] for number in range(5)])
    assert torch.equal(counted, torch.arange(5 * 64))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_out_the_same_draws(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    def shares(number: int, key: str) -> list[list[int]]:
        found = []
        for rank in range(world):
            monkeypatch.setattr(loading, "process_rank", lambda rank=rank: (rank, world))
            draws = Draws(numbered(30), torch.arange(30), batch_size=16, seed=5)
            found.append(draws[number][key].tolist())
        return found

    alone = Draws(numbered(30), torch.arange(30), batch_size=16, seed=5)
    for number in (0, 1, 7):
        for key in ("index", "draw"):
            parts = shares(number, key)
            whole = [value for part in parts for value in part]
            assert whole == alone[number][key].tolist()
            assert len(set(whole)) == 16 and {len(part) for part in parts} == {16 // world}


def test_a_batch_that_processes_cannot_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "process_rank", lambda: (0, 3))
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        Draws(numbered(30), torch.arange(30), batch_size=16, seed=5)


def paired() -> PairedSchedule:
    labelled = Draws(numbered(30), torch.arange(4), batch_size=6, seed=1)
    unlabelled = Draws(numbered(30), torch.arange(30), batch_size=12, seed=2)
    return PairedSchedule(labelled, unlabelled, steps_per_epoch=4)


def summary(batch: dict[str, Any]) -> list[Any]:
    parts = [batch[key]["index"].tolist() for key in ("labelled", "unlabelled")]
    return [batch["number"], batch["epoch"], *parts]


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_resume_anywhere(workers: int) -> None:
    whole = NumberedLoader(paired())
    expected = [summary(batch) for batch in [*whole, *whole, *whole]]
    assert [batch[:2] for batch in expected] == [[n, n // 4] for n in range(12)]
    for seen in (1, 4, 6):
        resumed = NumberedLoader(paired(), workers=workers)
        resumed.load_state_dict({"batches_seen": seen})
        assert [summary(batch) for batch in resumed] == expected[seen : seen + 4]
        assert resumed.state_dict() == {"batches_seen": seen + 4}
