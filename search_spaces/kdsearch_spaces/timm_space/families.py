"""How a spec becomes a timm network: one function a family, (spec, C, (H, W), K) -> module.

ImageNet's stems divide the resolution by 4 before anything is seen; on small images they keep more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from timm.models._efficientnet_builder import decode_arch_def
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet, _gen_efficientnet
from timm.models.mlp_mixer import MlpMixer
from timm.models.mobilenetv3 import _gen_mobilenet_v3
from timm.models.regnet import RegNet, RegNetCfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from kdsearch_spaces.timm_space.named import exact, named

if TYPE_CHECKING:
    from kdsearch_spaces.timm_space.spec import TimmSpec

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
    return _gentle(net, size)


def _exactly(channels: int, *_: Any, **__: Any) -> int:
    return int(channels)  # timm rounds to multiples of 8: two specs would be one network


def mobilenetv3(
    spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int, variant: str = "large"
) -> nn.Module:
    """The published stages (Howard et al., ICCV 2019) times two multipliers; channels are rounded to multiples of 8."""
    net: nn.Module = _gen_mobilenet_v3(
        f"mobilenetv3_{variant}_100",
        spec.width_multiplier,
        depth_multiplier=spec.depth_multiplier,
        in_chans=channels,
        num_classes=n_outputs,
    )
    return _gentle(net, size)


def efficientnet(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """EfficientNet-B0's stages (Tan and Le, ICML 2019) times two multipliers; channels are rounded to multiples of 8."""
    net: nn.Module = _gen_efficientnet(  # type: ignore[no-untyped-call]  # timm's own
        "efficientnet_b0", spec.width_multiplier, spec.depth_multiplier, in_chans=channels, num_classes=n_outputs
    )
    return _gentle(net, size)


def _gentle(net: nn.Module, size: tuple[int, int]) -> nn.Module:
    """With a stem of stride 1 for small images."""
    if min(size) < SMALL:
        stem = net.get_submodule("conv_stem")
        assert isinstance(stem, nn.Conv2d)
        stem.stride = (1, 1)
    return net


def regnet(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """Widths w0 + wa j of block j, quantised to powers of wm (Radosavovic et al., CVPR 2020, eqs. 2 to 4): X, or Y with SE."""
    cfg = RegNetCfg(
        depth=spec.blocks,
        w0=spec.w0,
        wa=spec.wa,
        wm=spec.wm,
        group_size=spec.group_size,
        se_ratio=0.25 if spec.squeeze_excite else 0.0,
    )
    net = RegNet(cfg, channels, n_outputs, zero_init_last=False)
    if min(size) < SMALL:
        net.stem.conv.stride = (1, 1)
    return net


def convnext(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """Stem patches of 4, or of 1 below 48 pixels, without layer scale: at 1e-6 it would hide every branch.

    Patches of 2 are no choice: timm then halves the first stage too, which is 4 at a lesser quality.
    """
    patch = 1 if min(size) < PATCHED else 4
    return ConvNeXt(channels, n_outputs, depths=spec.depths, dims=spec.widths, patch_size=patch, ls_init_value=None)


def patch_of(size: tuple[int, int], grid: int) -> tuple[int, int]:
    """Of an image that is cut into `grid` x `grid` (at least) patches."""
    return max(1, size[0] // grid), max(1, size[1] // grid)


def vit(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """Mean-pooled tokens of a `grid` x `grid` (at least) image, no class token; what a patch does not cover is cut off."""
    return VisionTransformer(
        size,
        patch_of(size, spec.grid),
        channels,
        n_outputs,
        global_pool="avg",
        class_token=False,
        embed_dim=spec.dim,
        depth=spec.depth,
        num_heads=spec.heads,
    )


def mixer(spec: TimmSpec, channels: int, size: tuple[int, int], n_outputs: int) -> nn.Module:
    """MLPs over patches and over channels in turn (Tolstikhin et al., NeurIPS 2021); patches as in `vit`."""
    patch: Any = patch_of(size, spec.grid)
    image: Any = size  # pairs are taken, timm's annotations know numbers only
    return MlpMixer(n_outputs, image, channels, patch, spec.depth, spec.dim)


FAMILIES: Mapping[str, Callable[[TimmSpec, int, tuple[int, int], int], nn.Module]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "mobilenetv3_small": partial(mobilenetv3, variant="small"),
    "mobilenetv3_large": mobilenetv3,
    "efficientnet": efficientnet,
    "regnet": regnet,
    "convnext": convnext,
    "vit": vit,
    "mixer": mixer,
    "named": named,
    "exact": exact,
}
