"""Every candidate of a finite space, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from kdsearch.builtin.controllers.drawing import Distinct, ask_of, is_active, parents_first
from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, NoOptions, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kinds.space import each_value


class Exhaustive(Controller[NoOptions]):
    """Architectures slowest, then dimensions. Raise StudyError where space or a dimension is not finite."""

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        endless = [dim.path for dim in dims if dim.range.size is None]
        if space is not None and space.size() is None:
            endless.insert(0, f"the space {type(space).__name__}")
        if endless:
            raise StudyError(
                f"exhaustive search, but {endless[0]} is not finite",
                expected="choices or whole numbers everywhere",
                fix="Use the strategy evolution, random or optuna.",
            )
        tried = Distinct(space, history)
        found: list[Ask] = []
        for ask in _every(space, parents_first(dims)):
            if len(found) == n:
                break
            if tried.add(ask):
                found.append(ask)
        return found


def _every(space: SearchSpace[Any] | None, dims: Sequence[Dim]) -> Iterator[Ask]:
    for spec in space.every() if space is not None else [None]:
        for combination in product(*(each_value(dim) for dim in dims)):
            values: dict[str, Value] = {}
            for dim, value in zip(dims, combination, strict=True):
                if is_active(dim, values):
                    values[dim.path] = value
            yield ask_of(space, spec, values)
