"""Small statistics that the report and the card print."""

from __future__ import annotations

import math
from collections.abc import Sequence

NORMAL_95 = 1.959963984540054  # standard deviations on either side that hold 95 % of a normal distribution


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion seen on n samples (Wilson, 1927)."""
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"a share in [0, 1] of n >= 1 samples is needed, not {share} of {n}")
    z2 = NORMAL_95**2  # by hand: scipy.stats takes a second to import, in every process that trains
    p = round(share * n) / n
    middle, half = p + z2 / (2 * n), NORMAL_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


def tau_noise(n: int) -> float:
    """Standard deviation of tau over n pairs that have nothing to do with each other."""
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) if n > 1 else math.inf


def front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats: lower cost, higher gain; by cost, one of equals."""
    best, chosen = -math.inf, []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i])):
        if gains[i] > best:
            best = gains[i]
            chosen.append(i)
    return chosen
