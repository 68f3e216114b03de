"""SegFormer's encoder and decoder (Xie et al., NeurIPS 2021, arXiv 2105.15203, section 3), three stages at strides 2, 4 and 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.ops.resize import Resize

KERNELS = (7, 3, 3)  # of the overlapping patches, each of stride 2


def as_tokens(x: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, H W, D)."""
    return x.flatten(2).transpose(1, 2)


def as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H W, D) -> (B, D, H, W)."""
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], height, width)


class Attention(nn.Module):
    """Keys and values are of a map that a convolution of kernel and stride `reduction` has made smaller (eqs. 1 and 2)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = heads  # the name by which pruners know attention, whose widths are wired in
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.project = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        few = tokens
        if self.reduce is not None and self.norm is not None:
            few = self.norm(as_tokens(self.reduce(as_map(tokens, height, width))))
        q, k, v = (
            layer(each).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, each in ((self.query, tokens), (self.key, few), (self.value, few))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D / heads)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out


class MixFfn(nn.Module):
    """An MLP with a depthwise 3x3 convolution before its GELU, which tells positions (eq. 3)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * width
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        mixed = self.mix(as_map(self.widen(tokens), height, width))
        out: Tensor = self.narrow(F.gelu(as_tokens(mixed)))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int, reduction: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads, reduction), MixFfn(width, ratio)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens), height, width)
        out: Tensor = tokens + self.mlp(self.norm2(tokens), height, width)
        return out


class Embed(nn.Module):
    """Overlapping patches: a convolution of stride 2, then a norm over the channels; (B, C, H, W) -> (B, D, H/2, W/2)."""

    def __init__(self, c_in: int, width: int, kernel: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(c_in, width, kernel, 2, kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        return as_map(self.norm(as_tokens(x)), *x.shape[-2:])


class Stage(nn.Module):
    """Blocks and a norm, (B, D, H, W) -> (B, D, H, W). The size is a constant: files have no shape arithmetic."""

    def __init__(self, width: int, depth: int, heads: int, reduction: int, ratio: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.blocks = nn.ModuleList(Block(width, heads, reduction, ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = as_tokens(x)
        for block in self.blocks:
            tokens = block(tokens, *self.size)
        return as_map(self.norm(tokens), *self.size)


class TinyMit(nn.Module):
    """Images (B, C, H, W) -> logits (B, K, H, W). See `TinyMitSpec` for the arguments; `size` is (H, W), `sizes` the stages'."""

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        reductions: Sequence[int],
        ratio: int,
        dec: int,
        size: tuple[int, int],
        sizes: Sequence[tuple[int, int]],
        n_classes: int,
    ) -> None:
        super().__init__()
        before = (channels, *widths[:-1])
        self.embeds = nn.ModuleList(map(Embed, before, widths, KERNELS))
        self.stages = nn.ModuleList(
            Stage(width, depth, n_heads, reduction, ratio, each)
            for width, depth, n_heads, reduction, each in zip(widths, depths, heads, reductions, sizes, strict=True)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, dec, 1) for width in widths)
        fuse = nn.Conv2d(len(widths) * dec, dec, 1, bias=False)
        self.head = nn.Sequential(fuse, nn.BatchNorm2d(dec), nn.ReLU(inplace=True))
        self.classifier = nn.Sequential(nn.Conv2d(dec, n_classes, 1), Resize(size))
        self.enlarge = Resize(sizes[0])

    def forward(self, image: Tensor) -> Tensor:
        x = image
        maps: list[Tensor] = []
        for embed, stage, lateral in zip(self.embeds, self.stages, self.laterals, strict=True):
            x = stage(embed(x))
            maps.append(self.enlarge(lateral(x)) if maps else lateral(x))
        logits: Tensor = self.classifier(self.head(torch.cat(maps, 1)))
        return logits
