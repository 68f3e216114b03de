"""What is searched beside the architecture: dimensions, their conditions, draws of them, and how Optuna knows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Generator

from kdsearch.kinds import Dim
from kdsearch.kinds.options import Value
from kdsearch.kinds.space import draw
from kdsearch.search.axis import Axis, encode

__all__ = ["Axis", "draw_values", "encode", "is_active", "parents_first"]


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
    """Whether the dimension counts at these values of the others; a condition on what has no value does not hold."""
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
