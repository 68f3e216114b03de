"""Several proxies as one score: weighted log ranks against a fixed reference sample, so that no score depends on its company."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kdsearch.ops.ranks import Rank, Score

__all__ = ["Combined", "Rank", "Score"]


class Combined:
    """One score from several: the sum over proxies of weight x log rank (higher is better); a single proxy is itself.

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
        return math.fsum(weight * math.log(self.ranks[name](value)) for (name, weight), value in parts)
