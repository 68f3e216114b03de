"""Softened distributions: the Kullback-Leibler divergence of knowledge distillation (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def rows(logits: Tensor) -> Tensor:
    """Logits (B, K, ...) as (N, K): every position of a map or sequence after the class axis becomes a row."""
    return logits if logits.dim() == 2 else logits.movedim(1, -1).flatten(0, -2)


def softened_kl(z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), summed over the K classes and averaged over rows: a scalar >= 0.

    Shapes: both (B, K) or (B, K, ...). T^2 keeps the gradient's size independent of T (Hinton et al., section 2.1).
    """
    log_p_s = F.log_softmax(rows(z_s) / temperature, dim=1)
    log_p_t = F.log_softmax(rows(z_t) / temperature, dim=1)
    return F.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True) * temperature**2
