"""Networks of the paper, each free of CrossNorm and SelfNorm until :func:`cnsn.insert`."""

from cnsn.nets.allconv import AllConv, allconv
from cnsn.nets.densenet import DenseNet, densenet40
from cnsn.nets.narrow_resnet import NarrowResNet
from cnsn.nets.resnet import IBNResNet50, ResNet50, resnet50, resnet50_ibn
from cnsn.nets.resnext import ResNeXt, resnext29
from cnsn.nets.text_cnn import TextCNN
from cnsn.nets.text_resnet import TextResNet
from cnsn.nets.thin_resnet import ThinResNet50
from cnsn.nets.wide_resnet import WideResNet, wide_resnet

__all__ = [
    "AllConv",
    "DenseNet",
    "IBNResNet50",
    "NarrowResNet",
    "ResNeXt",
    "ResNet50",
    "TextCNN",
    "TextResNet",
    "ThinResNet50",
    "WideResNet",
    "allconv",
    "densenet40",
    "resnet50",
    "resnet50_ibn",
    "resnext29",
    "wide_resnet",
]
