"""Gradients of a recipe's terms at the start of a training, kept as their inner products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TermGradients:
    """T terms on B batches.

    Args:
        names: of the terms, `task` and `<distiller>.<term>`.
        values: [T] means over the batches, unweighted.
        inner: [B, T, B, T] inner products of the terms' gradients, unweighted.
    """

    names: tuple[str, ...]
    values: Tensor
    inner: Tensor

    @classmethod
    def of(cls, batches: Sequence[Mapping[str, tuple[float, Tensor]]]) -> TermGradients:
        """From each batch's terms: name -> (value, gradient [P]). A term that a batch lacks counts as 0 there."""
        names = tuple(dict.fromkeys(name for terms in batches for name in terms))
        size = len(next(iter(batches[0].values()))[1])
        nothing = (0.0, torch.zeros(size))
        rows = [terms.get(name, nothing) for terms in batches for name in names]
        stacked = torch.stack([gradient for _, gradient in rows]).double()
        values = torch.tensor([value for value, _ in rows], dtype=torch.float64)
        b, t = len(batches), len(names)
        return cls(names, values.view(b, t).mean(0), (stacked @ stacked.T).view(b, t, b, t))

    @property
    def scales(self) -> dict[str, float]:
        """Term -> what its weight counts in where a recipe is normalised."""
        return scales_of(dict(zip(self.names, self.values.tolist(), strict=True)))


def scales_of(values: Mapping[str, float]) -> dict[str, float]:
    """|task| / |term|: weights then count in units of the task's loss. 1 for a term that is 0, and where the task's loss is."""
    task = abs(values.get("task", 0.0))
    return {
        name: task / abs(value) if task > 0 and abs(value) > 1e-12 and name != "task" else 1.0
        for name, value in values.items()
    }


def gradient_of(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """[P] in one vector, on the CPU; zeros where the value does not depend on a parameter. The graph is kept."""
    if not value.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters))
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([part.detach().float().flatten() for part in parts]).cpu()
