"""A search over a table of known accuracies: each evaluation is looked up, so that strategies can be compared many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdsearch.kinds import Ask, Controller, Dim, SearchSpace, Trial

DRY = 2_000  # asks in a row without an architecture of the table before a strategy has no more


def curve_of(
    controller: Controller[Any],
    space: SearchSpace[Any] | None,
    dims: Sequence[Dim],
    key_of: Callable[[Ask], str],
    values: Mapping[str, float],
    budget: int,
    seed: int,
) -> list[float]:
    """Best value after each evaluation, one asked at a time; shorter than `budget` where the strategy has no more.

    Args:
        values: key -> what an evaluation gives, higher is better. An architecture that is not in it costs nothing, as one
            that breaks a constraint: the strategy is told so.
    """
    history: list[Trial] = []
    best: list[float] = []
    seen: set[str] = set()
    dry = 0
    while len(best) < budget and dry < DRY:
        asks = controller.ask(space, dims, history, 1, seed)
        if not asks:
            break
        for ask in asks:
            key, number = key_of(ask), len(history)
            if key not in values:
                dry += 1
                history.append(Trial(number, ask.values, ask.spec, "pruned", (), (1.0,)))
                continue
            history.append(Trial(number, ask.values, ask.spec, "complete", (-values[key],), (0.0,)))
            if key in seen:
                dry += 1
                continue
            dry = 0
            seen.add(key)
            best.append(max(values[key], best[-1] if best else values[key]))
    return best[:budget]


def curve_in_order(keys: Sequence[str], values: Mapping[str, float], budget: int) -> list[float]:
    """Best value after each evaluation of these, one after another."""
    best: list[float] = []
    for key in keys[:budget]:
        best.append(max(values[key], best[-1] if best else values[key]))
    return best
