"""Uniform random search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdsearch.builtin.controllers.drawing import REDRAWS, Distinct, ask_of, draw_values, generator
from kdsearch.kinds import Ask, Controller, Dim, NoOptions, SearchSpace, Trial


class Random(Controller[NoOptions]):
    """Draws every candidate anew, each at most once."""

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        rng, tried = generator(seed, history), Distinct(space, history)
        found: list[Ask] = []
        for _ in range(REDRAWS * n):
            if len(found) == n:
                break
            ask = ask_of(space, space.sample(rng) if space else None, draw_values(dims, rng))
            if tried.add(ask):
                found.append(ask)
        return found
