"""Maps of another size, as decoders of dense answers make them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Resize(nn.Module):
    """(B, C, h, w) -> (B, C, *size), bilinear. The size is a constant: files have no shape arithmetic."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False)
