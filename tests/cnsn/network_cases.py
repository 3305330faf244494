"""Networks of other libraries, small and without weights, that the layers are inserted into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import transformers
from torch import Tensor, nn
from torchvision import models


@dataclass(frozen=True)
class Case:
    """One network.

    Args:
        library: which builds it.
        name: of the factory.
        options: of the factory.
        shape: of an input, without the batch.
        position: where the layers sit.
        slow: it takes more than a second.
        traced: torch.compile and torch.export are tried on it.
    """

    library: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 64, 64)
    position: str = "post"
    slow: bool = False
    traced: bool = False

    @property
    def id(self) -> str:
        return f"{self.library}-{self.name}"

    def build(self) -> nn.Module:
        net = BUILDERS[self.library](self.name, **self.options)
        for layer in net.modules():
            # Of a head of zeros nothing would come back.
            if isinstance(layer, nn.Linear) and not layer.weight.any():
                nn.init.normal_(layer.weight, std=0.02)
        return net

    def input(self) -> Tensor:
        return torch.randn(3, *self.shape)


class Logits(nn.Module):
    """A classifier of transformers that returns a tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).logits


def _torchvision(name: str, **options: Any) -> nn.Module:
    place = models
    for part in name.split(".")[:-1]:
        place = getattr(place, part)
    return getattr(place, name.split(".")[-1])(weights=None, num_classes=5, **options)


def _transformers(name: str, **options: Any) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(num_labels=5, **options)
    return Logits(getattr(transformers, f"{name}ForImageClassification")(config))


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "timm": lambda name, **options: timm.create_model(
        name, pretrained=False, num_classes=5, **options
    ),
    "torchvision": _torchvision,
    "smp": lambda name, **options: smp.Unet(name, encoder_weights=None, classes=2, **options),
    "transformers": _transformers,
}

FOUR = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 24, 32, 40]}
VIDEO = (3, 4, 32, 32)
CASES = [
    Case("timm", "resnet10t", {"drop_path_rate": 0.3}, traced=True),
    Case("timm", "resnet18", {"layers": (1, 1, 1, 1), "drop_block_rate": 0.1}),
    Case("timm", "resnet26d", {"layers": (1, 1, 2, 1)}, traced=True),
    Case("timm", "resnext50_32x4d"),
    Case("timm", "seresnet18"),
    Case("timm", "ecaresnet26t"),
    Case("timm", "resnet50_gn"),
    Case("timm", "resnetblur18"),
    Case("timm", "wide_resnet50_2"),
    Case("timm", "resnetrs50"),
    Case("timm", "hrnet_w18_small"),
    Case("timm", "resnetv2_18", {"drop_path_rate": 0.3}),
    Case("timm", "resnetv2_50", traced=True),
    Case("timm", "resnetv2_50x1_bit"),
    Case("timm", "nf_resnet26", traced=True),
    Case("timm", "nf_regnet_b0", {"drop_path_rate": 0.3}),
    Case("timm", "eca_nfnet_l0", {"drop_path_rate": 0.3}),
    Case("timm", "dm_nfnet_f0"),
    Case("timm", "mobilenetv1_100"),
    Case("timm", "mobilenetv2_035", {"drop_path_rate": 0.3}, traced=True),
    Case("timm", "mobilenetv3_small_050", traced=True),
    Case("timm", "mobilenetv4_conv_small_035", {"drop_path_rate": 0.3}),
    Case("timm", "mobilenetv4_hybrid_medium"),
    Case("timm", "efficientnet_b0", {"drop_path_rate": 0.3}, traced=True),
    Case("timm", "efficientnet_cc_b0_4e"),
    Case("timm", "tf_efficientnet_lite0"),
    Case("timm", "tf_efficientnetv2_b0"),
    Case("timm", "mixnet_s"),
    Case("timm", "mnasnet_small"),
    Case("timm", "fbnetv3_b"),
    Case("timm", "convnext_atto", {"drop_path_rate": 0.3}, traced=True),
    Case("timm", "convnextv2_atto"),
    Case("timm", "convnext_atto_ols"),
    Case("timm", "regnetx_002", {"drop_path_rate": 0.3}),
    Case("timm", "regnety_002", traced=True),
    Case("timm", "regnetz_005"),
    Case("timm", "regnetv_040"),
    Case("timm", "seresnet33ts"),
    Case("timm", "gernet_s"),
    Case("timm", "botnet26t_256", {"img_size": 64}),
    Case("timm", "densenet121", position="residual"),
    Case("timm", "vit_tiny_patch16_224", {"img_size": 64, "drop_path_rate": 0.3}, traced=True),
    Case("timm", "deit3_small_patch16_224", {"img_size": 64, "depth": 3}),
    Case("timm", "vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 3}, (3, 56, 56)),
    Case("timm", "vit_relpos_small_patch16_224", {"img_size": 64}),
    Case("timm", "vit_small_r26_s32_224", {"img_size": 64}),
    Case("timm", "swin_tiny_patch4_window7_224", {"img_size": 64, "drop_path_rate": 0.3}),
    Case("timm", "swinv2_tiny_window8_256", {"img_size": 64}),
    Case("torchvision", "resnet18", traced=True),
    Case("torchvision", "resnext50_32x4d"),
    Case("torchvision", "mobilenet_v2", {"width_mult": 0.35}, traced=True),
    Case("torchvision", "mobilenet_v3_small", traced=True),
    Case("torchvision", "efficientnet_b0", {"stochastic_depth_prob": 0.3}, traced=True),
    Case("torchvision", "efficientnet_v2_s"),
    Case("torchvision", "mnasnet0_5"),
    Case("torchvision", "convnext_tiny", {"stochastic_depth_prob": 0.3}),
    Case("torchvision", "regnet_x_400mf"),
    Case("torchvision", "regnet_y_400mf", traced=True),
    Case("torchvision", "densenet121", position="residual"),
    Case("torchvision", "vit_b_32", {"image_size": 64}),
    Case("torchvision", "swin_t"),
    Case("torchvision", "swin_v2_t"),
    Case("torchvision", "video.r3d_18", shape=VIDEO),
    Case("torchvision", "video.r2plus1d_18", shape=VIDEO),
    Case("torchvision", "quantization.resnet18", {"quantize": False}),
    Case("torchvision", "quantization.resnet50", {"quantize": False}),
    Case("torchvision", "quantization.mobilenet_v2", {"quantize": False}),
    Case("torchvision", "quantization.mobilenet_v3_large", {"quantize": False}),
    Case("torchvision", "segmentation.lraspp_mobilenet_v3_large", {"weights_backbone": None}),
    Case("smp", "resnet18"),
    Case("smp", "mobilenet_v2", traced=True),
    Case("smp", "efficientnet-b0"),
    Case("smp", "timm-efficientnet-b0"),
    Case("smp", "densenet121", position="residual"),
    Case("smp", "se_resnet50"),
    Case("smp", "tu-convnext_atto"),
    Case("transformers", "ResNet", {**FOUR, "layer_type": "basic"}, traced=True),
    Case("transformers", "ResNet", {**FOUR, "layer_type": "bottleneck"}),
    Case("transformers", "RegNet", {**FOUR, "groups_width": 8}),
    Case("transformers", "ConvNext", {**FOUR, "drop_path_rate": 0.3}, traced=True),
    Case("transformers", "ConvNextV2", FOUR),
    Case(
        "transformers",
        "ViT",
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64},
    ),
]
