"""How well scores rank architectures whose accuracy is known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

BIN = 1.05  # nets of one bin differ by less than 5 % in parameters
BIN_MIN = 10  # nets that a bin needs to count


def comparable(scores: Sequence[float | None]) -> list[float]:
    """None and NaN as -infinity: ranked last, and equal to one another."""
    return [-math.inf if each is None or math.isnan(each) else float(each) for each in scores]


def kendall_tau(scores: Sequence[float | None], values: Sequence[float]) -> float | None:
    """Kendall's tau-b in [-1, 1]; None where one side is constant."""
    from scipy.stats import kendalltau

    return _finite(kendalltau(_ranked(scores), values, variant="b").statistic)


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
    """The best value among the n highest scores; where the n-th place is tied, in the order of the rows."""
    return max(values[i] for i in _descending(scores)[:n])


def precision_at(scores: Sequence[float | None], values: Sequence[float], share: float) -> float:
    """P@topK, K that share of the networks: how many of the K highest scores are among the K best, in [0, 1]; ties as above."""
    k = max(1, round(share * len(values)))
    return len({*_descending(scores)[:k]} & {*_descending(values)[:k]}) / k


def minmax_at(scores: Sequence[float | None], values: Sequence[float], share: float) -> tuple[float, float]:
    """minmax@k, k that share of the networks, as ranks in (0, 1], 1/N the best: the best true rank among the k highest scores, and
    the worst rank by score of the k best; ties as above."""
    n, by_score, by_value = len(values), _descending(scores), _descending(values)
    k = max(1, round(share * n))
    rank, place = ({i: at for at, i in enumerate(order, 1)} for order in (by_value, by_score))
    return min(rank[i] for i in by_score[:k]) / n, max(place[i] for i in by_value[:k]) / n


def _descending(scores: Sequence[float | None]) -> list[int]:
    """Indices, the highest first; of ties the first."""
    ranked = comparable(scores)
    return sorted(range(len(ranked)), key=lambda i: -ranked[i])


def _ranked(scores: Sequence[float | None]) -> list[float]:
    """Dense ranks: infinities compare like other numbers."""
    given = comparable(scores)
    ranks = {value: i for i, value in enumerate(sorted(set(given)))}
    return [float(ranks[value]) for value in given]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
