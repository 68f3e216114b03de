"""The losses of recovery: L = lambda_kd_out L_KD + lambda_kd_feat L_feat + lambda_task L_task.

L_KD = mean w (v_S - v_T)^2                     the answers of student and unpruned network to the same input; values in deviations
L_feat = sum over kept, trained blocks and their streams of mean (h_S - h_T)^2      "LFImg" and "LFCond"
L_task = mean (x0_hat - x0)^2,  x0_hat = x_t - sigma v_S      of a flow; elsewhere the task's own loss
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def kd_out(v_s: Mapping[str, Tensor], v_t: Mapping[str, Tensor], w: float | Tensor = 1.0) -> Tensor:
    """Sum over output fields of the mean squared difference; the teacher's are constants. w: of the noise level, (B, 1, ...)."""
    terms = [_mean(w * (v_s[name] - v_t[name].detach()).square()) for name in v_s]
    return sum(terms[1:], terms[0])


def kd_feat(h_s: Mapping[str, Tensor], h_t: Mapping[str, Tensor], names: Sequence[str]) -> Tensor | None:
    """Sum over the names, of blocks and streams, of the mean squared difference; None where there is none."""
    terms = [_mean((h_s[name] - h_t[name].detach()).square()) for name in names]
    return sum(terms[1:], terms[0]) if terms else None


def flow_task(x_t: Tensor, sigma: Tensor, v_s: Tensor, x0: Tensor) -> Tensor:
    """mean (x_t - sigma v_S - x0)^2; sigma (B,)."""
    level = sigma.view(-1, *[1] * (x_t.ndim - 1))
    return (x_t - level * v_s - x0).square().mean()


def _mean(x: Tensor) -> Tensor:
    """0 of nothing."""
    return x.sum() / max(x.numel(), 1)
