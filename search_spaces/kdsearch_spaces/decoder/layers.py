"""Causal layers over sequences (B, N, D): no place depends on a later one, and so none on padding, which comes last."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def padded(x: Tensor, real: Tensor) -> Tensor:
    """x (B, N, D) with zeros where `real` (B, N) is false, so that taps show no trace of padding."""
    return x.masked_fill(~real[..., None], 0.0)


class Stem(nn.Embedding):
    """Token ids (B, N) -> (B, N, D)."""

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        return padded(super().forward(tokens), real)


def turned(x: Tensor, places: Tensor) -> Tensor:
    """(B, heads, N, d) with each pair of channels turned by its place times a frequency of its own, 10000^(-2i / d).

    Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34): only distances count in products of queries and keys, and
    any length can be read. d is even.
    """
    half = x.shape[-1] // 2
    frequency = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000.0) / half))
    angle = places[:, None] * frequency  # (N, d / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class CausalAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v over the places up to one's own, in plain products: they have second derivatives."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(width // heads)
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(-1)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[1], device=x.device)
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        )  # each (B, heads, N, d)
        scores = turned(q, at) @ turned(k, at).transpose(-1, -2) * self.scale
        scores = scores.masked_fill(at[:, None] < at, torch.finfo(scores.dtype).min)
        mixed = self.dropout(self.softmax(scores)) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): norms first (Xiong et al., ICML 2020, arXiv 2002.04745), GELU."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn * width), nn.GELU(), nn.Linear(ffn * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return padded(x + self.dropout(self.ffn(self.norm2(x))), real)


class ConvLayer(nn.Module):
    """x + mix(GELU(conv(norm(x)))): each channel sees the last `kernel` places, `dilation` apart, then all are mixed.

    Dilated causal convolutions: van den Oord et al. 2016, arXiv 1609.03499, section 2.1.
    """

    def __init__(self, width: int, kernel: int, dilation: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.before = (kernel - 1) * dilation
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, kernel, dilation=dilation, groups=width)
        self.mix = nn.Sequential(nn.Linear(width, ffn * width), nn.GELU(), nn.Linear(ffn * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        seen = self.conv(F.pad(self.norm(x).transpose(1, 2), (self.before, 0))).transpose(1, 2)  # (B, N, D)
        return padded(x + self.dropout(self.mix(seen)), real)


class RecurrentLayer(nn.Module):
    """(B, N, D_in) -> (B, N, D): an LSTM or a GRU from the first token on."""

    def __init__(self, kind: str, d_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.cells = (nn.LSTM if kind == "lstm" else nn.GRU)(d_in, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        return padded(self.dropout(self.cells(x)[0]), real)


def initialise(part: nn.Module) -> None:
    """Linear maps as Glorot and Bengio, embeddings as GPT's."""
    if isinstance(part, nn.Linear):
        nn.init.xavier_uniform_(part.weight)
        nn.init.zeros_(part.bias)
    elif isinstance(part, nn.Embedding):
        nn.init.normal_(part.weight, std=0.02)
