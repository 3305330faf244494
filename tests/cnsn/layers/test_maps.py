"""Maps of every shape: videos, channels-last maps, and tokens with class tokens left out."""

from __future__ import annotations

import copy
import pickle
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnsn import CNSN, CrossNorm, SelfNorm, kernels
from cnsn.functional import sample_box
from cnsn.layers import Crop, Mode
from tests.cnsn.layers.test_layers import active, numpy_selfnorm
from tests.cnsn.test_functional import numpy_cross_norm

CROPS: tuple[Crop, ...] = get_args(Crop)
# Channels-last shape and prefix tokens.
LAST = [((4, 11, 3), 0), ((4, 12, 3), 1), ((4, 15, 3), 4), ((4, 5, 6, 3), 0), ((4, 2, 3, 4, 3), 0)]


def selfnorm(**options: Any) -> SelfNorm:
    torch.manual_seed(5)
    layer = SelfNorm(3, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def layer_pairs(**options: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Layers with `options`, and the same for (B, C, ...)."""
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (active(3, crop=crop, mode=mode, **options), active(3, crop=crop, mode=mode))
        for crop in CROPS
        for mode in get_args(Mode)
    ]
    pairs += [(selfnorm(two_sided=t, **options), selfnorm(two_sided=t)) for t in (False, True)]
    both = (CNSN(crossnorm=active(3, **o), selfnorm=selfnorm(**o)) for o in (options, {}))
    return [*pairs, tuple(both)]  # type: ignore[list-item]


@pytest.mark.parametrize(("shape", "prefix"), LAST)
def test_channels_last_is_the_transposed_layer(shape: tuple[int, ...], prefix: int) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn_like(x)
    for layer, reference in layer_pairs(channel_dim=-1, prefix_tokens=prefix):
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = layer(ours)
        channels_first = theirs[:, prefix:].movedim(-1, 1).contiguous()
        expected = torch.cat([theirs[:, :prefix], reference(channels_first).movedim(1, -1)], 1)
        assert y.is_contiguous() and not torch.equal(y, x)
        torch.testing.assert_close(y, expected)
        assert torch.equal(y[:, :prefix], x[:, :prefix])
        (y * weight).sum().backward()
        (expected * weight).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
        for p, q in zip(layer.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("crop", CROPS)
def test_crossnorm_of_videos_equals_numpy(crop: Crop, memory: torch.memory_format) -> None:
    """The box is the same in every frame; statistics are those of all frames together."""
    x = torch.randn(4, 3, 5, 6, 7, dtype=torch.float64).contiguous(memory_format=memory)
    for seed in range(3):
        out = active(seed, crop=crop)(x)
        replay = torch.Generator().manual_seed(seed)
        order = torch.randperm(4, generator=replay).numpy()

        def box(wanted: bool, replay: torch.Generator = replay) -> tuple[Any, ...]:
            if not wanted:
                return (...,)
            top, left, height, width = sample_box(6, 7, generator=replay)
            return ..., slice(top, top + height), slice(left, left + width)

        style = x.numpy()[box(crop in ("style", "both"))][order]
        place = box(crop in ("content", "both"))
        expected = x.numpy().copy()
        expected[place] = numpy_cross_norm(expected[place], style)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-9)
        assert out.is_contiguous(memory_format=memory)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_selfnorm_of_videos_equals_numpy(two_sided: bool, training: bool) -> None:
    layer = selfnorm(two_sided=two_sided).train(training)
    x = torch.randn(4, 3, 2, 5, 6, dtype=torch.float64) * 3 + 1
    expected = numpy_selfnorm(layer, x.numpy(), training)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("crop", CROPS)
def test_videos_of_single_positions(crop: Crop) -> None:
    """Frames of one position have no box but themselves, and a style in time."""
    x = torch.randn(4, 3, 6, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(active(crop=crop)(x)[..., 0, 0], active()(x[..., 0, 0]))
    single = torch.randn(4, 3, 1, 1, 1)
    assert active(crop=crop)(single) is single


def test_kernels_take_channels_last_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they get is the caller's memory."""
    seen: list[int] = []
    moments = kernels.autograd.backend(torch.empty(0)).moments

    def spy(x: Tensor, *args: Any) -> Any:
        seen.append(x.data_ptr())
        return moments(x, *args)

    monkeypatch.setattr("cnsn.kernels.cpu.moments", spy)
    for shape in ((4, 11, 3), (4, 5, 6, 3), (4, 2, 3, 4, 3)):
        x = torch.randn(shape)
        for layer in (active(channel_dim=-1), SelfNorm(3, channel_dim=-1)):
            layer(x)
            assert seen.pop() == x.data_ptr()


def test_rows_of_tokens() -> None:
    x = torch.randn(6, 9, 3)
    layer, alone = (active(2, channel_dim=-1, prefix_tokens=1) for _ in range(2))
    layer.rows = slice(1, 4)
    out = layer(x)
    assert out.is_contiguous()
    assert torch.equal(out[1:4], alone(x[1:4])) and not torch.equal(out[1:4], x[1:4])
    assert torch.equal(out[:1], x[:1]) and torch.equal(out[4:], x[4:])


@pytest.mark.parametrize("prefix", [0, 2])
def test_masks_of_tokens_count_the_prefix(prefix: int) -> None:
    x = torch.randn(4, 9, 3, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([9, 5, 7, 4])[:, None]
    for layer, reference in layer_pairs(channel_dim=-1, prefix_tokens=prefix):
        tokens = x[:, prefix:].movedim(-1, 1)
        expected = reference(tokens, mask[:, prefix:]).movedim(1, -1)
        torch.testing.assert_close(layer(x, mask)[:, prefix:], expected)


def test_compiled_layers_of_every_shape() -> None:
    shapes: list[tuple[tuple[int, ...], dict[str, int]]] = [((4, 3, 2, 3, 4), {})]
    shapes += [(shape, {"channel_dim": -1, "prefix_tokens": prefix}) for shape, prefix in LAST]
    for shape, options in shapes:
        x = torch.randn(shape, dtype=torch.float64)
        for crop in ("neither", "both"):
            results = []
            for compiled in (False, True):
                block = CNSN(
                    crossnorm=active(3, crop=crop, **options), selfnorm=selfnorm(**options)
                )
                video = len(shape) == 5 and crop == "both"
                torch._dynamo.reset()
                call = torch.compile(block, backend="aot_eager", fullgraph=not video)
                leaf = x.clone().requires_grad_()
                y = call(leaf) if compiled else block(leaf)
                y.square().sum().backward()
                results.append((y.detach(), leaf.grad))
            torch.testing.assert_close(*results)


NO_MAPS: list[tuple[Any, dict[str, int], str]] = [
    (torch.zeros(4, 3), {}, r"\(B, C, T, H, W\), but got \(4, 3\)"),
    (torch.zeros(4, 3), {"channel_dim": -1}, r"\(B, N, C\).* but got \(4, 3\)"),
    (torch.zeros(2, 3, 2, 2, 2, 2), {}, r"\(2, 3, 2, 2, 2, 2\)"),
    (torch.zeros(2, 3, 4, dtype=torch.int64), {}, "floating point dtype, but got torch.int64"),
    ((torch.zeros(2, 3, 4),), {}, "a tensor of feature maps, but got a tuple"),
    (torch.zeros(2, 2, 3), {"channel_dim": -1, "prefix_tokens": 2}, "more than the 2"),
    (torch.zeros(2, 4, 4, 3), {"channel_dim": -1, "prefix_tokens": 1}, r"tokens \(B, N, C\)"),
]


@pytest.mark.parametrize(("x", "options", "message"), NO_MAPS)
def test_what_is_no_map_is_refused(x: Any, options: dict[str, int], message: str) -> None:
    for layer in (CrossNorm(**options), active(**options), SelfNorm(3, **options)):
        with pytest.raises(ValueError, match=message):
            layer(x)
    # Restylings are no part of an evaluation.
    assert CrossNorm(**options).eval()(x) is x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_dim": 2}, "`channel_dim` to be 1 or -1, but got 2"),
        ({"prefix_tokens": 1}, "`prefix_tokens`.*1 with `channel_dim` 1"),
        ({"channel_dim": -1, "prefix_tokens": -1}, "`prefix_tokens`"),
    ],
)
def test_bad_options(options: dict[str, int], message: str) -> None:
    for build in (lambda: CrossNorm(**options), lambda: SelfNorm(3, **options)):
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(ValueError, match=r"\(B, \.\.\., 3\), but got \(2, 3, 4\)"):
        SelfNorm(3, channel_dim=-1)(torch.zeros(2, 3, 4))


def test_options_are_kept_by_copies_and_absent_in_old_pickles() -> None:
    x = torch.randn(4, 7, 3)
    for layer in (active(channel_dim=-1, prefix_tokens=1), SelfNorm(3, channel_dim=-1)):
        layer.generator = None
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert (other.channel_dim, other.prefix_tokens) == (-1, layer.prefix_tokens)
            assert "channel_dim=-1" in repr(other)
            assert other(x).shape == x.shape
    old = SelfNorm(3).eval()
    state = {k: v for k, v in old.__dict__.items() if k not in ("channel_dim", "prefix_tokens")}
    loaded = SelfNorm.__new__(SelfNorm)
    loaded.__setstate__(state)
    maps = torch.randn(2, 3, 4, 4)
    assert torch.equal(loaded(maps), old(maps))
