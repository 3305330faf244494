"""CrossNorm in your network: digits that become darker after training.

PYTHONPATH=. python docs/tutorials/crossnorm_in_your_network.py pictures
"""

import sys
from pathlib import Path

import matplotlib
import torch
from sklearn.datasets import load_digits

from cnsn import CNSNSpec, crossnorm_active, insert
from cnsn.nets import WideResNet

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# 1,797 scans of 8x8 pixels, in three channels as networks of images expect; 597 are the test.
scans = load_digits()
x = torch.tensor(scans.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 8 - 1
y = torch.tensor(scans.target)
contrasts = (1.0, 0.7, 0.5, 0.35, 0.25)


def train(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    # `insert` converts a built network in place; "none" leaves it as it is.
    net = insert(WideResNet(depth=10, width=1, num_classes=10), CNSNSpec(kind=kind))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(200):
        batch = torch.randint(1200, (64,))
        optimizer.zero_grad()
        # With probability one half, one of the network's CrossNorm sites acts on the batch.
        if kind == "cn" and torch.rand(()) < 0.5:
            with crossnorm_active(net, k=1):
                loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
        else:
            loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def errors(net: torch.nn.Module) -> list[float]:
    test, truth = x[1200:], y[1200:]
    return [(net(c * test).argmax(1) != truth).float().mean().item() * 100 for c in contrasts]


out = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
out.mkdir(parents=True, exist_ok=True)
for kind, name in (("none", "baseline"), ("cn", "CrossNorm")):
    found = errors(train(kind))
    print(f"{name}: errors in % at contrasts {contrasts}: {[round(e, 1) for e in found]}")
    plt.plot(contrasts, found, "o-", label=name)
plt.xlabel("contrast of the test images")
plt.ylabel("error in %")
plt.legend()
plt.savefig(out / "crossnorm_in_your_network.png", dpi=120)
