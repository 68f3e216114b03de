"""Weighted sums of loss terms, read once a turn: what is not finite fails the trial before anything moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdsearch.errors import PluginError, TrialError
from kdsearch.kinds import Clock, Update

Weights = Mapping[str, float | Callable[[Clock], float]]


def weight_of(term: str, weights: Weights, clock: Clock) -> float:
    """`distiller.term`, else `distiller`, else 1."""
    weight = weights.get(term, weights.get(term.partition(".")[0], 1.0))
    return weight(clock) if callable(weight) else weight


@dataclass(frozen=True)
class Turn:
    """Updates that are taken together: their weighted losses with graph, and what they were as numbers.

    `terms`: (name, unweighted value) in order; `weighted`: the same, as they are summed; `total`: the losses' sum.
    """

    losses: Sequence[Tensor]
    terms: Sequence[tuple[str, float]]
    weighted: Sequence[tuple[str, float]]

    @property
    def total(self) -> float:
        return sum(value for _, value in self.weighted)


def summed(updates: Sequence[Update], weights: Weights, scales: Mapping[str, float], clock: Clock, phase: str) -> Turn:
    """Weight and sum each update's terms. The device is waited for once.

    Raises:
        PluginError: an update without terms, or a term that is no scalar tensor.
        TrialError: naming the first term, or weight, that is not finite.
    """
    for update in updates:
        if not update.terms:
            raise PluginError(f"phase '{phase}' yielded an update without terms", expected="one or more named scalars")
        check_scalars(update.terms, f"phase '{phase}'")
    named = [(name, value) for update in updates for name, value in update.terms.items()]
    device = next((value.device for _, value in named if value.device.type != "cpu"), named[0][1].device)
    numbers = torch.stack([value.detach().to(device).double() for _, value in named]).tolist()
    factors = [weight_of(name, weights, clock) * scales.get(name, 1.0) for name, _ in named]
    for (name, _), number, factor in zip(named, numbers, factors, strict=True):
        if not (math.isfinite(number) and math.isfinite(factor)):
            what = f"term '{name}' is {number}" if math.isfinite(factor) else f"the weight of term '{name}' is {factor}"
            where = f"phase '{phase}', epoch {clock.epoch}, step {clock.step}"
            raise TrialError(f"{what} in {where}", fix="Lower the learning rate or this term's weight.")
    losses: list[Tensor] = []
    at = 0
    for update in updates:
        loss: Tensor | None = None
        for value in update.terms.values():
            value = value.to(device)  # a constant may lie on the CPU
            weighted = value if factors[at] == 1.0 else factors[at] * value
            loss = weighted if loss is None else loss + weighted
            at += 1
        assert loss is not None
        losses.append(loss)
    names = [name for name, _ in named]
    summands = [factor * number for factor, number in zip(factors, numbers, strict=True)]
    return Turn(losses, list(zip(names, numbers, strict=True)), list(zip(names, summands, strict=True)))


def check_scalars(terms: Mapping[str, Any], of: str) -> None:
    """Raise PluginError, saying of what they are, where these are no mapping, or naming the first term that is no scalar tensor."""
    if not isinstance(terms, Mapping):
        problem = f"the terms of {of} are a {type(terms).__name__}"
        raise PluginError(problem, expected="a mapping of names to scalars")
    for name, value in terms.items():
        if not isinstance(value, Tensor):
            expected = "a scalar tensor, such as step.student['logits'].new_zeros(()) where there is nothing to learn"
            raise PluginError(f"term '{name}' of {of} is {value!r}, no tensor", expected=expected)
        if value.ndim:
            expected = "a scalar, the mean over the micro-batch"
            raise PluginError(f"term '{name}' of {of} has shape {tuple(value.shape)}", expected=expected)


def logged(logs: Mapping[str, Sequence[Tensor | float]]) -> list[tuple[str, float]]:
    """What a step logged, as numbers; what is not finite has no mean and is left out."""
    found = [(name, float(value)) for name, values in logs.items() for value in values]
    return [(name, number) for name, number in found if math.isfinite(number)]


def with_prefix(sums: Mapping[str, float], prefix: str) -> list[tuple[str, float]]:
    return [(name.removeprefix(prefix), value) for name, value in sums.items() if name.startswith(prefix)]
