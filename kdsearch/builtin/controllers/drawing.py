"""What every controller does: draw within conditions, and never ask for what was tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from torch import Generator

from kdsearch.builtin.controllers.folded import Folded
from kdsearch.kinds import Ask, Dim, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kinds.space import draw
from kdsearch.search.axis import encode
from kdsearch.store.hashing import stream

REDRAWS = 50  # draws for each wanted candidate before a controller answers with fewer


def generator(seed: int, history: Sequence[Trial]) -> Generator:
    """The stream of this ask: a function of the seed and how much was tried."""
    return stream(seed, "ask", len(history))


def parents_first(dims: Sequence[Dim]) -> list[Dim]:
    """The dimensions so that each comes after those its conditions name. Raise ValueError for a ring."""
    left, order = list(dims), []
    while left:
        waiting = {dim.path for dim in left}
        free = [dim for dim in left if not any(path in waiting for path, _ in dim.when)]
        if not free:
            raise ValueError(f"conditions in a ring: {', '.join(sorted(waiting))}")
        order += free
        left = [dim for dim in left if dim not in free]
    return order


def is_active(dim: Dim, values: Mapping[str, Value]) -> bool:
    """Whether the dimension counts at these values of the others; a condition on what is no dimension holds."""
    return all(_among(values.get(path), allowed, path in values) for path, allowed in dim.when)


def _among(value: Value, allowed: Sequence[Value], is_there: bool) -> bool:
    return is_there and any(encode(value) == encode(each) for each in allowed)


def draw_values(dims: Sequence[Dim], rng: Generator, given: Mapping[str, Value] | None = None) -> dict[str, Value]:
    """A uniform draw of every dimension that counts; `given`: values of other dimensions that conditions may name."""
    known = dict(given or {})
    values: dict[str, Value] = {}
    for dim in parents_first(dims):
        if is_active(dim, {**known, **values}):
            values[dim.path] = draw(dim, rng)
    return values


class Tried:
    """Remembers the keys of the history between asks: a space's canonical form is worked out once a candidate."""

    def __init__(self) -> None:
        self._keys: Folded[set[str]] = Folded()

    def of(self, space: SearchSpace[Any] | None, told: Sequence[Trial]) -> Distinct:
        """`told` in order of number."""

        def add(keys: set[str], trial: Trial) -> None:
            keys.add(key_of(space, trial.spec, trial.values))

        return Distinct(space, self._keys.of(space, told, set, add))


class Distinct:
    """The candidates tried before or asked since, by canonical form and values."""

    def __init__(self, space: SearchSpace[Any] | None, tried: Set[str]) -> None:
        self._space, self._tried = space, tried
        self._asked: set[str] = set()

    def is_tried(self, ask: Ask) -> bool:
        return key_of(self._space, ask.spec, ask.values) in self._tried

    def add(self, ask: Ask) -> bool:
        """Whether this one is new; from now on it is not."""
        key = key_of(self._space, ask.spec, ask.values)
        is_new = key not in self._tried and key not in self._asked
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
