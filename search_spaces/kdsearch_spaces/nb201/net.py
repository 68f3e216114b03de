"""Networks of NAS-Bench-201 cells (Dong and Yang, ICLR 2020, arXiv 2001.00326, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (node, its input), in the order of the benchmark's text
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution without bias, batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(), nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out)
        )


class Cell(nn.Module):
    """Node j = sum over its inputs i of op_ij(node i); the cell's output is node 3. (B, C, H, W) -> (B, C, H, W).

    An edge `none` is absent. A node that nothing reaches is zero, and convolutions read it as such: the benchmark's cells have
    them too. A cell without any path gives zeros.
    """

    def __init__(self, width: int, ops: Sequence[str]) -> None:
        super().__init__()
        present = {edge: op for edge, op in zip(EDGES, ops, strict=True) if op != "none"}
        self.edges = nn.ModuleDict({f"{node}_{source}": operation(op, width) for (node, source), op in present.items()})
        self._order = tuple(present)

    def forward(self, x: Tensor) -> Tensor:
        nodes: list[Tensor | None] = [x, None, None, None]
        for (node, source), op in zip(self._order, self.edges.values(), strict=True):
            given, had = nodes[source], nodes[node]
            if given is None and not isinstance(op, ReLUConvBN):
                continue
            out = op(torch.zeros_like(x) if given is None else given)
            nodes[node] = out if had is None else had + out
        return torch.zeros_like(x) if nodes[3] is None else nodes[3]


def operation(op: str, width: int) -> nn.Module:
    """The module of an edge, `none` excepted."""
    if op in KERNELS:
        return ReLUConvBN(width, width, KERNELS[op])
    return nn.Identity() if op == "skip_connect" else nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


class Reduction(nn.Module):
    """Halves the image and doubles the width: two convolutions beside average pooling and a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = ReLUConvBN(c_in, c_out, 3, stride=2)
        self.conv2 = ReLUConvBN(c_out, c_out, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x)) + self.shortcut(x)
        return out


class Nb201Net(nn.Module):
    """Images (B, channels, H, W) -> logits (B, K): stem, three stages of `cells` cells with a reduction between, linear layer.

    The last stage ends with the batch norm and ReLU before the pooling. Kaiming initialisation.
    """

    def __init__(self, channels: int, ops: Sequence[str], width: int, cells: int, n_outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        stages = []
        for index in range(3):
            here = width * 2**index
            parts: list[nn.Module] = [Reduction(here // 2, here)] if index else []
            parts += [Cell(here, ops) for _ in range(cells)]
            if index == 2:
                parts += [nn.BatchNorm2d(here), nn.ReLU()]
            stages.append(nn.Sequential(*parts))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(4 * width, n_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.stages(self.stem(x))))
        return logits
