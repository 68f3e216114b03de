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


def semantic_similarity(g_s: Tensor, g_t: Tensor) -> Tensor:
    """M_s = -1/(K C) sum_k || E(g_s)_k - E(g_t)_k ||_F^2 in [-4, 0], E_k = g_k g_k^T with rows of length 1; (K, C) each.

    E_k has rank one: its row i is sign(g_ki) g_k / |g_k|, a zero row where g_ki is 0. So the squared distance is
    sum_i s_i^2 + t_i^2 - 2 s_i t_i cos(g_s, g_t) over the signs s, t: O(K C) instead of O(K C^2).

    Raises:
        ValueError: naming both widths, when C or K differ.
    """
    if g_s.shape != g_t.shape:
        raise ValueError(
            f"semantic similarity needs equal classes and widths; the student's gradient is {_shown(g_s)} (classes x width), "
            f"the teacher's {_shown(g_t)}"
        )
    s, t = g_s.sign(), g_t.sign()
    cosine = (_unit(g_s) * _unit(g_t)).sum(1, keepdim=True)
    return -(s.square() + t.square() - 2 * s * t * cosine).mean()


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, of any scale; zero rows stay zero."""
    largest = rows.abs().amax(1, keepdim=True)
    rows = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    return F.normalize(rows, dim=1)


def _shown(gradient: Tensor) -> str:
    return "x".join(str(size) for size in gradient.shape)
