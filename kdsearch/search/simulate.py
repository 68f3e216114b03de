"""A search over a table of known accuracies: each evaluation is looked up, so that strategies can be compared many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from kdsearch.kinds import Ask, Controller, Dim, SearchSpace, Trial
from kdsearch.kinds.controller import check_asks

DRY = 300  # asks in a row without a new architecture of the table before one is drawn from it in their place
PATIENCE = 50  # asks in a row after which the next ones are
LOST = 10  # asks in a row, from the first on, where chance finds fewer than one in DRY: of TPE each takes 5 to 30 ms


def patience_of(n: int, space: SearchSpace[Any] | None) -> int:
    """Asks in a row without one of the table's n architectures before one of them is drawn."""
    size = None if space is None else space.size()
    return DRY if size is not None and n * DRY >= size else LOST


def curve_of(
    controller: Controller[Any],
    space: SearchSpace[Any] | None,
    dims: Sequence[Dim],
    key_of: Callable[[Ask], str],
    values: Mapping[str, float],
    budget: int,
    seed: int,
    spare: Sequence[tuple[str, Ask]] = (),
    patience: int = DRY,
) -> list[float]:
    """Best value after each evaluation, one asked at a time; shorter than `budget` where there is no more.

    Args:
        values: key -> what an evaluation gives, higher is better. An architecture that is not in it costs nothing, as one
            that breaks a constraint: the strategy is told so.
        spare: (key, what would ask for it) of every architecture of the table, in random order: what a strategy goes on with that
            finds none of them by itself, as where the table is a small part of the space.
        patience: see `patience_of`.
    """
    history: list[Trial] = []
    best: list[float] = []
    seen: set[str] = set()
    dry = 0
    left = iter(spare)
    while len(best) < min(budget, len(values)):
        asks = controller.ask(space, dims, history, 1, seed) if dry < patience else []
        check_asks(asks)
        if not asks:
            patience = min(patience, PATIENCE)
            asks = [ask for _, ask in islice(((key, ask) for key, ask in left if key not in seen), 1)]
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
