"""Non-dominated sorting with constraints (Deb et al., NSGA-II, 2002). Losses are minimised; a violation above 0 breaks one.

Ranks are moocore's; feasibility, NaN and crowding distances, which it has not, are added here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Losses = Sequence[Sequence[float]]

BEYOND = 0.1  # of a loss's span, by which the corner of a hypervolume lies behind the worst


def violation(violations: Sequence[float]) -> float:
    """The sum of what is broken: 0 where every constraint holds; NaN counts as infinitely broken."""
    return math.fsum(math.inf if math.isnan(each) else max(each, 0.0) for each in violations)


def fronts(
    losses: Losses, violations: Sequence[Sequence[float]] | None = None, enough: int | None = None
) -> list[list[int]]:
    """Indices by front, the best front first, ascending within a front; no further fronts once `enough` indices are found.

    Feasible before infeasible, and of infeasible ones the less broken; of feasible ones those first that no other beats
    somewhere without losing elsewhere. A NaN loss counts as infinity.
    """
    if not losses:
        return []
    import moocore  # numpy and a small C library; only what sorts needs it

    x = np.nan_to_num(np.asarray(losses, dtype=np.float64), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    # only the order counts, and infinities crash moocore 0.3.2
    x = np.stack([np.unique(column, return_inverse=True)[1] for column in x.T], axis=1).astype(np.float64)
    broken = np.array([violation(each) for each in violations] if violations is not None else np.zeros(len(x)))
    ranks = np.empty(len(x), dtype=np.int64)
    kept = broken == 0
    if kept.any():
        ranks[kept] = moocore.pareto_rank(x[kept])
    amounts = np.unique(broken[~kept])
    ranks[~kept] = len(x) + np.searchsorted(amounts, broken[~kept])
    found: list[list[int]] = []
    n = 0
    for rank in np.unique(ranks):
        if enough is not None and n >= enough:
            break
        found.append([int(i) for i in np.flatnonzero(ranks == rank)])
        n += len(found[-1])
    return found


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
    best = min(range(len(losses)), key=lambda i: (losses[i][0], i), default=0)
    left = _without_crowds(losses, keep, best) if len(losses) > keep else list(range(len(losses)))
    while len(left) > keep:  # the ends, of which there are few
        distance = crowding([losses[i] for i in left])
        at = min(
            (k for k in range(len(left)) if left[k] != best or len(left) == 1), key=lambda k: (distance[k], -left[k])
        )
        del left[at]
    return left


def _without_crowds(losses: Losses, keep: int, best: int) -> list[int]:
    """What is left of a front once the most crowded points left, one at a time, until `keep` or `best` and ends alone are left.

    As no end leaves, every loss keeps its span, and a point that leaves changes the distances of its neighbours alone.
    """
    n = len(losses)
    columns = [[float(each[k]) for each in losses] for k in range(len(losses[0]))]
    before, after = [], []  # by loss: each point's neighbours, -1 = none
    for column in columns:
        order = sorted(range(n), key=lambda i: (column[i], i))
        before.append(dict(zip(order, [-1, *order], strict=False)))
        after.append(dict(zip(order, [*order[1:], -1], strict=True)))
    spans = [max(column) - min(column) for column in columns]

    def distance(i: int) -> float:
        total = 0.0
        for column, span, low, high in zip(columns, spans, before, after, strict=True):
            if low[i] < 0 or high[i] < 0:
                return math.inf
            total += (column[high[i]] - column[low[i]]) / span if span > 0 else 0.0
        return total

    distances = {i: distance(i) for i in range(n)}
    queue = [(each, -i) for i, each in distances.items() if i != best and each < math.inf]
    heapify(queue)
    while len(distances) > keep and queue:
        told, i = heappop(queue)
        if distances.get(-i) != told:  # it left, or a neighbour did
            continue
        del distances[-i]
        neighbours = set[int]()
        for low, high in zip(before, after, strict=True):
            near, far = low.pop(-i), high.pop(-i)
            high[near], low[far] = far, near
            neighbours |= {near, far}
        for each in neighbours - {best}:
            distances[each] = distance(each)
            if distances[each] < math.inf:
                heappush(queue, (distances[each], -each))
    return sorted(distances)


def hypervolumes(losses: Sequence[Sequence[float] | None], violations: Sequence[Sequence[float]]) -> list[float]:
    """After each point, in order: which share of a box the feasible ones so far dominate, in [0, 1].

    The box spans, in every loss, all the feasible ones of the whole sequence and BEYOND of that span more, so that the worst of one
    loss still counts by the others. None: no losses, as of a point that failed.

    Source: Zitzler and Thiele, IEEE TEC 1999 (the S metric), normalised.
    """
    import moocore

    counts = [
        each is not None and all(map(math.isfinite, each)) and violation(broken) == 0
        for each, broken in zip(losses, violations, strict=True)
    ]
    kept = np.array([each for each, is_one in zip(losses, counts, strict=True) if is_one], dtype=np.float64)
    if not len(kept):
        return [0.0] * len(losses)
    unit, corner = _boxed(kept, kept)
    front, volumes = unit[:0], [0.0]
    for point in unit:
        volume = volumes[-1]
        if not (front <= point).all(1).any():
            front = np.vstack([front[~(point <= front).all(1)], point])
            volume = max(volume, min(float(moocore.hypervolume(front, ref=corner) / corner.prod()), 1.0))
        volumes.append(volume)
    return [volumes[n] for n in np.cumsum(counts)]


def contributions(losses: Losses, box: Losses) -> list[float]:
    """What the hypervolume of these points' front would lose without each, as a share of `box`'s box (see `hypervolumes`).

    A point that another dominates adds nothing, and others add as much as without it; of equal points the first adds what all of
    them do. All losses finite.

    Source: Emmerich, Beume and Naujoks, SMS-EMOA, EMO 2005.
    """
    if not losses:
        return []
    import moocore

    unit, corner = _boxed(np.asarray(losses, dtype=np.float64), np.asarray(box, dtype=np.float64))
    if unit.shape[1] == 1:  # moocore wants two losses: a second one that is worth the same to all
        unit, corner = np.pad(unit, ((0, 0), (0, 1))), np.append(corner, 1.0)
    points, first = np.unique(unit, axis=0, return_index=True)  # of equal points moocore says 0 for each
    found = np.zeros(len(unit))
    found[first] = moocore.hv_contributions(points, ref=corner) / corner.prod()
    return [float(each) for each in found]


def _boxed(losses: Points, box: Points) -> tuple[Points, Points]:
    """Losses (n, k) in units of the box that the points of `box` span, and its corner, BEYOND of each span behind the worst."""
    span = np.ptp(box, axis=0)
    return (losses - box.min(0)) / np.where(span > 0, span, 1.0), np.full(box.shape[1], 1 + BEYOND)
