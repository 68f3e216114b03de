"""Non-dominated sorting (Deb et al., NSGA-II, 2002). Losses are minimised; a violation above 0 breaks a constraint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Losses = Sequence[Sequence[float]]


def violation(violations: Sequence[float]) -> float:
    """The sum of what is broken: 0 where every constraint holds; NaN counts as infinitely broken."""
    return math.fsum(math.inf if math.isnan(each) else max(each, 0.0) for each in violations)


def dominated_by(losses: Losses, violations: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    """(N, N): entry (i, j) says that j dominates i.

    Feasible before infeasible; of two infeasible ones, the less broken; of two feasible ones, no worse everywhere and better
    somewhere. A NaN loss counts as infinity.
    """
    n = len(losses)
    x = np.nan_to_num(np.asarray(losses, dtype=np.float64).reshape(n, -1), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    broken = np.array([violation(each) for each in violations])
    no_worse = (x[None, :, :] <= x[:, None, :]).all(-1)
    better = (x[None, :, :] < x[:, None, :]).any(-1)
    equal = broken[None, :] == broken[:, None]
    feasible: NDArray[np.bool_] = (broken == 0)[None, :] & equal & no_worse & better
    return feasible | (broken[None, :] < broken[:, None])


def fronts(
    losses: Losses, violations: Sequence[Sequence[float]] | None = None, enough: int | None = None
) -> list[list[int]]:
    """Indices by front, the best front first, ascending within a front; no further fronts once `enough` indices are found."""
    if not losses:
        return []
    if all(len(each) == 1 for each in losses):
        return _ranks([each[0] for each in losses], violations)
    if violations is None:
        return _peeled(losses, len(losses) if enough is None else enough)
    dominators = dominated_by(losses, violations)
    left = np.ones(len(losses), dtype=bool)
    found: list[list[int]] = []
    while left.any():
        free = left & ~(dominators & left[None, :]).any(1)
        found.append([int(i) for i in np.flatnonzero(free)])
        left &= ~free
    return found


def _peeled(losses: Losses, enough: int) -> list[list[int]]:
    """Front by front over the points in lexicographic order, in which none is dominated by a later one: memory stays linear."""
    x = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    left = np.lexsort(x.T[::-1])
    found: list[list[int]] = []
    n = 0
    while left.size and n < enough:
        members: list[int] = []
        rest: list[int] = []
        front = np.empty((left.size, x.shape[1]))
        for i in left:
            before = front[: len(members)]
            no_worse = (before <= x[i]).all(1)
            if no_worse.any() and (before[no_worse] < x[i]).any():
                rest.append(int(i))
            else:
                front[len(members)] = x[i]
                members.append(int(i))
        found.append(sorted(members))
        n += len(members)
        left = np.array(rest, dtype=np.int64)
    return found


def _ranks(losses: Sequence[float], violations: Sequence[Sequence[float]] | None) -> list[list[int]]:
    """The fronts of one loss, by sorting: there are as many as different losses."""
    broken = [0.0] * len(losses) if violations is None else [violation(each) for each in violations]
    keys = [
        (each, 0.0 if each else math.inf if math.isnan(loss) else loss)
        for each, loss in zip(broken, losses, strict=True)
    ]
    found: dict[tuple[float, float], list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return [members for _, members in sorted(found.items())]


def front(losses: Losses, violations: Sequence[Sequence[float]] | None = None) -> list[int]:
    """Indices of the feasible candidates that no other dominates."""
    if not losses:
        return []
    first = fronts(losses, violations)[0]
    return [i for i in first if violations is None or violation(violations[i]) == 0]


def crowding(losses: Losses) -> list[float]:
    """Crowding distance of each point of one front; infinite at the ends of every loss."""
    n = len(losses)
    if n == 0:
        return []
    x = np.asarray(losses, dtype=np.float64).reshape(n, -1)
    total = np.zeros(n)
    for column in x.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        total[order[[0, -1]]] = np.inf
        if span > 0 and n > 2:
            total[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return [float(each) for each in total]


def spread(losses: Losses, keep: int) -> list[int]:
    """`keep` indices spread over one front: the most crowded point leaves, one at a time; the first loss's best stays."""
    left = list(range(len(losses)))
    best = min(left, key=lambda i: (losses[i][0], i), default=0)
    while len(left) > keep:
        distance = crowding([losses[i] for i in left])
        at = min(
            (k for k in range(len(left)) if left[k] != best or len(left) == 1), key=lambda k: (distance[k], -left[k])
        )
        del left[at]
    return left
