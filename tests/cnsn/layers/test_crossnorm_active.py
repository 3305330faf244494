from __future__ import annotations

import pytest
import torch

from cnsn import CNSNSpec, CrossNorm, crossnorm_active, insert
from cnsn.insert import crossnorm_sites
from cnsn.layers import Crop
from cnsn.nets import wide_resnet


@pytest.fixture
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return insert(wide_resnet(depth=16, width=1), CNSNSpec(kind="cnsn", crop="both")).train()


def active_sites(net: torch.nn.Module) -> list[int]:
    return [i for i, site in enumerate(crossnorm_sites(net)) if site.active]


@pytest.mark.parametrize("k", [0, 1, 2, 6])
def test_exactly_k_are_active_and_all_restored(net: torch.nn.Module, k: int) -> None:
    with crossnorm_active(net, k) as chosen:
        assert len(active_sites(net)) == len(chosen) == k
    assert active_sites(net) == []
    assert all(site.generator is None and site.partner is None for site in crossnorm_sites(net))


@pytest.mark.parametrize("k", [-1, 7])
def test_k_out_of_range(net: torch.nn.Module, k: int) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 6.*got {k}"), crossnorm_active(net, k):
        pass
    with pytest.raises(ValueError, match="from 0 to 0"), crossnorm_active(torch.nn.ReLU(), 1):
        pass


def test_restored_after_an_exception_and_when_nested(net: torch.nn.Module) -> None:
    outer = torch.Generator().manual_seed(1)
    with crossnorm_active(net, 3, outer):
        before = active_sites(net)
        with pytest.raises(RuntimeError, match="boom"), crossnorm_active(net, 6):
            raise RuntimeError("boom")
        assert active_sites(net) == before
        assert all(site.generator is outer for site in crossnorm_sites(net) if site.active)
    assert active_sites(net) == []


def test_a_generator_decides_sites_and_draws(net: torch.nn.Module) -> None:
    x = torch.randn(6, 3, 8, 8)

    def forward(sites: int, draws: int | None = None) -> tuple[list[int], torch.Tensor]:
        own = None if draws is None else torch.Generator().manual_seed(draws)
        with crossnorm_active(net, 2, torch.Generator().manual_seed(sites), draws=own):
            return active_sites(net), net(x)

    places, out = forward(5)
    torch.manual_seed(99)
    again, same = forward(5)
    assert places == again and torch.equal(out, same)
    # Two processes: equal sites, other permutations.
    (first, one), (second, two) = forward(5, 1), forward(5, 2)
    assert first == second == places and not torch.allclose(one, two)


def test_every_site_is_chosen_equally_often(net: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(6)
    for _ in range(1200):
        with crossnorm_active(net, 2, generator):
            counts[active_sites(net)] += 1
    # Binomial with mean 400 and standard deviation 16.3.
    assert counts.sum() == 2400 and (counts - 400).abs().max() < 5 * 16.3


def test_partner_is_used(net: torch.nn.Module) -> None:
    x = torch.randn(4, 3, 8, 8)
    plain = net(x)
    with crossnorm_active(insert_without_crop(), 6, partner=torch.arange(4)) as sites:
        assert all(torch.equal(site.partner, torch.arange(4)) for site in sites)
    same = insert_without_crop()
    reference = same(x)
    with crossnorm_active(same, 6, partner=torch.arange(4)):
        # Each sample with its own style: nothing changes but rounding.
        torch.testing.assert_close(same(x), reference, rtol=1e-3, atol=1e-4)
    assert plain.shape == reference.shape


@pytest.mark.parametrize("crop", ["neither", "both"])
def test_rows_outside_the_slice_pass_unchanged(crop: Crop) -> None:
    layer = CrossNorm(crop=crop).train()
    x = torch.randn(9, 3, 6, 6)
    draws = [torch.Generator().manual_seed(7) for _ in range(2)]
    with crossnorm_active(layer, 1, draws=draws[0], rows=slice(2, 7)):
        out = layer(x)
    assert layer.rows is None
    assert torch.equal(out[:2], x[:2]) and torch.equal(out[7:], x[7:])
    with crossnorm_active(layer, 1, draws=draws[1]):
        alone = layer(x[2:7])
    assert torch.equal(out[2:7], alone) and not torch.equal(alone, x[2:7])


def insert_without_crop() -> torch.nn.Module:
    torch.manual_seed(0)
    return insert(wide_resnet(depth=16, width=1), CNSNSpec(kind="cn")).train()


def test_eval_mode_is_never_touched(net: torch.nn.Module) -> None:
    x = torch.randn(4, 3, 8, 8)
    expected = net.eval()(x)
    with crossnorm_active(net, 6):
        assert torch.equal(net(x), expected)


def test_draws_do_not_depend_on_the_default_device(net: torch.nn.Module) -> None:
    x = torch.randn(4, 3, 8, 8)

    def outcome() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        with crossnorm_active(net, 3, generator):
            return net(x)

    expected = outcome()
    with torch.device("meta"):
        assert torch.equal(outcome(), expected)
