"""What every controller does: draw within conditions, and never ask for what was tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Generator

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


def draw_values(dims: Sequence[Dim], rng: Generator) -> dict[str, Value]:
    """A uniform draw of every dimension that counts."""
    values: dict[str, Value] = {}
    for dim in parents_first(dims):
        if is_active(dim, values):
            values[dim.path] = draw(dim, rng)
    return values


class Distinct:
    """The candidates tried or asked so far, by canonical form and values."""

    def __init__(self, space: SearchSpace[Any] | None, history: Iterable[Trial] = ()) -> None:
        self.space = space
        self._has_own_key = space is not None and type(space).key is not SearchSpace.key
        self._seen = {self._of(trial.spec, trial.values) for trial in history}

    def add(self, ask: Ask) -> bool:
        """Whether this one is new; from now on it is not."""
        key = self._of(ask.spec, ask.values)
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new

    def _of(self, spec: Mapping[str, Any] | None, values: Mapping[str, Value]) -> str:
        if spec is not None and self._has_own_key:
            assert self.space is not None
            return self.space.key(self.space.parse(dict(spec))) + encode(dict(values))
        return encode([spec, dict(values)])


def ask_of(space: SearchSpace[Any] | None, spec: Any, values: Mapping[str, Value]) -> Ask:
    """The candidate with its spec in canonical form, as JSON values."""
    if space is None or spec is None:
        return Ask(dict(values))
    return Ask(dict(values), space.canonical(spec).model_dump(mode="json"))
