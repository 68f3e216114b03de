"""A foreign network on the study's data: images brought to the size and channels that it wants."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import DataError
from kdsearch.kinds import IO
from kdsearch.kit.networks import described


class Fitted(nn.Module):
    """net(resize(repeat(image))); the network is `net`.

    Args:
        channels: what the network reads; one channel of the data set is repeated.
        size: (H, W) that images are resized to, bilinear; None = as they are.
    """

    def __init__(self, net: nn.Module, channels: int, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net, self.channels, self.size = net, channels, size

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        if image.shape[1] != self.channels:
            image = image.expand(-1, self.channels, -1, -1)
        if self.size is not None and self.size != tuple(image.shape[-2:]):
            shrinks = self.size[0] < image.shape[-2] or self.size[1] < image.shape[-1]
            image = F.interpolate(image, self.size, mode="bilinear", align_corners=False, antialias=shrinks)
        logits: Tensor = self.net(image)
        return logits


def image_of(io: IO, who: str) -> tuple[str, int, int, int]:
    """(name, C, H, W) of the one input. Raise DataError when it is no image of fixed size."""
    shape = io.inputs[0].shape if len(io.inputs) == 1 else ()
    if len(shape) != 3 or None in shape:
        raise DataError(f"teacher {who}: the inputs are {described(io.inputs)}", expected="one image (C, H, W)")
    channels, height, width = (size or 0 for size in shape)
    return io.inputs[0].name, channels, height, width


def n_classes(io: IO, who: str) -> int:
    shape = io.outputs[0].shape if len(io.outputs) == 1 else ()
    if len(shape) != 1 or shape[0] is None:
        raise DataError(f"teacher {who}: the outputs are {described(io.outputs)}", expected="one vector (K,)")
    return shape[0]
