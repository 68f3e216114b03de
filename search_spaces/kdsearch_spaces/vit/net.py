"""The vision transformer (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929, section 3.1), norms before the branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["mean", "class"]


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, D) -> (B, N, D). Query, key and value are layers of their own: one can be read or cut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads  # the name by which pruners know attention, whose widths are wired in
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D / heads)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): eqs. 2 and 3; (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Stem(nn.Module):
    """Images (B, C, H, W) -> tokens (B, N, D): one a patch, row by row, after the class token where there is one (eq. 1)."""

    def __init__(self, channels: int, width: int, patch: int, grid: tuple[int, int], has_class: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if has_class else None
        self.position = nn.Parameter(torch.empty(1, grid[0] * grid[1] + has_class, width))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.patches(image).flatten(2).transpose(1, 2)  # (B, H W, D)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        return tokens + self.position


class Pool(nn.Module):
    """(B, N, D) -> (B, D): the mean of the tokens, or the first, which is the class token."""

    def __init__(self, pool: Pooling) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.pool == "class" else tokens.mean(1)


class Vit(nn.Module):
    """Images (B, C, H, W) -> logits (B, K). `stages` are the blocks in groups, each a tap; the last norm is before the pooling.

    Linear layers start as in the authors' code: Glorot uniform, no bias, and the patches' convolution as one linear layer.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        patch: int,
        width: int,
        heads: int,
        mlp_ratio: int,
        groups: Sequence[int],
        pool: Pooling,
        n_outputs: int,
    ) -> None:
        super().__init__()
        self.stem = Stem(channels, width, patch, grid, pool == "class")
        self.stages = nn.Sequential(
            *(nn.Sequential(*(Block(width, heads, mlp_ratio) for _ in range(n_blocks))) for n_blocks in groups)
        )
        self.norm = nn.LayerNorm(width)
        self.pool = Pool(pool)
        self.classifier = nn.Linear(width, n_outputs)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(part.weight.view(part.weight.shape[0], -1))
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.norm(self.stages(self.stem(image)))))
        return logits
