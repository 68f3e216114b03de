"""Relations between samples, or between channels: Gram matrices with normalised rows, in float32 at least.

A student near its teacher differs by less than bfloat16 can tell, so that autocast does not reach into these products either.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdsearch.ops.softened import full


def gram(features: Tensor) -> Tensor:
    """X X^T of the flattened rows: (B, ...) -> (B, B)."""
    return _products(full(features).flatten(1))


def _products(rows: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ rows.mT


def normalised_rows(matrix: Tensor, eps: float = 1e-12) -> Tensor:
    """Rows (the last axis) of length 1; rows shorter than `eps` stay near 0, so that dead features give no NaN."""
    return F.normalize(matrix, dim=-1, eps=eps)


def relation_matrix(features: Tensor) -> Tensor:
    """Gram matrix of the samples with rows of length 1: (B, ...) -> (B, B).

    Source: Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019 (arXiv 1907.09682), eq. 2. It does not change
    with the features' scale or under rotations of feature space, hence the division by the largest value, which keeps squares
    of large activations from overflowing.
    """
    return normalised_rows(gram(full(features) / scale_of(features)))


def cosines(similar: Tensor, eps: float = 1e-12) -> Tensor:
    """Cosines of the samples from their Gram matrix (B, B), in [-1, 1]; 0 beside a sample of length 0."""
    lengths = similar.diagonal().clamp_min(0).sqrt()
    return similar / (lengths[:, None] * lengths[None]).clamp_min(eps)


def relation_loss(f_s: Tensor, f_t: Tensor) -> Tensor:
    """1/B^2 || R(f_t) - R(f_s) ||_F^2, in [0, 4/B]; the features may differ in every size but B. Source: as above, eq. 4."""
    return (relation_matrix(f_s) - relation_matrix(f_t)).square().sum() / len(f_s) ** 2


def channel_relation(maps: Tensor) -> Tensor:
    """Per sample the Gram matrix of the channels, rows of length 1: (B, C, ...) -> (B, C, C).

    Source: Liu et al., Exploring Inter-Channel Correlation for Diversity-preserved KD, ICCV 2021 (arXiv 2202.03680), eq. 3.
    """
    return normalised_rows(_products(full(maps).flatten(2) / scale_of(maps)))


def channel_loss(f_s: Tensor, f_t: Tensor) -> Tensor:
    """1/(B C) sum_b || E(f_t)_b - E(f_s)_b ||_F^2, in [0, 4]; equal B and C, the places (H, W) may differ."""
    difference = channel_relation(f_s) - channel_relation(f_t)
    return difference.square().sum() / (difference.shape[0] * difference.shape[1])


def scale_of(features: Tensor) -> Tensor:
    """The largest absolute value, as a constant; 1 where all are 0."""
    largest = features.detach().abs().amax()
    return torch.where(largest > 0, largest, torch.ones_like(largest))
