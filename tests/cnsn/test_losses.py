from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from cnsn.losses import jsd_consistency


def test_two_views_equal_scipy() -> None:
    a, b = torch.randn(2, 9, 6, dtype=torch.float64) * 3
    distance = jensenshannon(a.softmax(-1).numpy(), b.softmax(-1).numpy(), axis=1)
    assert jsd_consistency([a, b]).item() == pytest.approx((distance**2).mean(), rel=1e-5)


def test_three_views_equal_the_definition() -> None:
    views = torch.randn(3, 5, 4, dtype=torch.float64) * 2
    p = views.softmax(-1).numpy()
    mixture = p.mean(0)
    expected = (p * np.log(p / mixture)).sum(-1).mean()
    assert jsd_consistency(list(views)).item() == pytest.approx(expected, rel=1e-5)


def test_bounds_and_symmetry() -> None:
    same = torch.randn(4, 7)
    assert jsd_consistency([same, same + 3.0, same]).item() == pytest.approx(0, abs=1e-6)
    certain = [torch.eye(3)[[i]] * 1e4 for i in range(3)]
    assert jsd_consistency(certain).item() == pytest.approx(math.log(3), rel=1e-5)
    a, b, c = torch.randn(3, 4, 7)
    assert jsd_consistency([a, b, c]).item() == pytest.approx(jsd_consistency([c, a, b]).item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_gradients_of_extreme_logits(dtype: torch.dtype) -> None:
    views = [torch.tensor([[6e4, -6e4, 0.0]], dtype=dtype).roll(i, 1) for i in range(3)]
    views = [view.requires_grad_() for view in views]
    loss = jsd_consistency(views)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(view.grad is not None and view.grad.isfinite().all() for view in views)


def test_gradient_by_differences() -> None:
    views = torch.randn(3, 2, 4)

    def loss(shift: float) -> float:
        moved = views.double().clone()
        moved[0, 1, 2] += shift
        # float32 inside: a large step keeps its rounding small.
        return jsd_consistency(list(moved)).item()

    leaf = views.clone().requires_grad_()
    jsd_consistency(list(leaf)).backward()
    assert leaf.grad is not None
    difference = (loss(1e-2) - loss(-1e-2)) / 2e-2
    assert leaf.grad[0, 1, 2].item() == pytest.approx(difference, rel=1e-2, abs=1e-5)


def test_wrong_views() -> None:
    with pytest.raises(ValueError, match="at least 2 views, but got 1"):
        jsd_consistency([torch.zeros(2, 3)])
    with pytest.raises(ValueError, match="of one shape"):
        jsd_consistency([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match=r"\(B, classes\)"):
        jsd_consistency([torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)])
