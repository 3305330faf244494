"""Each known block against its forward written by hand, with the layers at each of its sites."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import _efficientnet as smp_efficientnet
from segmentation_models_pytorch.encoders import _senet as smp_senet
from timm.layers import create_attn
from timm.models import _efficientnet_blocks as mobile
from timm.models import (
    byobnet,
    convnext,
    densenet,
    nfnet,
    regnet,
    resnet,
    resnetv2,
    swin_transformer,
    swin_transformer_v2,
    vision_transformer,
    vision_transformer_relpos,
)
from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models import mobilenetv3 as tv_mobilenetv3
from torchvision.models.quantization import mobilenetv2 as quantized_v2
from torchvision.models.quantization import mobilenetv3 as quantized_v3
from torchvision.models.quantization import resnet as quantized_resnet
from torchvision.models.video import resnet as video
from transformers import ConvNextConfig, ConvNextV2Config, RegNetConfig, ViTConfig
from transformers.models.convnext.modeling_convnext import ConvNextLayer
from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2Layer
from transformers.models.regnet.modeling_regnet import RegNetXLayer, RegNetYLayer
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer, ResNetBottleNeckLayer
from transformers.models.vit.modeling_vit import ViTLayer

from cnsn import CNSNSpec, SitedBlock, backbones, insert
from cnsn.backbones import _SITED, sited_type

At = Callable[[str, Tensor], Tensor]
Hand = Callable[[Any, At, Tensor], Tensor]


def torchvision_resnet(b: Any, at: At, x: Tensor) -> Tensor:
    y = F.relu(b.bn1(b.conv1(at("pre", x))))
    y = b.bn2(b.conv2(y))
    if hasattr(b, "conv3"):
        y = b.bn3(b.conv3(F.relu(y)))
    shortcut = x if b.downsample is None else b.downsample(x)
    return at("out", F.relu(at("post", at("residual", y) + at("identity", shortcut))))


def timm_resnet(b: Any, at: At, x: Tensor) -> Tensor:
    three = hasattr(b, "conv3")
    y = b.bn1(b.conv1(at("pre", x)))
    y = F.relu(y) if three else b.aa(F.relu(b.drop_block(y)))
    y = b.bn2(b.conv2(y))
    if three:
        y = b.bn3(b.conv3(b.aa(F.relu(b.drop_block(y)))))
    y = at("residual", y if b.se is None else b.se(y))
    shortcut = x if b.downsample is None else b.downsample(x)
    return at("out", F.relu(at("post", y + at("identity", shortcut))))


def hybrid(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.norm3(b.conv3(b.norm2(b.conv2(b.norm1(b.conv1(at("pre", x)))))))
    shortcut = x if b.downsample is None else b.downsample(x)
    return at("out", F.relu(at("post", at("residual", y) + at("identity", shortcut))))


def preactivated(b: Any, at: At, x: Tensor) -> Tensor:
    if b.downsample is None:
        shortcut, y = x, b.norm1(at("pre", x))
    else:
        y = b.norm1(x)
        shortcut, y = b.downsample(y), at("pre", y)
    y = b.conv2(b.norm2(b.conv1(y)))
    if hasattr(b, "conv3"):
        y = b.conv3(b.norm3(y))
    return at("post", at("residual", y) + at("identity", shortcut))


def regnet_v(b: Any, at: At, x: Tensor) -> Tensor:
    x = b.norm1(x)
    y = b.norm2(b.conv1(at("pre", x)))
    y = at("residual", b.conv3(b.norm3(b.se(b.conv2(y)))))
    return at("post", y if b.downsample is None else y + at("identity", b.downsample(x)))


def normaliser_free(b: Any, at: At, x: Tensor) -> Tensor:
    if b.downsample is None:
        shortcut, y = x, F.relu(at("pre", x)) * b.beta
    else:
        y = F.relu(x) * b.beta
        shortcut, y = b.downsample(y), at("pre", y)
    y = b.conv2(F.relu(b.conv1(y)))
    if b.conv2b is not None:
        y = b.conv2b(F.relu(y))
    if b.attn is not None:
        y = b.attn_gain * b.attn(y)
    y = b.conv3(F.relu(y))
    if b.attn_last is not None:
        y = b.attn_gain * b.attn_last(y)
    y = at("residual", y)
    if b.skipinit_gain is not None:
        y = y * b.skipinit_gain
    return at("post", y * b.alpha + at("identity", shortcut))


def skipping(b: Any, at: At, x: Tensor, y: Tensor) -> Tensor:
    y = at("residual", y)
    return at("post", y + at("identity", x) if b.has_skip else y)


def conv_bn_act(b: Any, at: At, x: Tensor) -> Tensor:
    return skipping(b, at, x, b.aa(b.bn1(b.conv(at("pre", x)))))


def separable(b: Any, at: At, x: Tensor) -> Tensor:
    y = at("pre", x)
    if b.conv_s2d is not None:
        y = b.bn_s2d(b.conv_s2d(y))
    return skipping(b, at, x, b.bn2(b.conv_pw(b.se(b.aa(b.bn1(b.conv_dw(y)))))))


def inverted(b: Any, at: At, x: Tensor) -> Tensor:
    y = at("pre", x)
    if b.conv_s2d is not None:
        y = b.bn_s2d(b.conv_s2d(y))
    y = b.se(b.aa(b.bn2(b.conv_dw(b.bn1(b.conv_pw(y))))))
    return skipping(b, at, x, b.bn3(b.conv_pwl(y)))


def edge(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.se(b.aa(b.bn1(b.conv_exp(at("pre", x)))))
    return skipping(b, at, x, b.bn2(b.conv_pwl(y)))


def conditional(b: Any, at: At, x: Tensor) -> Tensor:
    y = at("pre", x)
    routes = torch.sigmoid(b.routing_fn(y.mean((2, 3))))
    y = b.bn1(b.conv_pw(y, routes))
    y = b.se(b.bn2(b.conv_dw(y, routes)))
    return skipping(b, at, x, b.bn3(b.conv_pwl(y, routes)))


def universal(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.se(b.dw_mid(b.pw_exp(b.dw_start(at("pre", x)))))
    return skipping(b, at, x, b.layer_scale(b.dw_end(b.pw_proj(y))))


def mobile_attention(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b.conv_cpe_dw(x)
    return skipping(b, at, x, b.layer_scale(b.attn(b.norm(at("pre", x)))))


def timm_convnext(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.conv_dw(at("pre", x))
    if b.use_conv_mlp:
        y = b.mlp(b.norm(y))
    else:
        y = b.mlp(b.norm(y.movedim(1, -1))).movedim(-1, 1)
    if b.gamma is not None:
        y = y * b.gamma[:, None, None]
    return at("post", at("residual", y) + at("identity", b.shortcut(x)))


def timm_regnet(b: Any, at: At, x: Tensor) -> Tensor:
    y = at("residual", b.conv3(b.se(b.conv2(b.conv1(at("pre", x))))))
    if b.downsample is not None:
        y = y + at("identity", b.downsample(x))
    return at("out", b.act3(at("post", y)))


def byob(b: Any, at: At, x: Tensor) -> Tensor:
    names = {
        byobnet.BasicBlock: "conv1_kxk attn conv2_kxk attn_last",
        byobnet.BottleneckBlock: "conv1_1x1 conv2_kxk conv2b_kxk attn conv3_1x1 attn_last",
        byobnet.DarkBlock: "conv1_1x1 attn conv2_kxk attn_last",
        byobnet.EdgeBlock: "conv1_kxk attn conv2_1x1 attn_last",
        byobnet.SelfAttnBlock: "conv1_1x1 conv2_kxk self_attn post_attn conv3_1x1",
    }
    y = at("pre", x)
    for name in next(n for t, n in names.items() if isinstance(b, t)).split():
        y = getattr(b, name)(y)
    y = at("residual", y)
    if b.shortcut is not None:
        y = y + at("identity", b.shortcut(x))
    return at("out", F.relu(at("post", y)))


def dense(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.norm1(at("pre", x))
    y = b.norm2(b.conv1(b.relu1(y) if hasattr(b, "relu1") else y))
    return at("residual", b.conv2(b.relu2(y) if hasattr(b, "relu2") else y))


def vit_first(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b.ls1(b.attn(b.norm1(x)))
    return at("post", at("identity", x) + at("residual", b.ls2(b.mlp(b.norm2(at("pre", x))))))


def vit_last(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b.norm1(b.attn(x))
    return at("post", at("identity", x) + at("residual", b.norm2(b.mlp(at("pre", x)))))


def timm_swin(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b._attn(b.norm1(x))
    return at("post", at("identity", x) + at("residual", b.mlp(b.norm2(at("pre", x)))))


def timm_swin_v2(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b.norm1(b._attn(x))
    return at("post", at("identity", x) + at("residual", b.norm2(b.mlp(at("pre", x)))))


def torchvision_vit(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.ln_1(x)
    x = x + b.self_attention(y, y, y)[0]
    return at("post", at("identity", x) + at("residual", b.mlp(b.ln_2(at("pre", x)))))


def torchvision_swin(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b.attn(b.norm1(x))
    return at("post", at("identity", x) + at("residual", b.mlp(b.norm2(at("pre", x)))))


def torchvision_swin_v2(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b.norm1(b.attn(x))
    return at("post", at("identity", x) + at("residual", b.norm2(b.mlp(at("pre", x)))))


def torchvision_mobile(b: Any, at: At, x: Tensor) -> Tensor:
    body = next(getattr(b, n) for n in ("conv", "block", "layers") if hasattr(b, n))
    skips = b.apply_residual if hasattr(b, "apply_residual") else b.use_res_connect
    y = at("residual", body(at("pre", x)))
    return at("post", y + at("identity", x) if skips else y)


def torchvision_convnext(b: Any, at: At, x: Tensor) -> Tensor:
    y = at("residual", b.layer_scale * b.block(at("pre", x)))
    return at("post", y + at("identity", x))


def torchvision_regnet(b: Any, at: At, x: Tensor) -> Tensor:
    shortcut = x if b.proj is None else b.proj(x)
    total = at("identity", shortcut) + at("residual", b.f(at("pre", x)))
    return at("out", F.relu(at("post", total)))


def video_resnet(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.conv2(b.conv1(at("pre", x)))
    y = b.conv3(y) if hasattr(b, "conv3") else y
    shortcut = x if b.downsample is None else b.downsample(x)
    return at("out", F.relu(at("post", at("residual", y) + at("identity", shortcut))))


def transformers_resnet(b: Any, at: At, x: Tensor) -> Tensor:
    total = at("residual", b.layer(at("pre", x))) + at("identity", b.shortcut(x))
    return at("out", F.relu(at("post", total)))


def transformers_convnext(b: Any, at: At, x: Tensor) -> Tensor:
    y = b.act(b.pwconv1(b.layernorm(b.dwconv(at("pre", x)).movedim(1, -1))))
    y = b.pwconv2(b.grn(y) if hasattr(b, "grn") else y)
    if getattr(b, "layer_scale_parameter", None) is not None:
        y = b.layer_scale_parameter * y
    return at("post", at("identity", x) + at("residual", y.movedim(-1, 1)))


def transformers_vit(b: Any, at: At, x: Tensor) -> Tensor:
    x = x + b.attention(b.layernorm_before(x))[0]
    return at("post", at("identity", x) + at("residual", b.mlp(b.layernorm_after(at("pre", x)))))


def smp_senet_block(b: Any, at: At, x: Tensor) -> Tensor:
    y = F.relu(b.bn2(b.conv2(F.relu(b.bn1(b.conv1(at("pre", x)))))))
    y = at("residual", b.se_module(b.bn3(b.conv3(y))))
    shortcut = x if b.downsample is None else b.downsample(x)
    return at("out", F.relu(at("post", y + at("identity", shortcut))))


def smp_mbconv(b: Any, at: At, x: Tensor) -> Tensor:
    y = at("pre", x)
    if b._has_expansion:
        y = F.silu(b._bn0(b._expand_conv(y)))
    y = F.silu(b._bn1(b._depthwise_conv(y)))
    if b._has_se:
        y = y * torch.sigmoid(b._se_expand(F.silu(b._se_reduce(y.mean((2, 3), keepdim=True)))))
    y = at("residual", b._bn2(b._project_conv(y)))
    return at("post", y + at("identity", x) if b._has_drop_connect else y)


def projection(channels: int, out: int, stride: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def mbconv(expansion: int, channels: int, out: int, stride: int) -> tuple[Any, ...]:
    arguments = smp_efficientnet.BlockArgs(
        num_repeat=1,
        kernel_size=3,
        stride=[stride],
        expand_ratio=expansion,
        input_filters=channels,
        output_filters=out,
        se_ratio=0.25,
        id_skip=True,
    )
    _, parameters = smp_efficientnet.get_model_params("efficientnet-b0", {})
    return arguments, parameters


def video_block(block: type[nn.Module]) -> Callable[[], nn.Module]:
    last = 4 * block.expansion
    shortcut = nn.Sequential(nn.Conv3d(8, last, 1, 2, bias=False), nn.BatchNorm3d(last))
    return lambda: block(8, 4, video.Conv3DSimple, 2, shortcut)


LAYERS = byobnet.LayerFn()
V3 = tv_mobilenetv3.InvertedResidualConfig
MB, FUSED = tv.efficientnet.MBConvConfig, tv.efficientnet.FusedMBConvConfig
MAP, VIDEO, TOKENS, LAST = (3, 8, 8, 8), (3, 8, 4, 8, 8), (3, 17, 8), (3, 8, 8, 8)
GROUPS = {"norm_layer": lambda channels, **o: resnetv2.GroupNormAct(channels, 4, **o)}
PROJECTED = {**GROUPS, "proj_layer": resnetv2.DownsampleConv}
SE = {"attn_layer": lambda channels, **o: create_attn("se", channels, **o)}
HIDDEN = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
BLOCKS: list[tuple[Hand, tuple[int, ...], Callable[[], nn.Module]]] = [
    (torchvision_resnet, MAP, lambda: tv.resnet.BasicBlock(8, 8)),
    (torchvision_resnet, MAP, lambda: tv.resnet.Bottleneck(8, 4, 2, projection(8, 16))),
    (torchvision_resnet, MAP, lambda: quantized_resnet.QuantizableBasicBlock(8, 8)),
    (torchvision_resnet, MAP, lambda: quantized_resnet.QuantizableBottleneck(8, 2)),
    (timm_resnet, MAP, lambda: resnet.BasicBlock(8, 8, attn_layer="eca", drop_path=nn.Identity())),
    (timm_resnet, MAP, lambda: resnet.BasicBlock(8, 8, 2, projection(8, 8), aa_layer=nn.AvgPool2d)),
    (timm_resnet, MAP, lambda: resnet.Bottleneck(8, 4, 2, projection(8, 16), attn_layer="se")),
    (hybrid, MAP, lambda: resnetv2.Bottleneck(8, 16, stride=2, **PROJECTED)),
    (preactivated, MAP, lambda: resnetv2.PreActBasic(8, **GROUPS)),
    (preactivated, MAP, lambda: resnetv2.PreActBasic(8, 16, stride=2, **PROJECTED)),
    (preactivated, MAP, lambda: resnetv2.PreActBottleneck(8, 16, stride=2, **PROJECTED)),
    (regnet_v, MAP, lambda: regnet.PreBottleneck(8, 8)),
    (regnet_v, MAP, lambda: regnet.PreBottleneck(8, 16, 2, downsample="")),
    (normaliser_free, MAP, lambda: nfnet.NormFreeBlock(8, alpha=0.2, act_layer=nn.ReLU, **SE)),
    (
        normaliser_free,
        MAP,
        lambda: nfnet.NormFreeBlock(
            8, 16, 2, beta=0.7, act_layer=nn.ReLU, reg=False, extra_conv=True, skipinit=True, **SE
        ),
    ),
    (conv_bn_act, MAP, lambda: mobile.ConvBnAct(8, 8, 3, skip=True)),
    (separable, MAP, lambda: mobile.DepthwiseSeparableConv(8, 8)),
    (separable, MAP, lambda: mobile.DepthwiseSeparableConv(8, 12, s2d=1)),
    (inverted, MAP, lambda: mobile.InvertedResidual(8, 8, exp_ratio=2.0)),
    (
        inverted,
        MAP,
        lambda: mobile.InvertedResidual(8, 12, 3, 2, se_layer=mobile.SqueezeExcite),
    ),
    (edge, MAP, lambda: mobile.EdgeResidual(8, 8, exp_ratio=2.0)),
    (conditional, MAP, lambda: mobile.CondConvResidual(8, 8, num_experts=2)),
    (universal, MAP, lambda: mobile.UniversalInvertedResidual(8, 8, 3, 5, 3)),
    (mobile_attention, MAP, lambda: mobile.MobileAttention(8, 8, num_heads=2, use_cpe=True)),
    (timm_convnext, MAP, lambda: convnext.ConvNeXtBlock(8, ls_init_value=0.5)),
    (timm_convnext, MAP, lambda: convnext.ConvNeXtBlock(8, 16, stride=2, conv_mlp=True)),
    (timm_convnext, MAP, lambda: convnext.ConvNeXtBlock(8, use_grn=True, ls_init_value=None)),
    (timm_regnet, MAP, lambda: regnet.Bottleneck(8, 16, 2)),
    (timm_regnet, MAP, lambda: regnet.Bottleneck(8, 16, 2, downsample="", linear_out=True)),
    (byob, MAP, lambda: byobnet.BasicBlock(8, 8, layers=LAYERS)),
    (byob, MAP, lambda: byobnet.BottleneckBlock(8, 16, stride=2, extra_conv=True, layers=LAYERS)),
    (byob, MAP, lambda: byobnet.DarkBlock(8, 16, stride=2, layers=LAYERS)),
    (byob, MAP, lambda: byobnet.EdgeBlock(8, 16, stride=2, downsample="", layers=LAYERS)),
    (
        byob,
        MAP,
        lambda: byobnet.SelfAttnBlock(
            8, 8, layers=byobnet.LayerFn(self_attn=lambda c, **_: nn.Conv2d(c, c, 3, 1, 1))
        ),
    ),
    (dense, MAP, lambda: densenet.DenseLayer(8, 4, 2)),
    (dense, MAP, lambda: tv.densenet._DenseLayer(8, 4, 2, 0.0)),
    (vit_first, TOKENS, lambda: vision_transformer.Block(8, 2, init_values=0.5)),
    (vit_last, TOKENS, lambda: vision_transformer.ResPostBlock(8, 2)),
    (vit_first, TOKENS, lambda: vision_transformer_relpos.RelPosBlock(8, 2)),
    (vit_last, TOKENS, lambda: vision_transformer_relpos.ResPostRelPosBlock(8, 2)),
    (timm_swin, LAST, lambda: swin_transformer.SwinTransformerBlock(8, (8, 8), 2, window_size=4)),
    (
        timm_swin_v2,
        LAST,
        lambda: swin_transformer_v2.SwinTransformerV2Block(8, (8, 8), 2, 4, shift_size=2),
    ),
    (
        torchvision_vit,
        TOKENS,
        lambda: tv.vision_transformer.EncoderBlock(2, 8, 16, 0.0, 0.0),
    ),
    (
        torchvision_swin,
        LAST,
        lambda: tv.swin_transformer.SwinTransformerBlock(8, 2, [4, 4], [2, 2]),
    ),
    (
        torchvision_swin_v2,
        LAST,
        lambda: tv.swin_transformer.SwinTransformerBlockV2(8, 2, [4, 4], [0, 0]),
    ),
    (torchvision_mobile, MAP, lambda: tv.mobilenetv2.InvertedResidual(8, 8, 1, 2)),
    (torchvision_mobile, MAP, lambda: quantized_v2.QuantizableInvertedResidual(8, 8, 1, 2)),
    (
        torchvision_mobile,
        MAP,
        lambda: tv_mobilenetv3.InvertedResidual(
            V3(8, 3, 16, 8, True, "HS", 1, 1, 1.0), nn.BatchNorm2d
        ),
    ),
    (
        torchvision_mobile,
        MAP,
        lambda: quantized_v3.QuantizableInvertedResidual(
            V3(8, 3, 16, 8, False, "RE", 1, 1, 1.0), nn.BatchNorm2d
        ),
    ),
    (
        torchvision_mobile,
        MAP,
        lambda: tv.efficientnet.MBConv(MB(2, 3, 2, 8, 16, 1), 0.2, nn.BatchNorm2d),
    ),
    (
        torchvision_mobile,
        MAP,
        lambda: tv.efficientnet.FusedMBConv(FUSED(2, 3, 1, 8, 8, 1), 0.2, nn.BatchNorm2d),
    ),
    (torchvision_mobile, MAP, lambda: tv.mnasnet._InvertedResidual(8, 8, 3, 1, 2)),
    (torchvision_convnext, MAP, lambda: tv.convnext.CNBlock(8, 0.5, 0.2)),
    (
        torchvision_regnet,
        MAP,
        lambda: tv.regnet.ResBottleneckBlock(8, 16, 2, nn.BatchNorm2d, nn.ReLU, 4, se_ratio=0.25),
    ),
    (video_resnet, VIDEO, video_block(video.BasicBlock)),
    (video_resnet, VIDEO, video_block(video.Bottleneck)),
    (transformers_resnet, MAP, lambda: ResNetBasicLayer(8, 16, 2)),
    (transformers_resnet, MAP, lambda: ResNetBottleNeckLayer(8, 8)),
    (transformers_resnet, MAP, lambda: RegNetXLayer(RegNetConfig(groups_width=4), 8, 16, 2)),
    (transformers_resnet, MAP, lambda: RegNetYLayer(RegNetConfig(groups_width=4), 8, 8)),
    (
        transformers_convnext,
        MAP,
        lambda: ConvNextLayer(ConvNextConfig(layer_scale_init_value=0.5), 8),
    ),
    (transformers_convnext, MAP, lambda: ConvNextV2Layer(ConvNextV2Config(), 8)),
    (transformers_vit, TOKENS, lambda: ViTLayer(ViTConfig(**HIDDEN))),
    (smp_senet_block, MAP, lambda: smp_senet.SEBottleneck(8, 2, 1, 2)),
    (smp_senet_block, MAP, lambda: smp_senet.SEResNetBottleneck(8, 4, 1, 2, 2, projection(8, 16))),
    (smp_senet_block, MAP, lambda: smp_senet.SEResNeXtBottleneck(8, 2, 1, 2, base_width=64)),
    (smp_mbconv, MAP, lambda: smp_efficientnet.MBConvBlock(*mbconv(2, 8, 8, 1))),
    (smp_mbconv, MAP, lambda: smp_efficientnet.MBConvBlock(*mbconv(1, 8, 12, 2))),
]


class Recording:
    """Calls `layer` at `site`, and notes the sites that are passed."""

    def __init__(self, site: str, layer: nn.Module) -> None:
        self.site, self.layer = site, layer
        self.passed: list[str] = []

    def __call__(self, name: str, x: Tensor) -> Tensor:
        self.passed.append(name)
        return self.layer(x) if name == self.site else x


def varied(block: nn.Module) -> nn.Module:
    """The block in evaluation, with statistics and parameters that are not the initial ones."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for name, buffer in block.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return block.eval()


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_site_equals_the_block_by_hand(number: int) -> None:
    torch.manual_seed(number)
    by_hand, shape, build = BLOCKS[number]
    plain, x = varied(build()), torch.randn(shape)
    view: Any = copy.copy(plain)
    view.__class__ = sited_type(plain)
    with torch.no_grad():
        untouched = by_hand(plain, lambda _, y: y, x)
        torch.testing.assert_close(plain(x), untouched, atol=1e-6, rtol=1e-5)
        for site in view.sites():
            block: Any = copy.deepcopy(plain)
            insert(nn.Sequential(block), CNSNSpec(kind="sn", position=site))
            varied(block.cnsn)
            at = Recording(site, block.cnsn)
            expected = by_hand(block, at, x)
            # What the forward by hand passes is what the block says it has.
            assert set(at.passed) == set(block.sites()) and at.passed.count(site) == 1
            torch.testing.assert_close(block(x), expected, atol=1e-6, rtol=1e-5)
            assert not torch.allclose(expected, untouched, atol=1e-3)


def test_every_known_block_is_compared() -> None:
    compared = {type(block): sited_type(block) for block in (build() for *_, build in BLOCKS)}
    shipped = {t: s for t, s in _SITED.items() if s.__module__.startswith("cnsn.")}
    assert compared == shipped


def test_a_version_without_a_family_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def missing(name: str) -> Any:
        if name.endswith("timm.inverted"):
            raise AttributeError("module has no attribute 'MobileAttention'")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.warns(UserWarning, match=r"timm\.inverted stay unknown.*'MobileAttention'"):
        backbones._load.__wrapped__("timm")


@pytest.mark.parametrize("number", range(0, len(BLOCKS), 6))
def test_a_block_with_more_in_it_is_refused_by_name(number: int) -> None:
    block = BLOCKS[number][2]()
    block.adapter = nn.Identity()
    net = nn.Sequential(block)
    with pytest.raises(ValueError, match=rf"{type(block).__name__}.*adapter of its own"):
        insert(net, CNSNSpec(kind="cn", position="pre"))
    assert not isinstance(block, SitedBlock)
    del block.adapter
    block.forward = block.forward
    with pytest.raises(ValueError, match="forward of its own"):
        insert(net, CNSNSpec(kind="cn", position="pre"))
