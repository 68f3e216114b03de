"""Three convolutional stages whose maps are summed from the coarsest down, as in feature pyramids (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdsearch.ops.resize import Resize


def unit(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class TopDown(nn.Module):
    """Maps from fine to coarse -> one of the finest size, `width` channels: 1x1 convolutions, coarser ones enlarged and added."""

    def __init__(self, widths: Sequence[int], sizes: Sequence[tuple[int, int]], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(each, width, 1) for each in widths)
        self.resizes = nn.ModuleList(Resize(size) for size in sizes[:-1])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        sides = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        found = sides[-1]
        for side, resize in zip(sides[-2::-1], list(self.resizes)[::-1], strict=True):
            found = side + resize(found)
        out: Tensor = found
        return out


class Seg(nn.Module):
    """Images (B, C, H, W) -> logits (B, K, H, W).

    Args:
        widths: of the stages, at strides 2, 4 and 8; depth: convolutions of each; dec: channels of the decoder.
        size: (H, W); sizes: of the stages' maps.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        depth: int,
        dec: int,
        size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        n_classes: int,
    ) -> None:
        super().__init__()
        self.stem = unit(channels, widths[0], 2)
        stages, c_in = [], widths[0]
        for i, width in enumerate(widths):
            units = [unit(width if j else c_in, width, 2 if i and not j else 1) for j in range(depth)]
            stages.append(nn.Sequential(*units))
            c_in = width
        self.stages = nn.ModuleList(stages)
        self.decoder = TopDown(widths, sizes, dec)
        self.head = unit(dec, dec)
        self.classifier = nn.Sequential(nn.Conv2d(dec, n_classes, 1), Resize(size))

    def forward(self, image: Tensor) -> Tensor:
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        logits: Tensor = self.classifier(self.head(self.decoder(maps)))
        return logits
