"""Small networks with taps, for tests and notebooks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.kinds import Model, traced_taps


class Residual(nn.Module):
    """conv-BN-ReLU-conv-BN plus a (1x1-projected) shortcut, then ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        is_same = c_in == c_out and stride == 1
        self.short = nn.Identity() if is_same else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.short(x))


class SmallResNet(nn.Module):
    def __init__(self, widths: tuple[int, ...], depth: int, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]))
        stages, c_in = [], widths[0]
        for i, width in enumerate(widths):
            blocks = [Residual(c_in if k == 0 else width, width, 2 if i and k == 0 else 1) for k in range(depth)]
            stages.append(nn.Sequential(*blocks))
            c_in = width
        self.stages = nn.ModuleList(stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(image))
        for stage in self.stages:
            x = stage(x)
        result: Tensor = self.classifier(self.pool(x))
        return result


def small_resnet(
    widths: tuple[int, ...] = (4, 8),
    depth: int = 1,
    classes: int = 5,
    image: tuple[int, int, int] = (3, 8, 8),
    seed: int = 0,
    name: str = "small_resnet",
) -> Model:
    """A residual network with taps `stage[i]` and `penultimate`; milliseconds a pass. Leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SmallResNet(widths, depth, classes, image[0])
    paths = {f"stage[{i}]": f"stages.{i}" for i in range(len(widths))} | {"penultimate": "pool"}
    taps = traced_taps(module, [torch.zeros(1, *image)], paths)
    return Model(module, ("image",), taps, name=name)


def noise_batch(
    n: int = 8, classes: int = 5, image: tuple[int, int, int] = (3, 8, 8), seed: int = 0
) -> dict[str, Tensor]:
    """`image` from N(0, 1) and `label` uniform."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(n, *image, generator=generator),
        "label": torch.randint(0, classes, (n,), generator=generator),
    }
