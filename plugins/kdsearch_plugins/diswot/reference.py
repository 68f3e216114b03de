"""Terms of unlike scale in one number, against a fixed sample of the space: no score depends on its company."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdsearch.ops.ranks import Rank


def rank_sum(terms: Sequence[float], reference: Sequence[Sequence[float]]) -> float:
    """Sum over terms of ln of the term's rank in (0, 1) in the reference (see `Rank`); < 0. -inf where a term is not finite.

    `reference`: a row of terms for each model of the sample.
    """
    if not all(map(math.isfinite, terms)):
        return -math.inf
    columns = zip(*reference, strict=True)
    return math.fsum(math.log(Rank(column)(term)) for term, column in zip(terms, columns, strict=True))


def z_sum(terms: Sequence[float], reference: Sequence[Sequence[float]]) -> float:
    """Sum over terms of (term - mean) / standard deviation (divisor N), both of the reference's finite values.

    A term in which the whole reference agrees, or has nothing finite, says nothing and counts 0. -inf where a term is not finite.
    """
    if not all(map(math.isfinite, terms)):
        return -math.inf
    total = 0.0
    for term, column in zip(terms, zip(*reference, strict=True), strict=True):
        finite = [value for value in column if math.isfinite(value)]
        mean = math.fsum(finite) / max(len(finite), 1)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / max(len(finite), 1))
        total += (term - mean) / deviation if deviation > 1e-12 * max(abs(mean), 1e-300) else 0.0
    return total
