"""Networks of inverted residuals (MobileNetV2, Sandler et al., CVPR 2018; squeeze-excitation and hard swish of MobileNetV3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

Activation = Literal["relu", "relu6", "hardswish"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}


@dataclass(frozen=True)
class Shape:
    """One block: `hidden` channels between its 1x1 convolutions, `squeezed` in the squeeze-excitation (0: there is none)."""

    c_in: int
    c_out: int
    hidden: int
    kernel: int
    stride: int
    squeezed: int

    @property
    def is_expanded(self) -> bool:
        return self.hidden != self.c_in

    @property
    def is_linked(self) -> bool:
        return self.stride == 1 and self.c_in == self.c_out


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without activation: (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride)).

    Not expanded, the first 1x1 convolution is left out. Added to x where the shapes are equal. Nothing works in place.
    """

    def __init__(self, shape: Shape, activation: Activation) -> None:
        super().__init__()
        hidden, act = shape.hidden, ACTIVATIONS[activation]
        self.branch = nn.Sequential()
        if shape.is_expanded:
            self.branch.add_module("expand", convolution(shape.c_in, hidden, 1, act=act))
        self.branch.add_module("depthwise", convolution(hidden, hidden, shape.kernel, shape.stride, hidden, act))
        if shape.squeezed:
            gate = SqueezeExcitation(hidden, shape.squeezed, scale_activation=nn.Hardsigmoid)
            self.branch.add_module("squeeze_excite", gate)
        self.branch.add_module("project", convolution(hidden, shape.c_out, 1))
        self.is_linked = shape.is_linked

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x)
        return x + out if self.is_linked else out


class MobileNet(nn.Module):
    """Images (B, C, H, W) -> logits (B, K): 3x3 stem, stages, 1x1 head where `head` is not 0, global mean, linear layer.

    Kaiming initialisation by what a filter of a group sees; the last batch norm of a branch starts at 1, so that training-free
    scores see it.
    """

    def __init__(
        self,
        channels: int,
        stem: int,
        stem_stride: int,
        stages: Sequence[Sequence[Shape]],
        head: int,
        activation: Activation,
        n_outputs: int,
    ) -> None:
        super().__init__()
        act, c_last = ACTIVATIONS[activation], stages[-1][-1].c_out
        self.stem = convolution(channels, stem, 3, stem_stride, act=act)
        self.stages = nn.Sequential(
            *(nn.Sequential(*(InvertedResidual(shape, activation) for shape in stage)) for stage in stages)
        )
        self.head = convolution(c_last, head, 1, act=act) if head else nn.Identity()
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(head or c_last, n_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.head(self.stages(self.stem(x)))))
        return logits


def convolution(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), *([act()] if act else []))
