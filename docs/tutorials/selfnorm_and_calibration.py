"""SelfNorm and calibration: are the network's probabilities what they say?

PYTHONPATH=. python docs/tutorials/selfnorm_and_calibration.py pictures
"""

import sys
from pathlib import Path

import matplotlib
import torch
from sklearn.datasets import load_digits

from cnsn import CNSNSpec, SelfNorm, insert
from cnsn.nets import WideResNet

matplotlib.use("Agg")
from matplotlib import pyplot as plt

scans = load_digits()
x = torch.tensor(scans.images, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1) / 8 - 1
y = torch.tensor(scans.target)


def train(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net = insert(WideResNet(depth=10, width=1, num_classes=10), CNSNSpec(kind=kind))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(150):
        batch = torch.randint(1200, (64,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def calibration(net: torch.nn.Module, bins: int = 10) -> tuple[list[float], list[float], float]:
    """Confidence and accuracy in each bin that holds images, and the expected calibration error."""
    noisy = x[1200:] + 0.5 * torch.randn(597, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sure, label = net(noisy).softmax(1).max(1)
    right = (label == y[1200:]).float()
    number = (sure * bins).long().clamp(max=bins - 1)
    parts = [number == b for b in range(bins) if (number == b).any()]
    told = [sure[p].mean().item() for p in parts]
    true = [right[p].mean().item() for p in parts]
    share = [p.float().mean().item() for p in parts]
    return told, true, sum(s * abs(a - b) for s, a, b in zip(share, told, true, strict=True))


out = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
out.mkdir(parents=True, exist_ok=True)
plt.plot([0, 1], [0, 1], "--", color="grey")
for kind, name in (("none", "baseline"), ("sn", "SelfNorm")):
    net = train(kind)
    told, true, ece = calibration(net)
    layers = sum(isinstance(module, SelfNorm) for module in net.modules())
    print(f"{name}: {layers} SelfNorm layers, ECE on noisy scans {100 * ece:.1f} %")
    plt.plot(told, true, "o-", label=f"{name}, ECE {100 * ece:.1f} %")
plt.xlabel("confidence")
plt.ylabel("accuracy")
plt.legend()
plt.savefig(out / "selfnorm_and_calibration.png", dpi=120)
