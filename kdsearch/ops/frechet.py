"""Frechet distance of two samples of features (Heusel et al., NeurIPS 2017, arXiv 1706.08500, eq. 6).

|mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1^.5 C_2 C_1^.5)^.5), in float64, by symmetric eigendecompositions: no complex square root.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["frechet_distance", "frechet_of_moments"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Of features (n, D) and (m, D). Warns below 10 D samples: the estimate is biased."""
    few = min(len(a), len(b))
    if few < 10 * a.shape[1]:
        warnings.warn(f"{few} samples for {a.shape[1]} features: the distance is too large", stacklevel=2)
    return frechet_of_moments(*_moments(a), *_moments(b))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.double()
    return x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


def frechet_of_moments(mu_1: Tensor, c_1: Tensor, mu_2: Tensor, c_2: Tensor) -> float:
    """Of Gaussians with these means (D,) and covariances (D, D)."""
    root = _root(c_1)
    cross = torch.linalg.eigvalsh(root @ c_2 @ root).clamp(min=0).sqrt().sum()
    return float((mu_1 - mu_2).square().sum() + c_1.trace() + c_2.trace() - 2 * cross)


def _root(c: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(c)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
