"""Several proxies as one score: a mean of ranks against a fixed reference sample, so that no score depends on its company."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kdsearch.ops.ranks import Rank, Score

__all__ = ["Combined", "Rank", "Score"]

EXPONENT = 1 / 3  # of the power mean: 0 would be the geometric mean, as the sum of log ranks orders; see docs/scores.md


class Combined:
    """One score from several, in (0, 1): the weighted power mean of their ranks with exponent 1/3; a single proxy is itself.

    M(r) = (sum_i w_i r_i^(1/3) / sum_i w_i)^3. Between the geometric mean, where one bad rank spoils all, and the arithmetic one.

    Args:
        proxies: those that count, with their weights; without, all weigh 1.
        reference: rows of scores of the reference sample; not read where there is one proxy.
    """

    def __init__(
        self, proxies: Sequence[str] | Mapping[str, float], reference: Sequence[Mapping[str, Score]] = ()
    ) -> None:
        self.weights = dict(proxies) if isinstance(proxies, Mapping) else dict.fromkeys(proxies, 1.0)
        if len(self.weights) > 1 and not reference:
            raise ValueError("several proxies are combined by rank: a reference sample is needed")
        ranked = self.weights if len(self.weights) > 1 else ()
        self.ranks = {name: Rank([row.get(name) for row in reference]) for name in ranked}

    def __call__(self, scores: Mapping[str, Score]) -> Score:
        """None where no proxy has a score: ranked last."""
        found = [scores.get(name) for name in self.weights]
        if all(each is None for each in found):
            return None
        if not self.ranks:
            return found[0]
        parts = zip(self.weights.items(), found, strict=True)
        total = math.fsum(weight * self.ranks[name](value) ** EXPONENT for (name, weight), value in parts)
        return float((total / math.fsum(self.weights.values())) ** (1 / EXPONENT))
