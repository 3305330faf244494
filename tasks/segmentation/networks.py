"""Segmentation networks for `model.network`, beside those of torchvision and of other libraries.

Each returns logits of the images' size: a tensor, or {"out", "aux"} with an auxiliary head. Ours
have the attribute ``backbone``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead

from cnsn.nets import ThinResNet50
from data.segmentation.labels import CLASSES

__all__ = [
    "FCNResNet50",
    "OfAnySize",
    "SMPNetwork",
    "SmallFPN",
    "ThinResNetFPN",
    "of_any_size",
]


class FCNResNet50(FCN):
    """torchvision's fcn_resnet50: the paper's network (Long et al. 2015, arXiv 1411.4038).

    Stages 3 and 4 keep the resolution of stage 2, an eighth of the image's, and dilate instead.
    Keys are torchvision's, so that its ``FCN_ResNet50_Weights`` fit too.

    Args:
        num_classes: of the logits.
        aux: an auxiliary head on stage 3, for training.
        ibn: IBN-Net's instance normalisation in the backbone: None, "a" or "b"
            (see :class:`cnsn.nets.IBNResNet50`).
    """

    def __init__(
        self,
        *,
        num_classes: int = len(CLASSES),
        aux: bool = True,
        ibn: Literal["a", "b"] | None = None,
    ) -> None:
        net = resnet.resnet50() if ibn is None else _ibn_resnet50(ibn)
        _dilate(net.layer3, first=1, others=2)
        _dilate(net.layer4, first=2, others=4)
        outputs = {"layer4": "out", "layer3": "aux"} if aux else {"layer4": "out"}
        super().__init__(
            IntermediateLayerGetter(net, return_layers=outputs),
            FCNHead(2048, num_classes),
            FCNHead(1024, num_classes) if aux else None,
        )


def _ibn_resnet50(variant: Literal["a", "b"]) -> resnet.ResNet:
    from cnsn.nets import resnet50_ibn

    return resnet50_ibn(variant=variant)


def _dilate(stage: Any, *, first: int, others: int) -> None:
    """Take the stride out of a stage of bottlenecks, as torchvision's dilated ResNets do."""
    for place, block in enumerate(stage):
        dilation = others if place else first
        block.conv2.stride = block.stride = (1, 1)
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
        if block.downsample is not None:
            block.downsample[0].stride = (1, 1)


class OfAnySize(nn.Module):
    """A network of segmentation_models_pytorch that takes images of any size.

    Their sides are filled up to the next multiple that the encoder takes with zeros, the mean
    colour, and the logits are cut back.

    Args:
        net: of the library's classes.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.multiple = max(32, net.encoder.output_stride)
        self.encoder_name: str = net.name.partition("-")[2]

    @property
    def backbone(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = self.net.encoder
        return encoder

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        down, right = -height % self.multiple, -width % self.multiple
        if down or right:
            x = F.pad(x, (0, right, 0, down))
        return self.net(x)[..., :height, :width]


def of_any_size(network: nn.Module) -> nn.Module:
    """`network`, within :class:`OfAnySize` where it is one of segmentation_models_pytorch."""
    if type(network).__module__.partition(".")[0] != "segmentation_models_pytorch":
        return network
    return OfAnySize(network)


class SMPNetwork(OfAnySize):
    """DeepLabV3+, Unet or FPN of segmentation_models_pytorch, on any of its encoders or timm's.

    Args:
        arch: decoder.
        encoder: name in segmentation_models_pytorch, such as resnet50, or in timm behind `tu-`,
            such as tu-resnet50d.
        num_classes: of the logits.
    """

    def __init__(
        self,
        *,
        arch: Literal["deeplabv3plus", "unet", "fpn"] = "deeplabv3plus",
        encoder: str = "resnet50",
        num_classes: int = len(CLASSES),
    ) -> None:
        import segmentation_models_pytorch as smp
        import timm

        known = smp.encoders.get_encoder_names()
        if encoder not in known and not (encoder[:3] == "tu-" and timm.is_model(encoder[3:])):
            resnets = sorted(name for name in known if name[:6] == "resnet")
            raise ValueError(
                f"Expected `encoder` to be one of segmentation_models_pytorch's "
                f"({', '.join(resnets)}, ...) or tu- and a name of timm's, but got {encoder!r}."
            )
        super().__init__(
            smp.create_model(arch, encoder_name=encoder, encoder_weights=None, classes=num_classes)
        )
        self.encoder_name = encoder


class SmallFPN(nn.Module):
    """A feature pyramid (Lin et al. 2017) on a small ResNet, for one CPU core. Our own.

    Four stages of two-convolution blocks at 1/4, 1/8, 1/16 and 1/32 of the image's size, whose
    outputs are summed from coarse to fine.

    Args:
        num_classes: of the logits.
        width: channels of the first stage; each stage doubles them.
        blocks: in each stage.
    """

    def __init__(
        self, *, num_classes: int = len(CLASSES), width: int = 16, blocks: int = 2
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("blocks", blocks)):
            if value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}.")
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.backbone: nn.ModuleDict = nn.ModuleDict({"stem": _conv_norm_relu(3, width, stride=2)})
        before = width
        for number, channels in enumerate(widths, start=1):
            self.backbone[f"layer{number}"] = _basic_stage(before, channels, blocks)
            before = channels
        self._add_decoder(widths, 2 * width, num_classes)

    def _add_decoder(self, widths: list[int], width: int, num_classes: int) -> None:
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths)
        self.classifier = nn.Sequential(
            _conv_norm_relu(width, width), nn.Conv2d(width, num_classes, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        features = []
        for stage in self.backbone.values():
            x = stage(x)
            features.append(x)
        laterals = [conv(f) for conv, f in zip(self.lateral, features[-4:], strict=True)]
        total = laterals.pop()
        while laterals:
            finer = laterals.pop()
            total = finer + _resized(total, finer.shape[-2:])
        return _resized(self.classifier(total), size)


class ThinResNetFPN(SmallFPN):
    """The same pyramid on :class:`cnsn.nets.ThinResNet50`, whose weights fit its backbone.

    Args:
        num_classes: of the logits.
        width: channels of the pyramid.
    """

    def __init__(self, *, num_classes: int = len(CLASSES), width: int = 64) -> None:
        nn.Module.__init__(self)
        stages = {f"layer{number}": str(number) for number in range(1, 5)}
        self.backbone = IntermediateLayerGetter(ThinResNet50(), stages)
        self._add_decoder([128, 256, 512, 1024], width, num_classes)


def _resized(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _conv_norm_relu(before: int, after: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _basic_stage(before: int, after: int, blocks: int) -> nn.Sequential:
    """Residual blocks, of which the first halves the resolution."""
    shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))
    first = resnet.BasicBlock(before, after, 2, shortcut)
    return nn.Sequential(first, *(resnet.BasicBlock(after, after) for _ in range(blocks - 1)))
