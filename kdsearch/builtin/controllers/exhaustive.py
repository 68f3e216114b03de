"""Every candidate of a finite space, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, NoOptions, SearchSpace, Trial
from kdsearch.kit.candidates import Tried, every
from kdsearch.kit.histories import Folded, in_order


@dataclass
class _Place:
    """Where the enumeration stands, and what it gave that has not ended."""

    rest: Iterator[Ask]
    given: list[Ask] = field(default_factory=list)


class Exhaustive(Controller[NoOptions]):
    """Architectures slowest, then dimensions. Raise StudyError where space or a dimension is not finite."""

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self._tried = Tried()
        self._places: Folded[_Place] = Folded()

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        _assert_finite(space, dims)
        told = in_order(history)
        tried = self._tried.of(space, told)
        key = (space, tuple(dims))
        # the enumeration goes on where it stood: all before has ended, or is among those given, and runs or waits for its trial
        place, _ = self._places.of(key, told, lambda: _Place(every(space, dims)), lambda *_: None)
        place.given = [ask for ask in place.given if not tried.has_ended(ask)]
        found = list(islice((ask for ask in place.given if tried.add(ask)), n))
        for ask in place.rest if len(found) < n else ():
            if not tried.has_ended(ask):
                place.given.append(ask)
            if tried.add(ask):
                found.append(ask)
            if len(found) == n:
                break
        return found


def _assert_finite(space: SearchSpace[Any] | None, dims: Sequence[Dim]) -> None:
    endless = [dim.path for dim in dims if dim.range.size is None]
    if space is not None and space.size() is None:
        endless.insert(0, f"the space {type(space).__name__}")
    if endless:
        raise StudyError(
            f"exhaustive search, but {endless[0]} is not finite",
            expected="choices or whole numbers everywhere",
            fix="Use the strategy evolution, random or optuna.",
        )
