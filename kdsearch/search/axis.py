"""Dimensions as Optuna knows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kdsearch.kinds import Dim
from kdsearch.kinds.options import Value

if TYPE_CHECKING:
    import optuna


class Axis:
    """One dimension as Optuna searches it, and the way there and back.

    Choices that are all numbers become positions in their order, so that a sampler sees which are near; all other choices are
    categories, as JSON texts.
    """

    def __init__(self, dim: Dim) -> None:
        from optuna import distributions

        self.dim = dim
        ranged = dim.range
        self._choices: list[Value] = list(ranged.choices)
        self._is_ordered = len(self._choices) > 2 and all(type(each) in (int, float) for each in self._choices)
        if self._is_ordered:
            self._choices.sort()
            self.distribution: Any = distributions.IntDistribution(0, len(self._choices) - 1)
        elif self._choices:
            self.distribution = distributions.CategoricalDistribution([encode(each) for each in self._choices])
        elif ranged.integer:
            self.distribution = distributions.IntDistribution(
                int(ranged.low or 0), int(ranged.high or 0), log=ranged.log
            )
        else:
            assert ranged.low is not None
            assert ranged.high is not None
            self.distribution = distributions.FloatDistribution(ranged.low, ranged.high, log=ranged.log)

    def suggest(self, trial: optuna.Trial) -> Value:
        """The value that this trial's sampler picks."""
        path, inner = self.dim.path, self.distribution
        if self._is_ordered:
            return self._choices[trial.suggest_int(path, inner.low, inner.high)]
        if self._choices:
            texts = list(inner.choices)
            return self._choices[texts.index(trial.suggest_categorical(path, texts))]
        if self.dim.range.integer:
            return trial.suggest_int(path, inner.low, inner.high, log=inner.log)
        return trial.suggest_float(path, inner.low, inner.high, log=inner.log)

    def inner(self, value: Value) -> Any:
        """Optuna's value for ours; None where it is outside the range."""
        if self._choices:
            at = next((i for i, each in enumerate(self._choices) if encode(each) == encode(value)), None)
            if at is None:
                return None
            return at if self._is_ordered else encode(self._choices[at])
        is_number = type(value) in (int, float) and self.distribution.low <= value <= self.distribution.high
        return value if is_number else None


def encode(value: Value) -> str:
    """A JSON value as a string: true and 1 differ, a tuple and a list do not."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
