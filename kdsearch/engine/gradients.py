"""Gradients of a recipe's terms at the start of a training, kept as their inner products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

LEAST = 1e-6  # of the task's loss: a term below it is not scaled


@dataclass(frozen=True)
class TermGradients:
    """T terms, measured on B batches with respect to L parameters (tensors, not numbers).

    Args:
        names: of the terms, `task` and `<distiller>.<term>`.
        values: [T] means over the batches (`means_of`), unweighted.
        within: [L, T, T] inner products of two terms' gradients on the same batch, mean over batches.
        across: [L, T, T] the same on two different batches, mean over pairs; 0 where there is one batch only.
    """

    names: tuple[str, ...]
    values: Tensor
    within: Tensor
    across: Tensor

    @property
    def scales(self) -> dict[str, float]:
        """Term -> what its weight counts in where a recipe is normalised."""
        return scales_of(dict(zip(self.names, self.values.tolist(), strict=True)))


def measured(batches: Iterable[Mapping[str, tuple[float, Sequence[Tensor]]]]) -> TermGradients:
    """From each batch's terms: name -> (value, gradients of the L parameters). A term that a batch lacks is 0 there.

    Batches are taken one by one: what is kept is one sum of gradients a term.
    """
    values: list[dict[str, float]] = []
    sums: dict[str, list[Tensor]] = {}
    same: dict[tuple[str, str], Tensor] = {}
    for terms in batches:
        values.append({name: value for name, (value, _) in terms.items()})
        for name, (_, gradients) in terms.items():
            before = sums.get(name) or [torch.zeros_like(each, dtype=torch.float64) for each in gradients]
            sums[name] = [total.add_(each) for total, each in zip(before, gradients, strict=True)]
        for one, other in product(terms, terms):
            found = _inner(terms[one][1], terms[other][1])
            same[one, other] = same[one, other] + found if (one, other) in same else found
    names, count, mean = tuple(sums), len(values), means_of(values)
    size = len(next(iter(sums.values())))
    nothing = torch.zeros(size, dtype=torch.float64)
    table = (size, len(names), len(names))
    within = torch.stack([same.get(pair, nothing) for pair in product(names, names)], 1).view(table)
    whole = torch.stack([_inner(sums[a], sums[b]) for a, b in product(names, names)], 1).view(table)
    across = (whole - within) / max(count * (count - 1), 1) if count > 1 else torch.zeros(table, dtype=torch.float64)
    means = torch.tensor([mean[name] for name in names], dtype=torch.float64)
    return TermGradients(names, means, within / count, across)


def _inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """[L]"""
    return torch.stack([torch.sum(a.double() * b.double()) for a, b in zip(one, other, strict=True)])


def means_of(batches: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each term over the batches, 0 where a batch lacks it; the task's over those that show a target, as it is 0 elsewhere."""
    names = dict.fromkeys(name for batch in batches for name in batch)
    found = {}
    for name in names:
        values = [batch.get(name, 0.0) for batch in batches]
        count = sum(value != 0 for value in values) if name == "task" else len(values)
        found[name] = sum(values) / max(count, 1)
    return found


def scales_of(values: Mapping[str, float]) -> dict[str, float]:
    """|task| / |term|: weights then count in units of the task's loss. 1 where the task's loss is 0, and for a term that is, but
    for rounding (LEAST): its gradients are nothing to be enlarged.
    """
    task = abs(values.get("task", 0.0))
    return {
        name: task / abs(value) if task > 0 and abs(value) > max(LEAST * task, 1e-12) and name != "task" else 1.0
        for name, value in values.items()
    }


def gradients_of(value: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """One a parameter, on the CPU; zeros where the value does not depend on it. The graph is kept."""
    found: Sequence[Tensor | None] = [None] * len(parameters)
    if value.requires_grad:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(parameters, found, strict=True)
    return [torch.zeros(p.shape) if each is None else each.detach().float().cpu() for p, each in pairs]
