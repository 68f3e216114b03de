"""Whether what a controller asks for is a candidate of the dimensions that it was given, and what a space draws one of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Generator

from kdsearch.errors import PluginError
from kdsearch.kinds import Ask, Dim, Options, Range, SearchSpace
from kdsearch.kit.dims import is_active
from kdsearch.search.axis import encode

ROUNDED = 1e-9  # by which, relative to the end, a value may be beyond it: exp(log(x)) is not x


def check_ask(ask: object, dims: Sequence[Dim]) -> None:
    """Raise PluginError for what is no Ask, lacks a dimension that counts, or has a value that its range does not hold."""
    if not isinstance(ask, Ask):
        raise PluginError(f"the controller asks for {ask!r}", expected="a kdsearch.kinds.Ask")
    for dim in dims:
        if not is_active(dim, ask.values):
            continue
        if dim.path not in ask.values:
            raise PluginError(f"the controller's candidate has no value for '{dim.path}'", expected=_told(dim.range))
        value = ask.values[dim.path]
        if not _holds(dim.range, value):
            raise PluginError(f"the controller asks for {value!r} of '{dim.path}'", expected=_told(dim.range))


def plain(ask: Any) -> Any:
    """The candidate with Python's own numbers in place of NumPy's: it is kept as JSON. What is no Ask is left as it is."""
    if not isinstance(ask, Ask):
        return ask
    return replace(ask, values={path: _plain(value) for path, value in ask.values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def check_drawn(space: SearchSpace[Any], rng: Generator) -> None:
    """Raise PluginError for a space that draws no spec, or whose specs have no canonical form."""
    space.size()
    spec: object = space.sample(rng)
    canonical: object = space.canonical(spec) if isinstance(spec, Options) else None
    for method, given in (("sample", spec), ("canonical", canonical)):
        if not isinstance(given, Options):
            raise PluginError(f"`{method}` of the search space gives {given!r}", expected="its options")


def _holds(ranged: Range, value: object) -> bool:
    if ranged.each:
        one = Range(ranged.choices, ranged.low, ranged.high, ranged.log, ranged.integer)
        is_sequence = isinstance(value, list | tuple) and len(value) == ranged.each
        return is_sequence and all(_holds(one, each) for each in value)  # type: ignore[attr-defined]
    if ranged.choices:
        return any(_same(value, each) for each in ranged.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if ranged.integer and value != int(value):
        return False
    assert ranged.low is not None
    assert ranged.high is not None
    return ranged.low - abs(ranged.low) * ROUNDED <= value <= ranged.high + abs(ranged.high) * ROUNDED


def _same(value: object, choice: object) -> bool:
    try:
        return encode(value) == encode(choice)
    except (TypeError, ValueError):  # no JSON value
        return False


def _told(ranged: Range) -> str:
    if ranged.choices:
        return f"one of {', '.join(map(str, ranged.choices[:8]))}{', ...' if len(ranged.choices) > 8 else ''}"
    return f"{ranged.low:g} to {ranged.high:g}"
