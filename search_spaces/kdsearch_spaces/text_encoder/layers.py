"""Layers over texts: vectors (B, N, D) with `real` (B, N) true where there is a token; padding comes last and stays 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def padded(x: Tensor, real: Tensor) -> Tensor:
    """x (B, N, D) with zeros at padding, so that taps show no trace of it."""
    return x.masked_fill(~real[..., None], 0.0)


class Stem(nn.Module):
    """Token ids (B, N) -> (B, N, D): embedding of width E, layer norm, linear map to D where it is not E.

    The factorised embedding is ALBERT's (Lan et al., ICLR 2020, arXiv 1909.11942, section 3.1).

    Args:
        positions: longest text, for learned position embeddings; 0 = none.
    """

    def __init__(self, n_tokens: int, positions: int, embedding: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, embedding)
        self.positions = nn.Embedding(positions, embedding) if positions else None
        self.norm = nn.LayerNorm(embedding)
        self.dropout = nn.Dropout(dropout)
        self.project: nn.Module = nn.Linear(embedding, width) if embedding != width else nn.Identity()

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        x = self.tokens(tokens)  # (B, N, E)
        if self.positions is not None:
            x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return padded(self.project(self.dropout(self.norm(x))), real)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v of each head, then a linear map (Vaswani et al., NeurIPS 2017, arXiv 1706.03762, eq. 1).

    Plain products instead of the fused kernel: they have second derivatives and forward mode, which training-free scores
    take, and the attention map is a module's output that a tap can name.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(-1)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )  # each (B, heads, N, d)
        d = self.qkv.out_features // (3 * self.heads)  # of the layer, which may have been pruned
        scores = q @ k.transpose(-2, -1) / math.sqrt(d)
        # the least finite number, not -inf: a text without a token attends evenly to its padding instead of becoming NaN
        scores = scores.masked_fill(~real[:, None, None, :], torch.finfo(scores.dtype).min)
        mixed = self.dropout(self.softmax(scores)) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): norms first (Xiong et al., ICML 2020, arXiv 2002.04745), GELU."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), real))
        return padded(x + self.dropout(self.ffn(self.norm2(x))), real)


class BiLstmLayer(nn.Module):
    """(B, N, D_in) -> (B, N, D): D / 2 units that read from the first token on and D / 2 from the last token back.

    Two LSTMs and not one bidirectional one, whose way back would start in the padding; packed sequences would need lengths
    on the CPU.
    """

    def __init__(self, d_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.onward = nn.LSTM(d_in, width // 2, batch_first=True)
        self.back = nn.LSTM(d_in, width // 2, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        at = torch.arange(x.shape[1], device=x.device)
        turned = torch.where(real, real.sum(1, keepdim=True) - 1 - at, at)[..., None]  # (B, N, 1): its own inverse
        onward = self.onward(x)[0]
        back = self.back(taken(x, turned))[0]
        return padded(self.dropout(torch.cat([onward, taken(back, turned)], -1)), real)


def taken(x: Tensor, at: Tensor) -> Tensor:
    """x (B, N, D) at the places `at` (B, N, 1)."""
    return x.gather(1, at.expand(-1, -1, x.shape[-1]))


class HiddenLayer(nn.Sequential):
    """Vectors (B, D_in) -> (B, D)."""

    def __init__(self, d_in: int, width: int, dropout: float) -> None:
        super().__init__(nn.Dropout(dropout), nn.Linear(d_in, width), nn.ReLU())


class Pool(nn.Module):
    """(B, N, D) -> (B, D): the first token, or the mean or maximum over all tokens; 0 for a text without any."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        if self.pooling == "cls":
            return padded(x, real)[:, 0]
        if self.pooling == "mean":
            return padded(x, real).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        greatest = x.masked_fill(~real[..., None], torch.finfo(x.dtype).min).amax(1)
        return greatest.masked_fill(real.sum(1, keepdim=True) == 0, 0.0)


class Compared(nn.Module):
    """(B, N, D) -> (B, 4 D): u, v, |u - v| and u v of the pooled first text u and the pooled rest v.

    InferSent's comparison (Conneau et al., EMNLP 2017, arXiv 1705.02364, section 3.1).

    Args:
        separator: the token between two texts, which is of neither.
    """

    def __init__(self, pooling: str, separator: int) -> None:
        super().__init__()
        self.pool = Pool(pooling)
        self.separator = separator

    def forward(self, x: Tensor, real: Tensor, tokens: Tensor) -> Tensor:
        is_between = tokens == self.separator
        is_rest = is_between.long().cumsum(1) > 0
        u = self.pool(x, real & ~is_rest)
        v = self.pool(x, real & is_rest & ~is_between)
        return torch.cat([u, v, (u - v).abs(), u * v], 1)
