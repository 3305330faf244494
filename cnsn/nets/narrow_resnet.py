"""ResNet for photographs with few channels: what a CPU trains from scratch in minutes.

The stem and the two-convolution blocks are torchvision's (He et al. 2016, arXiv 1512.03385); its
own ResNet cannot be narrower than 64 channels. Blocks get their sites by :func:`cnsn.insert`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from cnsn.nets.initialisation import draw_convolutions

__all__ = ["NarrowResNet"]


class NarrowResNet(nn.Module):
    """Input (B, 3, H, W), H and W at least 32; output (B, num_classes).

    Args:
        width: channels of the first stage; every further stage doubles them and halves H and W.
        blocks: of each stage; (2, 2, 2, 2) with width 64 is ResNet-18.
        num_classes: outputs.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self, *, width: int = 16, blocks: Sequence[int] = (1, 1, 1, 1), num_classes: int = 10
    ) -> None:
        super().__init__()
        if width < 1 or num_classes < 1 or not blocks or min(blocks) < 1:
            raise ValueError(
                "Expected `width`, `num_classes` and all `blocks` to be at least 1, but got "
                f"{width}, {num_classes} and {tuple(blocks)}."
            )
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for stage, count in enumerate(blocks, start=1):
            out = width * 2 ** (stage - 1)
            layers = [_block(channels, out, stride=1 if stage == 1 else 2)]
            layers += [_block(out, out, stride=1) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            channels = out
        self.stages = len(blocks)
        self.fc = nn.Linear(channels, num_classes)
        draw_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def _block(channels: int, out: int, *, stride: int) -> BasicBlock:
    projection = None
    if stride != 1 or channels != out:
        projection = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )
    return BasicBlock(channels, out, stride, projection)
