"""Ranks of scores against a fixed reference, so that no score depends on its company."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

Score = float | None


class Rank:
    """A value's rank in (0, 1) among n reference values, strictly increasing in the value.

    At a reference value it is (number below + half of those equal + 1/2) / (n + 1); between two it is linear; beyond the ends
    it approaches `floor` and 1 at the pace of the reference's range. A value of None (NaN, infinity) has the rank `floor`;
    so have such reference values: they are below all others.
    """

    def __init__(self, reference: Sequence[Score]) -> None:
        n = len(reference)
        finite = sorted(each for each in reference if each is not None and math.isfinite(each))
        lost = n - len(finite)
        self.floor = 1 / (n + 1) ** 2
        self._knots = sorted(set(finite))
        self._ranks = [
            (lost + bisect_left(finite, v) + (bisect_right(finite, v) - bisect_left(finite, v)) / 2 + 0.5) / (n + 1)
            for v in self._knots
        ]
        self._scale = (finite[-1] - finite[0]) if len(self._knots) > 1 else 1.0

    def __call__(self, value: Score) -> float:
        if value is None or not math.isfinite(value):
            return self.floor
        if not self._knots:
            return 0.5
        if value <= self._knots[0]:
            near = 1 / (1 + (self._knots[0] - value) / self._scale)
            return self._ranks[0] - (self._ranks[0] - self.floor) * (1 - near)
        if value >= self._knots[-1]:
            near = 1 / (1 + (value - self._knots[-1]) / self._scale)
            return self._ranks[-1] + (1 - self._ranks[-1]) * (1 - near)
        right = bisect_right(self._knots, value)
        left = right - 1
        share = (value - self._knots[left]) / (self._knots[right] - self._knots[left])
        low, high = self._ranks[left], self._ranks[right]
        return min(max(low + share * (high - low), low), high)  # rounding must not leave the segment
