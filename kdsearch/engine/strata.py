"""Parts of a split by class: who belongs to which, how many of each are taken, and which ones, by hash of their ids."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdsearch.kinds import HIDDEN


@dataclass(frozen=True)
class Samples:
    """One of an arrangement's splits, not yet opened: where each sample is, its true label, whether the study sees it.

    `source` (N,): which native split; `row` (N,): its position there; `label` (N,): HIDDEN where nobody knows it.
    """

    ids: tuple[str, ...]
    source: np.ndarray[Any, np.dtype[np.int64]]
    row: np.ndarray[Any, np.dtype[np.int64]]
    label: np.ndarray[Any, np.dtype[np.int64]]
    seen: np.ndarray[Any, np.dtype[np.bool_]]

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, rows: Iterable[int]) -> Samples:
        """The samples at `rows`, in the order of this split."""
        index = np.array(sorted(rows), dtype=np.int64)
        ids = tuple(self.ids[i] for i in index)
        return Samples(ids, self.source[index], self.row[index], self.label[index], self.seen[index])

    @property
    def visible(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(N,) the labels as the study reads them."""
        return np.where(self.seen, self.label, HIDDEN)


@dataclass(frozen=True)
class Strata:
    """What splits and labels are shared out over, in proportion.

    Args:
        n: how many there are. is_class: each is a class, of which training needs one at least.
        known: what a sample has whose target is known, in the words of its task.
    """

    n: int
    is_class: bool = True
    known: str = "a label"


def by_class(samples: Samples, n_classes: int) -> list[list[int]]:
    """Rows by class; the last group holds those whose label nobody knows (all, without classes)."""
    groups: list[list[int]] = [[] for _ in range(n_classes + 1)]
    for row, label in enumerate(samples.label.tolist()):
        groups[label if label != HIDDEN else n_classes].append(row)
    return groups


def first_by_hash(samples: Samples, rows: Sequence[int], n: int, seed: int, purpose: str) -> list[int]:
    """The n of `rows` that come first in the order of hash(seed, purpose, id)."""
    return sorted(rows, key=lambda row: order_by_hash(samples.ids[row], seed, purpose))[:n]


def order_by_hash(name: str, seed: int, purpose: str) -> bytes:
    """hash(seed, purpose, name), 16 bytes."""
    return hashlib.blake2b(f"{seed}\0{purpose}\0{name}".encode(), digest_size=16).digest()


def apportion(total: int, sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """Share `total` in proportion to `sizes` by largest remainders, `least[i]` <= part i <= `sizes[i]`.

    Sums to `total` brought into sum(least)..sum(sizes). Ties go to the first.
    """
    total = min(max(total, sum(least)), sum(sizes))
    whole = sum(sizes) or 1
    ideal = [total * size / whole for size in sizes]
    parts = [min(size, max(low, int(want))) for size, low, want in zip(sizes, least, ideal, strict=True)]
    gap = total - sum(parts)
    sign, ends = (1, sizes) if gap > 0 else (-1, least)
    wanting = [(-sign * (ideal[i] - parts[i]), i) for i in range(len(parts)) if parts[i] != ends[i]]
    heapq.heapify(wanting)
    for _ in range(abs(gap)):
        i = wanting[0][1]
        parts[i] += sign
        if parts[i] == ends[i]:
            heapq.heappop(wanting)
        else:
            heapq.heapreplace(wanting, (-sign * (ideal[i] - parts[i]), i))
    return parts
