"""What every controller does: draw within conditions, and never ask for what was tried."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from itertools import islice, product
from math import prod
from typing import Any

from torch import Generator

from kdsearch.kinds import Ask, Dim, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kinds.space import each_value
from kdsearch.kit.dims import draw_values, encode, is_active, parents_first
from kdsearch.kit.histories import Folded
from kdsearch.kit.streams import stream

__all__ = ["Distinct", "Tried", "ask_of", "drawn", "every", "generator", "key_of", "new_ones"]

FEW = 20_000
REDRAWS = 50  # draws for each wanted candidate before a controller answers with fewer


def generator(seed: int, history: Sequence[Trial]) -> Generator:
    """The stream of this ask: a function of the seed and how much was tried."""
    return stream(seed, "ask", len(history))


class Tried:
    """Remembers the keys of the history between asks: a space's canonical form is worked out once a candidate."""

    def __init__(self) -> None:
        self._keys: Folded[set[bytes]] = Folded()

    def of(self, space: SearchSpace[Any] | None, told: Sequence[Trial]) -> Distinct:
        """`told` in order of number."""

        def add(keys: set[bytes], trial: Trial) -> None:
            keys.add(_mark(space, trial.spec, trial.values))

        ended, others = self._keys.of(space, told, set, add)
        return Distinct(space, ended, {_mark(space, trial.spec, trial.values) for trial in others})


class Distinct:
    """The candidates tried before or asked since, by canonical form and values.

    `others`: keys of the trials from the first on that runs.
    """

    def __init__(self, space: SearchSpace[Any] | None, ended: Set[bytes], others: Set[bytes] = frozenset()) -> None:
        self._space, self._ended, self._others = space, ended, others
        self._asked: set[bytes] = set()

    def has_ended(self, ask: Ask) -> bool:
        """Whether it is one of the trials before the first that runs: no history that goes on asks for it again."""
        return _mark(self._space, ask.spec, ask.values) in self._ended

    def is_tried(self, ask: Ask) -> bool:
        key = _mark(self._space, ask.spec, ask.values)
        return key in self._ended or key in self._others

    def add(self, ask: Ask) -> bool:
        """Whether this one is new; from now on it is not."""
        key = _mark(self._space, ask.spec, ask.values)
        is_new = key not in self._ended and key not in self._others and key not in self._asked
        self._asked.add(key)
        return is_new


def key_of(space: SearchSpace[Any] | None, spec: Mapping[str, Any] | None, values: Mapping[str, Value]) -> str:
    """The identity of a candidate whose spec is in canonical form."""
    if space is not None and spec is not None and type(space).key is not SearchSpace.key:
        return space.key(space.parse(dict(spec))) + encode(dict(values))
    return encode([spec, dict(values)])


def _mark(space: SearchSpace[Any] | None, spec: Mapping[str, Any] | None, values: Mapping[str, Value]) -> bytes:
    """What is remembered of a candidate: a fourth of its key's memory, however long the key."""
    return hashlib.sha256(key_of(space, spec, values).encode()).digest()[:16]


def ask_of(space: SearchSpace[Any] | None, spec: Any, values: Mapping[str, Value]) -> Ask:
    """The candidate with its spec in canonical form, as JSON values."""
    if space is None or spec is None:
        return Ask(dict(values))
    return Ask(dict(values), space.canonical(spec).model_dump(mode="json"))


def drawn(space: SearchSpace[Any] | None, dims: Sequence[Dim], rng: Generator) -> Ask:
    """One uniform draw."""
    return ask_of(space, space.sample(rng) if space is not None else None, draw_values(dims, rng))


def every(space: SearchSpace[Any] | None, dims: Sequence[Dim]) -> Iterator[Ask]:
    """Every candidate of finite dimensions and a finite space: architectures slowest, then dimensions."""
    dims = parents_first(dims)
    for spec in space.every() if space is not None else [None]:
        for combination in product(*(each_value(dim) for dim in dims)):
            values: dict[str, Value] = {}
            for dim, value in zip(dims, combination, strict=True):
                if is_active(dim, values):
                    values[dim.path] = value
            yield ask_of(space, spec, values)


def new_ones(
    n: int, tried: Distinct, propose: Callable[[], Ask], space: SearchSpace[Any] | None, dims: Sequence[Dim]
) -> list[Ask]:
    """n proposals that were not tried. Where 50 n of them hold no more, the first that are left of all.

    Fewer of a space, which a search goes through by itself, and of dimensions that are not finite or have over FEW combinations.
    """
    found: list[Ask] = []
    for _ in range(REDRAWS * n):
        if len(found) == n:
            break
        ask = propose()
        if tried.add(ask):
            found.append(ask)
    sizes = [dim.range.size for dim in dims]
    if len(found) < n and space is None and prod(FEW + 1 if each is None else each for each in sizes) <= FEW:
        found += islice((ask for ask in every(None, dims) if tried.add(ask)), n - len(found))
    return found
