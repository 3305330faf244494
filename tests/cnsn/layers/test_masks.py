"""Sequences of different lengths: positions that a mask leaves out are worth nothing."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnsn.functional import instance_stats
from cnsn.layers import CNSN, Crop, CrossNorm, Mode, SelfNorm

CROPS: tuple[Crop, ...] = get_args(Crop)
LENGTHS = (9, 4, 2, 1, 7)


def sequences(positions: int = 9, *, beyond: float = 1e4) -> tuple[Tensor, Tensor]:
    """float64 (5, 3, positions) with lengths of 9, 4, 2, 1 and 7, and the mask."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(positions) < torch.tensor(LENGTHS)[:, None]
    x = torch.empty(5, 3, positions, dtype=torch.float64)
    x[:, :, :9] = torch.randn(5, 3, 9, generator=generator, dtype=torch.float64) * 3 + 1
    return x.masked_fill(~mask[:, None], beyond), mask


def crossnorm(crop: Crop = "neither", mode: Mode = "2-instance", seed: int = 3) -> CrossNorm:
    layer = CrossNorm(crop=crop, mode=mode)
    layer.active, layer.generator = True, torch.Generator().manual_seed(seed)
    return layer


def test_statistics_are_those_of_each_sequence_alone() -> None:
    x, mask = sequences(beyond=torch.nan)
    x.requires_grad_(True)
    mean, std = instance_stats(x, 1e-5, mask)
    (mean.square() + std).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert x.grad[~mask[:, None].expand_as(x)].eq(0).all()
    for row, length in enumerate(LENGTHS):
        alone = x[row, :, :length]
        torch.testing.assert_close(mean[row, :, 0], alone.mean(1))
        variance = alone.var(1) if length > 1 else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(std[row, :, 0], (variance + 1e-5).sqrt())


def test_statistics_of_maps_with_a_mask() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mask = torch.rand(2, 4, 5) < 0.6
    mean, std = instance_stats(x, 0.0, mask)
    for row in range(2):
        alone = x[row][:, mask[row]]
        torch.testing.assert_close(mean[row].flatten(), alone.mean(1))
        torch.testing.assert_close(std[row].flatten(), alone.std(1))


def test_an_empty_sequence_has_finite_statistics() -> None:
    mean, std = instance_stats(torch.randn(1, 2, 3), 1e-5, torch.zeros(1, 3, dtype=torch.bool))
    assert mean.eq(0).all() and torch.allclose(std, torch.tensor(1e-5).sqrt())


@pytest.mark.parametrize("mask", [torch.ones(2, 4), torch.ones(2, 5, dtype=torch.bool)])
def test_a_mask_of_another_shape_or_dtype_is_refused(mask: Tensor) -> None:
    with pytest.raises(ValueError, match="`mask` to be bool of shape"):
        instance_stats(torch.randn(2, 3, 4), 1e-5, mask)


def layers() -> list[tuple[str, torch.nn.Module]]:
    made: list[tuple[str, torch.nn.Module]] = [
        (f"cn {crop} {mode}", crossnorm(crop, mode)) for crop in CROPS for mode in get_args(Mode)
    ]
    for two_sided in (False, True):
        torch.manual_seed(5)
        made.append((f"sn {two_sided}", SelfNorm(3, two_sided=two_sided).double()))
    made.append(("cnsn", CNSN(crossnorm=crossnorm("both"), selfnorm=SelfNorm(3).double())))
    return made


@pytest.mark.parametrize("number", range(len(layers())), ids=[name for name, _ in layers()])
def test_a_mask_of_all_positions_is_no_mask(number: int) -> None:
    x = torch.randn(6, 3, 11, dtype=torch.float64)
    everything = torch.ones(6, 11, dtype=torch.bool)
    torch.testing.assert_close(layers()[number][1](x, everything), layers()[number][1](x))


