from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from cnsn import CNSN, CrossNorm, SelfNorm
from cnsn.functional import sample_box, sample_span
from tests.cnsn.test_functional import numpy_cross_norm, numpy_stats


def active(seed: int = 0, **options: object) -> CrossNorm:
    layer = CrossNorm(**options)  # type: ignore[arg-type]
    layer.active = True
    layer.generator = torch.Generator().manual_seed(seed)
    return layer


@pytest.mark.parametrize("crop", ["neither", "style", "content", "both"])
@pytest.mark.parametrize("shape", [(5, 3, 8, 6), (4, 2, 12)])
def test_crossnorm_equals_numpy_with_the_same_draws(crop: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64) * torch.rand(shape[0], 1, *[1] * (len(shape) - 2))
    for seed in range(4):
        out = active(seed, crop=crop)(x)
        replay = torch.Generator().manual_seed(seed)
        order = torch.randperm(shape[0], generator=replay).numpy()

        def box(replay: torch.Generator = replay) -> tuple:
            if len(shape) == 3:
                first, last = sample_span(torch.tensor(shape[2]), generator=replay)
                return slice(None), slice(None), slice(first, last)
            top, left, height, width = sample_box(*shape[2:], generator=replay)
            return ..., slice(top, top + height), slice(left, left + width)

        content, everything = x.numpy(), (slice(None),) * len(shape)
        style = content[box() if crop in ("style", "both") else everything][order]
        place = box() if crop in ("content", "both") else everything
        expected = content.copy()
        expected[place] = numpy_cross_norm(content[place], style)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-9)
        assert not np.array_equal(out.numpy(), content)


def test_one_instance_mode_takes_styles_from_the_sample_s_own_channels() -> None:
    x = torch.randn(3, 6, 5, 5, dtype=torch.float64)
    out = active(7, mode="1-instance")(x)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(7)).numpy()
    np.testing.assert_allclose(out.numpy(), numpy_cross_norm(x.numpy(), x.numpy()[:, order]))


def test_partner_chooses_whose_style() -> None:
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    layer = active()
    layer.partner = torch.tensor([2, 2, 0, 1])
    expected = numpy_cross_norm(x.numpy(), x.numpy()[[2, 2, 0, 1]])
    np.testing.assert_allclose(layer(x).numpy(), expected)
    layer.partner = torch.tensor([0])
    with pytest.raises(ValueError, match="one index for each of 4"):
        layer(x)


@pytest.mark.parametrize("crop", ["neither", "both"])
def test_crossnorm_is_the_identity_in_eval_and_when_inactive(crop: str) -> None:
    x = torch.randn(4, 3, 6, 6)
    layer = active(crop=crop)
    assert layer.eval()(x) is x
    layer.train().active = False
    assert layer(x) is x


@pytest.mark.parametrize("crop", ["neither", "style", "content", "both"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tiny_maps_stay_finite(crop: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, *size).to(dtype).requires_grad_()
    out = active(crop=crop)(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
    if size == (1, 1):
        assert torch.equal(out, x)


def test_input_is_not_modified_and_memory_format_is_kept() -> None:
    x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    for crop in ("neither", "both"):
        plain = active(3, crop=crop)(x.contiguous())
        out = active(3, crop=crop)(x)
        torch.testing.assert_close(out, plain)
        assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


def numpy_selfnorm(layer: SelfNorm, x: np.ndarray, training: bool) -> np.ndarray:
    """Gate by gate in float64, with the layer's parameters and running statistics."""
    mean, std = numpy_stats(x, 1e-12)

    def gate(fc: nn.Conv1d, bn: nn.BatchNorm1d) -> np.ndarray:
        weight = fc.weight.detach().double().numpy()[:, 0]
        score = mean * weight[:, 0] + std * weight[:, 1]
        if training:
            centre, spread = score.mean(0), score.var(0)
        else:
            centre, spread = bn.running_mean.double().numpy(), bn.running_var.double().numpy()
        score = (score - centre) / np.sqrt(spread + bn.eps)
        score = score * bn.weight.detach().double().numpy() + bn.bias.detach().double().numpy()
        return 1 / (1 + np.exp(-score))

    extra = (slice(None), slice(None), *[None] * (x.ndim - 2))
    g = gate(layer.g_fc, layer.g_bn)[extra]
    if layer.f_fc is None:
        return g * x
    f = gate(layer.f_fc, layer.f_bn)[extra]
    return g * (x - mean[extra]) + f * mean[extra]


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(5, 4, 6, 7), (3, 4, 9), (2, 4, 1, 1)])
def test_selfnorm_equals_numpy(two_sided: bool, training: bool, shape: tuple[int, ...]) -> None:
    layer = SelfNorm(4, two_sided=two_sided).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for _ in range(3):
        layer(torch.randn(shape, dtype=torch.float64))
    layer.train(training)
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    expected = numpy_selfnorm(layer, x.numpy(), training)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-9)


