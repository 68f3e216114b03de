"""Several proxies as one score: the sum of log ranks against a fixed reference sample, so that no score depends on its company."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kdsearch.ops.ranks import Rank, Score

__all__ = ["Combined", "Rank", "Score"]


class Combined:
    """One score from several: the sum over proxies of the log of their ranks (higher is better); a single proxy is itself.

    Args:
        names: the proxies that count.
        reference: rows of scores of the reference sample; not read where there is one proxy.
    """

    def __init__(self, names: Sequence[str], reference: Sequence[Mapping[str, Score]] = ()) -> None:
        if len(names) > 1 and not reference:
            raise ValueError("several proxies are combined by rank: a reference sample is needed")
        self.names = tuple(names)
        self.ranks = {name: Rank([row.get(name) for row in reference]) for name in names} if len(names) > 1 else {}

    def __call__(self, scores: Mapping[str, Score]) -> Score:
        """None where no proxy has a score: ranked last."""
        found = [scores.get(name) for name in self.names]
        if all(each is None for each in found):
            return None
        if not self.ranks:
            return found[0]
        return math.fsum(math.log(self.ranks[name](value)) for name, value in zip(self.names, found, strict=True))
