"""Layers of an encoder, which sees the whole text, and of a decoder, which sees what is written so far and the encoder's answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdsearch_spaces.decoder.layers import CausalAttention, padded, turned


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v of places `x` (B, M, D) over `memory` (B, N, D) where `real` (B, N) is true.

    Args:
        places: whether queries and keys are turned by their places; of one text alone.
    """

    def __init__(self, width: int, heads: int, dropout: float, places: bool) -> None:
        super().__init__()
        self.heads, self.places = heads, places
        self.scale = 1 / math.sqrt(width // heads)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.softmax = nn.Softmax(-1)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, real: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, M, d)
        k, v = (
            self.kv(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        )  # each (B, heads, N, d)
        if self.places:
            at = torch.arange(x.shape[1], device=x.device)
            q, k = turned(q, at), turned(k, at)
        scores = q @ k.transpose(-1, -2) * self.scale
        scores = scores.masked_fill(~real[:, None, None, :], torch.finfo(scores.dtype).min)
        mixed = self.dropout(self.softmax(scores)) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def feed_forward(width: int, ffn: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, ffn * width), nn.GELU(), nn.Linear(ffn * width, width))


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout, places=True)
        self.ffn = feed_forward(width, ffn)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        seen = self.norm1(x)
        x = x + self.dropout(self.attention(seen, seen, real))
        return padded(x + self.dropout(self.ffn(self.norm2(x))), real)


class DecoderLayer(nn.Module):
    """x + attention to what is written(norm(x)), x + attention to the text(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.reading = Attention(width, heads, dropout, places=False)
        self.ffn = feed_forward(width, ffn)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, written: Tensor, memory: Tensor, real: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        x = x + self.dropout(self.reading(self.norm2(x), memory, real))
        return padded(x + self.dropout(self.ffn(self.norm3(x))), written)


class BothWays(nn.Module):
    """(B, N, D) -> (B, N, D): D / 2 units of a GRU that reads from the first token on and D / 2 from the last token back.

    Two GRUs and not one of both directions, whose way back would start in the padding.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.onward = nn.GRU(width, width // 2, batch_first=True)
        self.back = nn.GRU(width, width // 2, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        at = torch.arange(x.shape[1], device=x.device)
        turn = torch.where(real, real.long().sum(1, keepdim=True) - 1 - at, at)[..., None]  # (B, N, 1): its own inverse
        onward, back = self.onward(x)[0], self.back(_taken(x, turn))[0]
        return padded(self.dropout(torch.cat([onward, _taken(back, turn)], -1)), real)


def _taken(x: Tensor, at: Tensor) -> Tensor:
    """x (B, N, D) at the places `at` (B, N, 1)."""
    return x.gather(1, at.expand(-1, -1, x.shape[-1]))


class ReadingGru(nn.Module):
    """A GRU over what is written; each state reads the text: h + attention(h) (after Luong et al., EMNLP 2015, section 3)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.cells = nn.GRU(width, width, batch_first=True)
        self.reading = Attention(width, heads, dropout, places=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, written: Tensor, memory: Tensor, real: Tensor) -> Tensor:
        state = self.dropout(self.cells(x)[0])
        return padded(state + self.reading(state, memory, real), written)