def test_selfnorm_equals_its_convolution_and_updates_running_statistics() -> None:
    layer, reference = SelfNorm(6), SelfNorm(6)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(8, 6, 5, 5)
    mean = x.mean((2, 3))
    std = (x.var((2, 3)) + 1e-12).sqrt()
    score = reference.g_bn(reference.g_fc(torch.stack([mean, std], -1)))
    torch.testing.assert_close(layer(x), x * torch.sigmoid(score)[..., None])
    torch.testing.assert_close(layer.g_bn.running_var, reference.g_bn.running_var)
    assert layer.g_bn.num_batches_tracked == 1


@pytest.mark.parametrize("two_sided", [False, True])
def test_selfnorm_gradients(two_sided: bool) -> None:
    layer = SelfNorm(3, two_sided=two_sided).double()
    x = torch.randn(3, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("crop", ["neither", "style", "content", "both"])
def test_crossnorm_gradients(crop: str) -> None:
    x = torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: active(2, crop=crop)(value), (x,))


@pytest.mark.parametrize("two_sided", [False, True])
def test_selfnorm_keeps_the_memory_format(two_sided: bool) -> None:
    layer = SelfNorm(8, two_sided=two_sided).eval()
    x = torch.randn(4, 8, 6, 6)
    out = layer(x.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("two_sided", [False, True])
def test_selfnorm_in_half_precision(dtype: torch.dtype, two_sided: bool) -> None:
    layer = SelfNorm(4, two_sided=two_sided)
    x = torch.randn(6, 4, 8, 8) * 20 + 50
    x[:, 0] = 3.0
    x = x.to(dtype).requires_grad_()
    out = layer(x)
    assert out.dtype == dtype
    expected = numpy_selfnorm(layer, x.detach().double().numpy(), True)
    error = np.abs(out.detach().double().numpy() - expected).max() / np.abs(expected).max()
    assert error < torch.finfo(dtype).eps
    out.float().square().mean().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Its statistics and gates are not rounded to the autocast's dtype.
        under_autocast = layer(x.detach().float())
    np.testing.assert_allclose(under_autocast.detach().numpy(), expected, rtol=1e-3, atol=1e-3)
    assert layer.to(dtype)(x).dtype == dtype


def test_large_mean_small_spread() -> None:
    # Running statistics: a batch of nearly equal means would magnify the last bit of each.
    layer = SelfNorm(4).eval()
    layer.g_bn.running_mean = 1e4 * layer.g_fc.weight[:, 0, 0].detach()
    x = torch.randn(6, 4, 16, 16, dtype=torch.float64) + 1e4
    expected = numpy_selfnorm(layer, x.float().double().numpy(), False)
    np.testing.assert_allclose(layer(x.float()).detach().numpy(), expected, rtol=1e-3)


def test_batch_of_one() -> None:
    layer = SelfNorm(3)
    x = torch.randn(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"at least 2 samples.*larger batch"):
        layer(x)
    assert layer.eval()(x).isfinite().all()
    # The only partner is the sample itself.
    torch.testing.assert_close(active()(x), x)


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (2, 4, 3), (2, 4, 3, 5, 5)])
def test_wrong_shapes_of_selfnorm(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, \.\.\.\)"):
        SelfNorm(3)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "all"}, "'all'"),
        ({"beta": 0}, "`beta`"),
        ({"min_area": 1}, "`min_area`"),
        ({"mode": "3-instance"}, "`mode`"),
    ],
)
def test_bad_options_of_crossnorm(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossNorm(**options)  # type: ignore[arg-type]


def test_cnsn_is_crossnorm_then_selfnorm_and_survives_copies() -> None:
    layer = CNSN(crossnorm=active(5), selfnorm=SelfNorm(3))
    x = torch.randn(6, 3, 4, 4)
    expected = copy.deepcopy(layer.selfnorm)(active(5)(x))  # type: ignore[misc]
    torch.testing.assert_close(layer(x), expected)
    assert layer.crossnorm is not None
    layer.crossnorm.generator = None
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied.eval()(x), layer.eval()(x))
    fresh = CNSN(crossnorm=CrossNorm(), selfnorm=SelfNorm(3)).eval()
    assert not torch.equal(fresh(x), layer(x))
    fresh.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(fresh(x), layer(x))
