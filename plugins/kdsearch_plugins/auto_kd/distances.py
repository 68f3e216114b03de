"""Distances between rows of student and teacher, each 0 where both agree; x_s, x_t of shape (N, D), mean over the N rows.

In float32 at least: near the teacher bfloat16 leaves rounding alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.ops.softened import full, softened_kl

Distance = Literal["mse", "kl", "cosine", "pearson"]


def distance(name: Distance, x_s: Tensor, x_t: Tensor, temperature: float) -> Tensor:
    """Scalar >= 0. `temperature`: of `kl` alone."""
    x_s, x_t = full(x_s), full(x_t)
    if name == "mse":
        return F.mse_loss(x_s, x_t)
    if name == "kl":
        return softened_kl(x_s, x_t, temperature)
    return cosine(x_s, x_t) if name == "cosine" else pearson(x_s, x_t)


def cosine(x_s: Tensor, x_t: Tensor) -> Tensor:
    """1 - cosine, in [0, 2]; 1 for a dead row."""
    return (1 - (unit(x_s) * unit(x_t)).sum(1)).mean()


def pearson(x_s: Tensor, x_t: Tensor) -> Tensor:
    """1 - correlation, in [0, 2]; 1 for a constant row. Source: Huang et al., DIST, NeurIPS 2022 (arXiv 2205.10536)."""
    return cosine(x_s - x_s.mean(1, keepdim=True), x_t - x_t.mean(1, keepdim=True))


def unit(x: Tensor) -> Tensor:
    """Rows of length 1; divided by the largest value first, which keeps squares from overflowing. Dead rows stay 0."""
    largest = x.detach().abs().amax(1, keepdim=True)
    return F.normalize(x / torch.where(largest > 0, largest, torch.ones_like(largest)), dim=1, eps=1e-6)
