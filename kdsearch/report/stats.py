"""Small statistics that the report and the card print."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # 97.5 % quantile of N(0, 1)


def wilson(share: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion seen on n samples (Wilson, 1927, eq. for the two roots)."""
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"a share in [0, 1] of n >= 1 samples is needed, not {share} of {n}")
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def tau_b(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Kendall's tau-b (Kendall, 1945): ties count in neither order. None where one side is constant or n < 2."""
    agree = ties_x = ties_y = pairs = 0
    for i in range(len(xs)):
        for j in range(i):
            x, y = (xs[i] > xs[j]) - (xs[i] < xs[j]), (ys[i] > ys[j]) - (ys[i] < ys[j])
            pairs += 1
            agree += x * y
            ties_x += x == 0
            ties_y += y == 0
    free = (pairs - ties_x) * (pairs - ties_y)
    return agree / math.sqrt(free) if free else None


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
