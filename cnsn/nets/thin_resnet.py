"""ResNet-50 of half width, as Caffe's networks have it: 5.9 million parameters, for CPU cores.

torchvision's bottlenecks (He et al. 2016, arXiv 1512.03385) with half the channels behind a stem of
64. The stride is in a stage's first 1x1 convolution, and the pooling takes what sticks out at the
right and below instead of padding. It is the network of Yahoo's open_nsfw (2016), trained on
ImageNet and then fine-tuned by its makers to filter photographs; its weights fit in torchvision's
names.
"""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet

from cnsn.nets.initialisation import draw_convolutions

__all__ = ["ThinResNet50"]


class ThinResNet50(resnet.ResNet):
    """Input (B, 3, H, W), H and W at least 32; output (B, num_classes).

    Its blocks get their sites by :func:`cnsn.insert`, as every torchvision network's do.
    """

    def __init__(self, *, num_classes: int = 1000) -> None:
        super().__init__(resnet.Bottleneck, [1, 1, 1, 1])
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inplanes = 64
        for stage, blocks in enumerate((3, 4, 6, 3)):
            stride = 2 if stage else 1
            layer = self._make_layer(resnet.Bottleneck, 32 << stage, blocks, stride)
            first = layer[0]
            assert isinstance(first, resnet.Bottleneck)
            first.conv1.stride, first.conv2.stride = (stride, stride), (1, 1)
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = nn.Linear(1024, num_classes)
        draw_convolutions(self)
