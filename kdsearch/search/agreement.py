"""How well scores rank architectures whose accuracy is known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

BIN = 1.05  # nets of one bin differ by less than 5 % in parameters
BIN_MIN = 10  # nets that a bin needs to count


def comparable(scores: Sequence[float | None]) -> list[float]:
    """None and NaN as -infinity: ranked last, and equal to one another."""
    return [-math.inf if each is None or math.isnan(each) else float(each) for each in scores]


def kendall_tau(scores: Sequence[float | None], values: Sequence[float]) -> float | None:
    """Kendall's tau-b in [-1, 1]; None where one side is constant."""
    from scipy.stats import kendalltau

    return _finite(kendalltau(_ranked(scores), values, variant="b").statistic)


def tau_beyond(
    scores: Sequence[float | None], others: Sequence[float | None], values: Sequence[float], seed: int, n: int = 200
) -> tuple[float, float, float] | None:
    """tau-b of `scores` less that of `others`, and its 95 % interval: n bootstrap samples of the networks, by percentiles.

    None where one of them has no tau.
    """
    import numpy as np

    known = np.array(values)
    both = [np.array(_ranked(each)) for each in (scores, others)]

    def difference(rows: Any) -> float | None:
        taus = [kendall_tau(each[rows].tolist(), known[rows].tolist()) for each in both]
        return None if taus[0] is None or taus[1] is None else taus[0] - taus[1]

    whole, rng = difference(np.arange(len(known))), np.random.default_rng(seed)
    drawn = [difference(rng.integers(0, len(known), len(known))) for _ in range(n)]
    found = [each for each in drawn if each is not None]
    if whole is None or not found:
        return None
    low, high = np.percentile(found, [2.5, 97.5])
    return whole, float(low), float(high)


def spearman_rho(scores: Sequence[float | None], values: Sequence[float]) -> float | None:
    """Spearman's rho in [-1, 1]; None where one side is constant."""
    from scipy.stats import spearmanr

    ranked = _ranked(scores)
    if len(set(ranked)) < 2 or len(set(values)) < 2:
        return None
    return _finite(spearmanr(ranked, values).statistic)


def pearson(scores: Sequence[float | None], values: Sequence[float]) -> float | None:
    """Pearson's correlation in [-1, 1] over those with a finite score; None where one side is constant."""
    finite = [(each, value) for each, value in zip(comparable(scores), values, strict=True) if math.isfinite(each)]
    if len({each for each, _ in finite}) < 2 or len({value for _, value in finite}) < 2:
        return None
    from scipy.stats import pearsonr

    given, known = zip(*finite, strict=True)
    return _finite(pearsonr(given, known).statistic)


def tau_in_bins(scores: Sequence[float | None], values: Sequence[float], params: Sequence[int]) -> float | None:
    """Mean tau-b within bins of nearly equal size, floor(ln params / ln 1.05), weighted by a bin's number of pairs.

    Bins of fewer than 10 nets do not count; one of constant scores counts as 0. None where no bin is left.
    """
    bins: dict[int, list[int]] = defaultdict(list)
    for i, n in enumerate(params):
        bins[math.floor(math.log(n) / math.log(BIN)) if n > 0 else -1].append(i)
    total = pairs = 0.0
    for members in bins.values():
        inside = [values[i] for i in members]
        if len(members) < BIN_MIN or len(set(inside)) < 2:
            continue
        weight = len(members) * (len(members) - 1) / 2
        total += weight * (kendall_tau([scores[i] for i in members], inside) or 0.0)
        pairs += weight
    return total / pairs if pairs else None


def best_of_top(scores: Sequence[float | None], values: Sequence[float], n: int = 10) -> float:
    """The best value among the n highest scores: its mean over the orders of those that share the n-th place."""
    ranked = comparable(scores)
    order = sorted(range(len(ranked)), key=lambda i: -ranked[i])
    n = min(n, len(order))
    last = ranked[order[n - 1]]
    above = [values[i] for i in order if ranked[i] > last]
    tied = sorted(values[i] for i in order if ranked[i] == last)
    room, floor = n - len(above), max(above, default=-math.inf)
    orders = math.comb(len(tied), room)  # C(j - 1, room - 1) of them have the j-th smallest as their largest
    return math.fsum(
        math.comb(j - 1, room - 1) / orders * max(value, floor) for j, value in enumerate(tied, 1) if j >= room
    )


def precision_at(scores: Sequence[float | None], values: Sequence[float], share: float) -> float:
    """P@topK, K that share of the networks: the share of the K highest scores that are among the K best, in [0, 1].

    Where the K-th place is shared, its mean over the orders of those that share it.
    """
    k = max(1, round(share * len(values)))
    return math.fsum(a * b for a, b in zip(_within(scores, k), _within(values, k), strict=True)) / k


def minmax_at(scores: Sequence[float | None], values: Sequence[float], share: float) -> tuple[float, float]:
    """minmax@k, k that share of the networks, as ranks in (0, 1], near 0 the best.

    The best rank by value among the k highest scores, and the worst rank by score of the k best. Ties share the middle of their
    places; where the k-th place is shared, the mean over the orders of those that share it.
    """
    n = len(values)
    k = max(1, round(share * n))
    best = best_of_top(scores, [-place for place in _places(values)], k)
    return -best / n, best_of_top(values, _places(scores), k) / n


def _within(scores: Sequence[float | None], k: int) -> list[float]:
    """The chance of each to be among the k highest, where ties are put in any order."""
    ranked = comparable(scores)
    last = sorted(ranked, reverse=True)[k - 1]
    above, tied = sum(each > last for each in ranked), ranked.count(last)
    return [1.0 if each > last else (k - above) / tied if each == last else 0.0 for each in ranked]


def _places(scores: Sequence[float | None]) -> list[float]:
    """1 for the highest; ties share the middle of their places."""
    from scipy.stats import rankdata

    return [float(each) for each in rankdata([-rank for rank in _ranked(scores)])]


def _ranked(scores: Sequence[float | None]) -> list[float]:
    """Dense ranks: infinities compare like other numbers."""
    given = comparable(scores)
    ranks = {value: i for i, value in enumerate(sorted(set(given)))}
    return [float(ranks[value]) for value in given]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
