"""Semantic similarity of DisWOT (Dong et al., CVPR 2023, arXiv 2303.15678) in closed form: no backward pass, no C x C matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def classifier_gradient(features: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy by the weight of the linear classifier: (softmax - onehot)^T f / B.

    Shapes: features (B, C), logits (B, K), target (B,) class indices -> (K, C).
    """
    error = logits.softmax(1)
    error = error - F.one_hot(target, logits.shape[1]).to(error.dtype)
    return error.mT @ features / len(features)


def semantic_similarity(g_s: Tensor, g_t: Tensor, eps: float = 1e-12) -> Tensor:
    """M_s = -1/(K C) sum_k || E(g_s)_k - E(g_t)_k ||_F^2 in [-4, 0], E_k = g_k g_k^T with rows of length 1; (K, C) each.

    E_k has rank one: its row i is a_ki u_k with u_k = g_k / |g_k| and a_ki = sign(g_ki), less where the row |g_ki| |g_k| is
    shorter than `eps`, and 0 for a dead one. So the squared distance is sum_i a_i^2 + b_i^2 - 2 a_i b_i cos(g_s, g_t), in
    O(K C) instead of O(K C^2). `eps` matters: with Gaussian weights the softmax is nearly one-hot, and the classes that it
    leaves out have gradients of noise, which must not count by their direction.

    Raises:
        ValueError: naming both widths, when C or K differ.
    """
    if g_s.shape != g_t.shape:
        raise ValueError(
            f"semantic similarity needs equal classes and widths; the student's gradient is {_shown(g_s)} (classes x width), "
            f"the teacher's {_shown(g_t)}"
        )
    a, b = _row_lengths(g_s, eps), _row_lengths(g_t, eps)
    cosine = (_unit(g_s) * _unit(g_t)).sum(1, keepdim=True)
    return -(a.square() + b.square() - 2 * a * b * cosine).mean()


def _row_lengths(g: Tensor, eps: float) -> Tensor:
    """Signed lengths of the normalised rows of g_k g_k^T: (K, C) in [-1, 1]."""
    rows: Tensor = g * torch.linalg.vector_norm(g, dim=1, keepdim=True)
    return rows / rows.abs().clamp(min=eps)


def _unit(g: Tensor) -> Tensor:
    """Rows of length 1, of any scale; zero rows stay zero."""
    largest = g.abs().amax(1, keepdim=True)
    return F.normalize(g / torch.where(largest > 0, largest, torch.ones_like(largest)), dim=1)


def _shown(gradient: Tensor) -> str:
    return "x".join(str(size) for size in gradient.shape)
