"""Uniform random search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdsearch.kinds import Ask, Controller, Dim, NoOptions, SearchSpace, Trial
from kdsearch.kit.candidates import Tried, drawn, generator, new_ones
from kdsearch.kit.histories import in_order


class Random(Controller[NoOptions]):
    """Draws every candidate anew, each at most once."""

    def __init__(self, options: NoOptions) -> None:
        super().__init__(options)
        self._tried = Tried()

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        rng, tried = generator(seed, history), self._tried.of(space, in_order(history))
        return new_ones(n, tried, lambda: drawn(space, dims, rng), space, dims)
