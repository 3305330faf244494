from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from data.fixmatch import module as fixmatch
from data.fixmatch.module import Digits


def first_batches(data: Digits, count: int = 3) -> list[dict[str, Any]]:
    data.setup("fit")
    batches = iter(data.train_dataloader())
    return [next(batches) for _ in range(count)]


def originals(data: Digits, index: Tensor) -> Tensor:
    assert data._train is not None
    return data._train.images[index].float() / 127.5 - 1


def test_views_are_of_the_drawn_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(images: Tensor, index: Tensor, *, seed: int, flip: bool) -> Tensor:
        return images

    monkeypatch.setattr(fixmatch, "fixmatch_weak", unchanged)
    monkeypatch.setattr(fixmatch, "fixmatch_strong", lambda *args, **kw: 255 - args[0])
    data = Digits(batch_size=8, unlabelled_ratio=3)
    for batch in first_batches(data):
        index, others = batch["labelled"]["index"], batch["unlabelled"]["index"]
        views = data.on_after_batch_transfer(batch, 0)
        assert data.labelled is not None and data._train is not None
        assert torch.isin(index, data.labelled).all() and len(others) == 24
        torch.testing.assert_close(views["image"], originals(data, index))
        torch.testing.assert_close(views["weak"], originals(data, others))
        torch.testing.assert_close(views["strong"], -originals(data, others))
        assert torch.equal(views["label"], data._train.labels[index])
        assert torch.equal(views["hidden"], data._train.labels[others])


def test_every_draw_of_an_image_is_augmented_anew() -> None:
    data = Digits(labels=10, batch_size=400, unlabelled_ratio=1)
    (batch,) = first_batches(data, 1)
    views = data.on_after_batch_transfer(batch, 0)
    own = views["image"][batch["labelled"]["index"] == data.labelled[0]]  # type: ignore[index]
    # 40 draws of 25 possible shifts.
    assert len(own) == 40 and len(own.flatten(1).unique(dim=0)) > 12
    assert not torch.equal(views["weak"], views["strong"])


def test_the_labels_are_the_same_for_every_seed_of_a_run() -> None:
    one, two = Digits(seed=0), Digits(seed=1)
    (first,), (second,) = first_batches(one, 1), first_batches(two, 1)
    assert one.labelled_draw() == two.labelled_draw()
    assert first["unlabelled"]["index"].tolist() != second["unlabelled"]["index"].tolist()
    other = Digits(label_seed=2)
    other.setup("fit")
    assert other.labelled_draw()["hash"] != one.labelled_draw()["hash"]


def test_the_rest_has_no_labelled_image() -> None:
    data = Digits(labels=600, unlabelled="rest", batch_size=20, unlabelled_ratio=10)
    batches = first_batches(data, 6)
    drawn = torch.cat([batch["unlabelled"]["index"] for batch in batches])
    assert data.labelled is not None
    assert not torch.isin(drawn, data.labelled).any()
    # Two passes over the 600 others.
    assert len(drawn.unique()) == 600 and data.describe()["n_unlabelled"] == 600


def test_evaluation_is_that_of_classification() -> None:
    data = Digits(corruptions=[])
    data.setup("test")
    (batch, _) = data.test_dataloader()
    image = data.on_after_batch_transfer(dict(batch), 0)["image"]
    torch.testing.assert_close(image, batch["image"].float() / 127.5 - 1)
