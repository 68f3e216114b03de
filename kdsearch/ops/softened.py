"""Softened distributions: the Kullback-Leibler divergence of knowledge distillation (Hinton et al. 2015, arXiv 1503.02531).

All of it takes rows, one a position: `step.rows(step.student["logits"])`, which knows where a task has its classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def softened_kl(z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), summed over the K classes and averaged over rows: a scalar >= 0.

    Shapes: both (N, K); N = 0 gives 0. T^2 keeps the gradient's size independent of T (Hinton et al., section 2.1).

    Raises:
        ValueError: other shapes, whose class axis is not known here.
    """
    return divergence(log_softened(z_s, temperature), log_softened(z_t, temperature)) * temperature**2


def log_softened(z: Tensor, temperature: float) -> Tensor:
    """log softmax(z / T) of rows (N, K), in float32 at least: under autocast a CPU keeps bfloat16, which ends near the teacher."""
    _check(z)
    return F.log_softmax(full(z) / temperature, dim=1)


def full(z: Tensor) -> Tensor:
    """In float32, or float64 where it is that."""
    return z if z.dtype == torch.float64 else z.float()


def divergence(log_p_s: Tensor, log_p_t: Tensor) -> Tensor:
    """KL(p_t || p_s) of log-probabilities (N, K), mean over the N rows."""
    _check(log_p_s, log_p_t)
    return F.kl_div(log_p_s, log_p_t, reduction="sum", log_target=True) / max(len(log_p_s), 1)


def likely(label: Tensor | None, z_t: Tensor, hidden: int = -100) -> Tensor:
    """(N,) labels, with the teacher's likeliest class where a label is `hidden` or there are none; z_t (N, K)."""
    _check(z_t)
    guess = z_t.argmax(1)
    return guess if label is None else torch.where(label == hidden, guess, label)


def _check(*tensors: Tensor) -> None:
    shapes = [tuple(each.shape) for each in tensors]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"logits of shape {' and '.join(map(str, shapes))}; expected equal rows (N, K): see Step.rows")
