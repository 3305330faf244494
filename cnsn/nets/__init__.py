"""Networks of the paper, each free of CrossNorm and SelfNorm until :func:`cnsn.insert`."""

from cnsn.nets.wide_resnet import WideResNet, wide_resnet

__all__ = ["WideResNet", "wide_resnet"]
