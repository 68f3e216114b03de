"""What every controller does: draw within conditions, and never ask for what was tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from torch import Generator

from kdsearch.kinds import Ask, Dim, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kit.dims import draw_values, encode
from kdsearch.kit.histories import Folded
from kdsearch.kit.streams import stream

__all__ = ["Distinct", "Tried", "ask_of", "drawn", "generator", "key_of", "new_ones"]

REDRAWS = 50  # draws for each wanted candidate before a controller answers with fewer


def generator(seed: int, history: Sequence[Trial]) -> Generator:
    """The stream of this ask: a function of the seed and how much was tried."""
    return stream(seed, "ask", len(history))


class Tried:
    """Remembers the keys of the history between asks: a space's canonical form is worked out once a candidate."""

    def __init__(self) -> None:
        self._keys: Folded[set[str]] = Folded()

    def of(self, space: SearchSpace[Any] | None, told: Sequence[Trial]) -> Distinct:
        """`told` in order of number."""

        def add(keys: set[str], trial: Trial) -> None:
            keys.add(key_of(space, trial.spec, trial.values))

        ended, others = self._keys.of(space, told, set, add)
        return Distinct(space, ended, {key_of(space, trial.spec, trial.values) for trial in others})


class Distinct:
    """The candidates tried before or asked since, by canonical form and values.

    `others`: keys of the trials from the first on that runs.
    """

    def __init__(self, space: SearchSpace[Any] | None, ended: Set[str], others: Set[str] = frozenset()) -> None:
        self._space, self._ended, self._others = space, ended, others
        self._asked: set[str] = set()

    def has_ended(self, ask: Ask) -> bool:
        """Whether it is one of the trials before the first that runs: no history that goes on asks for it again."""
        return key_of(self._space, ask.spec, ask.values) in self._ended

    def is_tried(self, ask: Ask) -> bool:
        key = key_of(self._space, ask.spec, ask.values)
        return key in self._ended or key in self._others

    def add(self, ask: Ask) -> bool:
        """Whether this one is new; from now on it is not."""
        key = key_of(self._space, ask.spec, ask.values)
        is_new = key not in self._ended and key not in self._others and key not in self._asked
        self._asked.add(key)
        return is_new


def key_of(space: SearchSpace[Any] | None, spec: Mapping[str, Any] | None, values: Mapping[str, Value]) -> str:
    """The identity of a candidate whose spec is in canonical form."""
    if space is not None and spec is not None and type(space).key is not SearchSpace.key:
        return space.key(space.parse(dict(spec))) + encode(dict(values))
    return encode([spec, dict(values)])


def ask_of(space: SearchSpace[Any] | None, spec: Any, values: Mapping[str, Value]) -> Ask:
    """The candidate with its spec in canonical form, as JSON values."""
    if space is None or spec is None:
        return Ask(dict(values))
    return Ask(dict(values), space.canonical(spec).model_dump(mode="json"))


def drawn(space: SearchSpace[Any] | None, dims: Sequence[Dim], rng: Generator) -> Ask:
    """One uniform draw."""
    return ask_of(space, space.sample(rng) if space is not None else None, draw_values(dims, rng))


def new_ones(n: int, tried: Distinct, propose: Callable[[], Ask]) -> list[Ask]:
    """n proposals that were not tried; fewer where 50 n of them hold no more."""
    found: list[Ask] = []
    for _ in range(REDRAWS * n):
        if len(found) == n:
            break
        ask = propose()
        if tried.add(ask):
            found.append(ask)
    return found
