"""Several proxies as one score: a mean of ranks against a fixed reference sample, so that no score depends on its company."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdsearch.ops.ranks import Rank, Score

__all__ = ["Combined", "Rank", "Score", "Weight"]

EXPONENT = 1 / 3  # of the power mean: 0 would be the geometric mean, as the sum of log ranks orders; see docs/scores.md


@dataclass(frozen=True)
class Weight:
    """What a proxy's rank counts for: `base`, and `own` times the share of the reference sample whose score no other of it has."""

    base: float = 1.0
    own: float = 0.0

    def __add__(self, other: Weight) -> Weight:
        return Weight(self.base + other.base, self.own + other.own)

    def on(self, reference: Sequence[Score]) -> float:
        counts = Counter(reference)
        alone = sum(1 for score, n in counts.items() if n == 1 and score is not None)
        return self.base + self.own * alone / max(len(reference), 1)


class Combined:
    """One score from several, in (0, 1): the weighted power mean of their ranks with exponent 1/3; a single proxy is itself.

    M(r) = (sum_i w_i r_i^(1/3) / sum_i w_i)^3. Between the geometric mean, where one bad rank spoils all, and the arithmetic one.

    Args:
        proxies: those that count, with their weights; without, all weigh 1.
        reference: rows of scores of the reference sample; not read where there is one proxy.
    """

    def __init__(
        self, proxies: Sequence[str] | Mapping[str, Weight], reference: Sequence[Mapping[str, Score]] = ()
    ) -> None:
        asked = proxies if isinstance(proxies, Mapping) else dict.fromkeys(proxies, Weight())
        if len(asked) > 1 and not reference:
            raise ValueError("several proxies are combined by rank: a reference sample is needed")
        scores = {name: [row.get(name) for row in reference] for name in asked}
        self.weights = {name: weight.on(scores[name]) for name, weight in asked.items()}
        self.ranks = {name: Rank(scores[name]) for name in asked if len(asked) > 1}

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
