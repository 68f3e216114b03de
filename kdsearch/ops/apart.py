"""Numbers that stand far apart from the others of an output, such as those of a mask: they say nothing of its scale."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAP = 7  # powers of two without any number, before those that stand apart
LEAST = 2.0**13  # what is smaller stands beside small numbers: -1e4 masks a score, 1 is no mask beside rounding errors
FEW = 0.1  # so large a share of the numbers may be small without being what an output is about


def beyond(values: NDArray[Any]) -> float:
    """The magnitude that those apart are above, and no other; inf where none is. Infinities and NaN are not looked at."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)].astype(np.float64))
    if not sizes.size:
        return math.inf
    powers = np.frexp(sizes)[1].astype(np.int64)  # each is in [2^(p - 1), 2^p)
    lowest = int(powers.min())
    counts = np.bincount(powers - lowest)
    start = int(np.searchsorted(np.cumsum(counts), FEW * sizes.size))
    full = np.flatnonzero(counts[start:]) + start
    for below, above in pairwise(full):
        if above - below > GAP and 2.0 ** float(above + lowest - 1) >= LEAST:
            return float(2.0 ** float(below + lowest))
    return math.inf
