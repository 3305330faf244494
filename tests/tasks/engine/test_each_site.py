"""Sites that toss coins of their own: a function of seed and step alone."""

from __future__ import annotations

import pytest

from cnsn import CNSNSpec, crossnorm_sites
from cnsn.nets import wide_resnet
from tasks.engine.base import CNSNModule, CrossNormTraining, crossnorm_share
from tasks.engine.optim import OptimizerSpec


def module(**options: object) -> CNSNModule:
    training = CrossNormTraining(sites="each", **options)  # type: ignore[arg-type]
    net = wide_resnet(depth=10, width=1)
    made = CNSNModule(net, CNSNSpec(kind="cn"), training, OptimizerSpec(), seed=3)
    # Without a trainer there is one process.
    return made


def chosen(task: CNSNModule, step: int) -> list[bool]:
    sites = crossnorm_sites(task.network)
    if not task.crossnorm_step(step):
        return [False] * len(sites)
    with task.crossnorm_view(step):
        return [site.active for site in sites]


def test_rates_and_a_step_s_choice_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    task, steps = module(p=0.2), 2000
    found = [chosen(task, step) for step in range(steps)]
    rates = [sum(column) / steps for column in zip(*found, strict=True)]
    assert all(abs(rate - 0.2) < 4 * (0.2 * 0.8 / steps) ** 0.5 for rate in rates)
    # Another process, which begins in the midst.
    other = module(p=0.2)
    monkeypatch.setattr(CNSNModule, "global_rank", 1)
    assert [chosen(other, step) for step in range(1000, 1050)] == found[1000:1050]


def test_options_that_do_not_fit_are_refused() -> None:
    for options in ({"k": 2}, {"consistency": 10.0}):
        with pytest.raises(ValueError, match="left out with `sites: each`"):
            module(**options)
    with pytest.raises(ValueError, match="`sites` to be some or each"):
        CrossNormTraining(sites="all")  # type: ignore[arg-type]
    given = {"cnsn": {"kind": "cn"}, "crossnorm": {"sites": "each", "p": 0.5}}
    assert crossnorm_share(given) == 1
