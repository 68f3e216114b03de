"""Ego-graphs: a node with the nodes around it, at most so many, the same ones in every run."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Graph:
    """Nodes by name and, of each, its neighbours' places; edges go both ways, loops and copies are left out."""

    ids: tuple[str, ...]
    neighbours: tuple[Ints, ...]

    @classmethod
    def of(cls, ids: Sequence[str], edges: Ints) -> Graph:
        """`edges` (E, 2): places of both ends."""
        both = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0) if len(edges) else edges.reshape(0, 2)
        both = both[both[:, 0] != both[:, 1]]
        starts = np.searchsorted(both[:, 0], np.arange(len(ids) + 1))
        found = tuple(both[starts[i] : starts[i + 1], 1] for i in range(len(ids)))
        return cls(tuple(ids), found)

    @property
    def n_edges(self) -> int:
        return sum(len(each) for each in self.neighbours) // 2

    def around(self, node: int, size: int, hops: int) -> list[int]:
        """At most `size` nodes, `node` first, then ring by ring up to `hops` steps away.

        Where a ring has more than fit, those go along that come first by the digest of both names: which ones do depends on
        neither the order of files nor a seed.
        """
        found, seen, ring = [node], {node}, [node]
        for _ in range(hops):
            if not ring or len(found) == size:
                break
            reached = set(np.concatenate([self.neighbours[at] for at in ring]).tolist()) - seen
            ring = heapq.nsmallest(size - len(found), sorted(reached), key=self._order_from(node))
            found += ring
            seen.update(ring)
        return found

    def _order_from(self, node: int) -> Callable[[int], bytes]:
        begun = hashlib.blake2b(f"{self.ids[node]}\0".encode(), digest_size=8)

        def digest(other: int) -> bytes:
            both = begun.copy()
            both.update(self.ids[other].encode())
            return both.digest()

        return digest

    def adjacency(self, nodes: Sequence[int], size: int) -> Ints:
        """(size, size) of 0 and 1: which of these nodes are neighbours; padding has none."""
        made = np.zeros((size, size), np.int64)
        places, at = {node: i for i, node in enumerate(nodes)}, np.array(nodes)
        for i, node in enumerate(nodes):
            others = self.neighbours[node]
            if len(others) > len(nodes):  # the few are looked up among the many, which are sorted
                others = at[others[np.searchsorted(others, at) % len(others)] == at]
            for other in others.tolist():
                if other in places:
                    made[i, places[other]] = 1
        return made
