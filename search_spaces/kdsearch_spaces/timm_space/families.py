"""How a spec becomes a timm network: one function a family, (spec, C, (H, W), K) -> module.

ImageNet's stems divide the resolution by 4 before anything is seen; on small images they keep more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

if TYPE_CHECKING:
    from kdsearch_spaces.timm_space.space import TimmSpec

SMALL = 96  # pixels of the shorter side: below, convolutional stems keep the full resolution
PATCHED = 48  # from here on convnext takes patches of 4


def resnet(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """Three-convolution stem with pooling; below 96 pixels one 3x3 convolution of stride 1 and no pooling instead.

    `zero_init_last`, timm's default, would hide every residual branch from training-free scores.
    """
    block: Any = Bottleneck if spec.block == "bottleneck" else BasicBlock
    net = ResNet(
        block,
        spec.depths,
        num_classes=n_outputs,
        in_chans=channels,
        channels=spec.widths,
        stem_type="deep",  # the only stem whose width is not fixed at 64
        stem_width=(spec.widths[0] + 1) // 2,
        zero_init_last=False,
    )
    if min(size) < SMALL:
        conv = nn.Conv2d(channels, 2 * ((spec.widths[0] + 1) // 2), 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        net.add_module("conv1", conv)
        net.add_module("maxpool", nn.Identity())
    return net


def mobilenet(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """Inverted residuals with ReLU6 (Sandler et al., CVPR 2018), which INT8 kernels fuse; the head is 4 times the last width."""
    stages = [
        [f"ir_r{depth}_k3_s{2 if index else 1}_e{spec.expansion}_c{width}"]
        for index, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True))
    ]
    net = EfficientNet(
        decode_arch_def(stages),  # type: ignore[no-untyped-call]  # timm's own
        num_classes=n_outputs,
        num_features=4 * spec.widths[-1],
        in_chans=channels,
        stem_size=spec.widths[0],
        round_chs_fn=_exactly,
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-5),
    )
    if min(size) < SMALL:
        net.conv_stem.stride = (1, 1)
    return net


def _exactly(channels: int, *_: Any, **__: Any) -> int:
    return int(channels)  # timm rounds to multiples of 8: two specs would be one network


def convnext(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """Stem patches of 4, or of 1 below 48 pixels, without layer scale: at 1e-6 it would hide every branch.

    Patches of 2 are no choice: timm then halves the first stage too, which is 4 at a lesser quality.
    """
    patch = 1 if min(size) < PATCHED else 4
    return ConvNeXt(channels, n_outputs, depths=spec.depths, dims=spec.widths, patch_size=patch, ls_init_value=None)


def vit(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """Mean-pooled tokens of a `grid` x `grid` (at least) image, no class token; what a patch does not cover is cut off."""
    patch = (max(1, size[0] // spec.grid), max(1, size[1] // spec.grid))
    return VisionTransformer(
        size,
        patch,
        channels,
        n_outputs,
        global_pool="avg",
        class_token=False,
        embed_dim=spec.dim,
        depth=spec.depth,
        num_heads=spec.heads,
    )


FAMILIES: Mapping[str, Callable[[TimmSpec, int, tuple[int, int], int], nn.Module]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "convnext": convnext,
    "vit": vit,
}
