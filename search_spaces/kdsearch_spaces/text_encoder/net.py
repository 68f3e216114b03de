"""A text classifier: stem, layers, pooling, classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdsearch_spaces.text_encoder.layers import Compared, Pool, Stem


class TextEncoder(nn.Module):
    """Token ids (B, N) and their mask (B, N), not 0 at tokens -> logits (B, K).

    Padding may be anywhere and have any id; tokens are moved to the front and those after `max_length` are not read.

    Args:
        layers: called with (B, N, D) and the places of tokens (B, N).
        norm: after the last layer.
        hidden: layers after the pooling, on vectors.
        width: of what the classifier reads.
        separator: the token between two texts, which are pooled by themselves and compared; None = pooled as one.
    """

    def __init__(
        self,
        stem: Stem,
        layers: Sequence[nn.Module],
        norm: nn.Module,
        pooling: str,
        hidden: Sequence[nn.Module],
        width: int,
        n_outputs: int,
        dropout: float,
        max_length: int,
        separator: int | None = None,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.stem = stem
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.pool = Pool(pooling) if separator is None else Compared(pooling, separator)
        self.hidden = nn.Sequential(*hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, n_outputs)
        self.apply(initialise)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask != 0
        tokens, real = in_front(tokens, real)
        tokens, real = tokens[:, : self.max_length], real[:, : self.max_length]
        x = self.stem(tokens, real)
        for layer in self.layers:
            x = layer(x, real)
        x = self.norm(x)
        pooled = self.pool(x, real, tokens) if isinstance(self.pool, Compared) else self.pool(x, real)
        logits: Tensor = self.classifier(self.dropout(self.hidden(pooled)))
        return logits


def in_front(tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, N) with each text's tokens first, in their order, and id 0 at padding."""
    nth = real.long().cumsum(1) - 1
    nth_padding = (~real).long().cumsum(1) - 1
    place = torch.where(real, nth, real.sum(1, keepdim=True) + nth_padding)  # a permutation of 0 .. N - 1
    tokens = torch.zeros_like(tokens).scatter(1, place, tokens.masked_fill(~real, 0))
    at = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens, at < real.sum(1, keepdim=True)


def initialise(part: nn.Module) -> None:
    """Linear maps as Glorot and Bengio, so that branches of narrow and wide layers are equally strong; embeddings as BERT's."""
    if isinstance(part, nn.Linear):
        nn.init.xavier_uniform_(part.weight)
        nn.init.zeros_(part.bias)
    elif isinstance(part, nn.Embedding):
        nn.init.normal_(part.weight, std=0.02)