@pytest.mark.parametrize("number", range(len(layers())), ids=[name for name, _ in layers()])
def test_padding_changes_neither_result_nor_gradient(number: int) -> None:
    x, mask = sequences()
    longer, longer_mask = sequences(positions=14, beyond=0.0)
    results = []
    for tensor, own in ((x, mask), (longer, longer_mask)):
        layer = layers()[number][1]
        tensor.requires_grad_(True)
        y = layer(tensor, own)
        weights = torch.arange(1.0, 10.0)[:, None, None].expand(9, 5, 3).permute(1, 2, 0)
        inside = torch.where(own[:, None, :9], y[:, :, :9], 0.0)
        (weights * inside.square()).sum().backward()
        assert tensor.grad is not None
        beyond = ~own[:, None].expand_as(y)
        assert tensor.grad[beyond].eq(0).all()
        assert tensor is x or y[beyond].eq(0).all(), "zeros stay zeros"
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        results.append((inside, torch.where(own[:, None, :9], tensor.grad[:, :, :9], 0), gradients))
    torch.testing.assert_close(results[0], results[1])
    assert results[0][0].isfinite().all() and results[0][1].isfinite().all()


def test_a_restyled_sequence_has_its_partners_statistics() -> None:
    x, mask = sequences()
    layer = crossnorm()
    layer.partner = torch.tensor([1, 0, 4, 2, 3])
    mean, std = instance_stats(layer(x, mask), 0.0, mask)
    want_mean, want_std = instance_stats(x, 0.0, mask)
    for row, partner in ((0, 1), (1, 0), (2, 4)):
        torch.testing.assert_close(mean[row], want_mean[partner], rtol=2e-3, atol=1e-4)
        torch.testing.assert_close(std[row], want_std[partner], rtol=2e-3, atol=1e-4)
    # A sequence of one position (row 3) has no style: it gets none, and gives none to row 4.
    torch.testing.assert_close(mean[3:], want_mean[3:])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    padding=st.integers(0, 5),
)
def test_boxes_hold_valid_positions_only(lengths: list[int], seed: int, padding: int) -> None:
    mask = torch.arange(max(lengths) + padding) < torch.tensor(lengths)[:, None]
    layer = crossnorm("style", seed=seed)
    box = layer._boxed(mask)
    assert not (box & ~mask).any()
    for row, length in zip(box, lengths, strict=True):
        inside = row.nonzero().flatten()
        assert len(inside) >= min(length, 2)
        if len(inside):  # one piece
            assert inside[-1] - inside[0] == len(inside) - 1


def test_boxes_take_the_same_share_of_every_sequence() -> None:
    mask = torch.arange(120) < torch.tensor([100, 50, 10])[:, None]
    for seed in range(20):
        share = crossnorm("style", seed=seed)._boxed(mask).sum(1) / torch.tensor([100, 50, 10])
        assert (share - share[0]).abs().max() <= 0.2
        assert share[0] >= 0.1


def test_the_mask_may_leave_out_any_positions() -> None:
    """Words that are left out in the middle are as good as absent."""
    x = torch.randn(4, 3, 8, dtype=torch.float64)
    mask = torch.ones(4, 8, dtype=torch.bool)
    mask[:, [2, 5]] = False
    kept = [0, 1, 3, 4, 6, 7]
    for crop in CROPS:
        torch.testing.assert_close(
            crossnorm(crop)(x, mask)[:, :, kept], crossnorm(crop)(x[:, :, kept])
        )


def test_rows_and_mask_go_together() -> None:
    x, mask = sequences()
    layer, whole = crossnorm(), crossnorm()
    layer.rows = slice(0, 3)
    torch.testing.assert_close(layer(x, mask)[:3], whole(x[:3], mask[:3]))
    torch.testing.assert_close(layer(x, mask)[3:], x[3:])


def test_masks_are_for_sequences() -> None:
    with pytest.raises(ValueError, match=r"sequences \(B, C, L\)"):
        crossnorm()(torch.randn(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool))
