"""The plain networks of Zen-NAS: a stem, stages of convolutions and residual units, global mean, linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdsearch_spaces.masternet.structure import Unit

EPS = 1e-3  # of batch norms


class ConvUnit(nn.Sequential):
    """relu(bn(conv(x))): (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.add_module("conv1", convolution(unit.c_in, unit.c_out, unit.kernel, unit.stride))
        self.add_module("bn1", nn.BatchNorm2d(unit.c_out, eps=EPS))
        self.add_module("relu", nn.ReLU())


class ResidualUnit(nn.Module):
    """relu(branch(x) + shortcut(x)), or relu(branch(x)) where links are off; shapes as of `ConvUnit`.

    KxKx: the first convolution has the stride. K1KxK1: the middle one. Where the shape changes the shortcut is a projection.
    No ReLU works in place, so that taps and activation codes see each one's output.
    """

    def __init__(self, unit: Unit, residual: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential()
        for index, (c_in, c_out, kernel, stride) in enumerate(convolutions(unit), 1):
            if index > 1:
                self.branch.add_module(f"relu{index - 1}", nn.ReLU())
            self.branch.add_module(f"conv{index}", convolution(c_in, c_out, kernel, stride))
            self.branch.add_module(f"bn{index}", nn.BatchNorm2d(c_out, eps=EPS))
        self.shortcut: nn.Module | None = nn.Identity() if residual else None
        if residual and is_projected(unit):
            self.shortcut = nn.Sequential(
                convolution(unit.c_in, unit.c_out, 1, unit.stride), nn.BatchNorm2d(unit.c_out, eps=EPS)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.branch(x)
        if self.shortcut is not None:
            h = h + self.shortcut(x)
        out: Tensor = self.relu(h)
        return out


class MasterNet(nn.Module):
    """Images (B, C, H, W) -> logits (B, K). Kaiming initialisation; the last batch norm of a branch starts at 1, not 0."""

    def __init__(self, stem: Unit, stages: Sequence[Sequence[Unit]], residual: bool, n_outputs: int) -> None:
        super().__init__()

        def made(unit: Unit) -> nn.Module:
            return ConvUnit(unit) if unit.kind == "conv" else ResidualUnit(unit, residual)

        self.stem = made(stem)
        self.stages = nn.Sequential(*(nn.Sequential(*map(made, stage)) for stage in stages))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(stages[-1][-1].c_out, n_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.stages(self.stem(x))))
        return logits


def convolution(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)


def convolutions(unit: Unit) -> list[tuple[int, int, int, int]]:
    """(C_in, C_out, kernel, stride) of the unit's convolutions, a projection aside."""
    if unit.kind == "conv":
        return [(unit.c_in, unit.c_out, unit.kernel, unit.stride)]
    inner = unit.bottleneck
    if unit.kind == "kxk":
        return [(unit.c_in, inner, unit.kernel, unit.stride), (inner, unit.c_out, unit.kernel, 1)]
    return [(unit.c_in, inner, 1, 1), (inner, inner, unit.kernel, unit.stride), (inner, unit.c_out, 1, 1)]


def is_projected(unit: Unit) -> bool:
    return unit.kind != "conv" and (unit.stride != 1 or unit.c_in != unit.c_out)
