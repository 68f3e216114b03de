"""Which channels go at a level, and the gentlest level at which a limit holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from kdsearch.builtin.channels.groups import Group
from kdsearch.builtin.channels.importance import Scores

BISECTIONS = 12  # the level is found to 1/4096, finer than one channel of the usual layer
Counts = list[int]  # channels that stay, by group


def counts_at(
    groups: Sequence[Group], scores: Sequence[Scores], level: float, scope: Literal["global", "layer"], round_to: int
) -> Counts:
    """What stays at `level`, 0 = everything, 1 = the least that is allowed; what goes at a level goes at every higher one."""
    every = np.sort(np.concatenate(scores)) if groups else np.zeros(1)
    bar = every[max(0, math.ceil(level * len(every)) - 1)] if level else -math.inf
    found = []
    for group, score in zip(groups, scores, strict=True):
        n, step = len(group), _step(group, round_to)
        stay = int((score > bar).sum()) if scope == "global" else round(n * (1 - level))
        found.append(min(n, max(1, math.ceil(stay / step)) * step))
    return found


def _step(group: Group, round_to: int) -> int:
    """Channels that stay are a multiple of this: a head, say, is many rows of what it makes."""
    reads = [each for each in group.places if each.dim == 1] or list(group.places)
    width = min(int((each.owner >= 0).sum()) // len(group) for each in reads)
    return round_to // math.gcd(round_to, max(width, 1))


def least_of(group: Group, score: Scores, stay: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Labels of the least important channels, all but `stay`."""
    return group.labels[np.argsort(score, kind="stable")[: len(group) - stay]]


def gentlest(
    groups: Sequence[Group],
    scores: Sequence[Scores],
    scope: Literal["global", "layer"],
    round_to: int,
    holds: Callable[[Counts], bool],
) -> Counts | None:
    """The most channels with which `holds`; None where not even the least that is allowed do."""
    best = counts_at(groups, scores, 1.0, scope, round_to)
    gentler = [len(each) for each in groups]
    if not holds(best):
        return None
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        tried = counts_at(groups, scores, middle, scope, round_to)
        if holds(tried):
            best, high = tried, middle
        else:
            gentler, low = tried, middle
    # Many groups may shrink by a whole step at one level: give back what need not go (0.30 -> 0.40 at a target of 0.5).
    for at in range(len(groups)):
        tried = [*best[:at], gentler[at], *best[at + 1 :]]
        if tried != best and holds(tried):
            best = tried
    return best
