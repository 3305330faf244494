"""A new layer in one file: MixStyle's mixed statistics in CrossNorm's place.

    PYTHONPATH=. python docs/tutorials/a_new_layer.py pictures

In the package it would be a file in cnsn/layers/ and a row in cnsn/kinds.py; here both are in one.
Zhou et al., ICLR 2021, https://arxiv.org/abs/2104.02008.
"""

import sys
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from cnsn import CNSNSpec, crossnorm_active, insert
from cnsn.functional import instance_stats
from cnsn.kinds import RESTYLINGS, Insertable
from cnsn.layers import Restyling
from cnsn.nets import WideResNet

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class MixStyle(Restyling):
    """Statistics halfway between a map's own and those of another map of the batch."""

    def restyle(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mean, std = instance_stats(x)
        partner = self.draw_partners(len(x))
        new_mean, new_std = (mean + mean[partner]) / 2, (std + std[partner]) / 2
        return (x - mean) / std * new_std + new_mean


RESTYLINGS["mixstyle"] = Insertable(MixStyle)

net = insert(WideResNet(depth=10, width=1, num_classes=10), CNSNSpec(kind="cn", restyle="mixstyle"))
layers = [module for module in net.modules() if isinstance(module, MixStyle)]
print(f"{len(layers)} layers were inserted, by name, as CrossNorm would be")

x = torch.randn(64, 3, 32, 32) * torch.rand(64, 1, 1, 1).add(0.2)
seen: dict[str, Tensor] = {}
layers[0].register_forward_hook(lambda m, i, o: seen.update(before=i[0], after=o))
with crossnorm_active(net.train(), k="all"):
    net(x).sum().backward()

out = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
out.mkdir(parents=True, exist_ok=True)
for name, maps in seen.items():
    spread = instance_stats(maps)[1].detach().flatten()
    print(f"standard deviations {name} the layer: {spread.mean():.2f} \u00b1 {spread.std():.2f}")
    plt.hist(spread, bins=30, alpha=0.6, label=name)
assert instance_stats(seen["after"])[1].std() < instance_stats(seen["before"])[1].std()
plt.xlabel("standard deviation of a channel")
plt.legend()
plt.savefig(out / "a_new_layer.png", dpi=120)
