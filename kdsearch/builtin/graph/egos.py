"""Ego-graphs: a node with the nodes around it, at most so many, the same ones in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
            reached = sorted({int(each) for at in ring for each in self.neighbours[at]} - seen)
            reached.sort(key=lambda at: self._order(node, at))
            ring = reached[: size - len(found)]
            found += ring
            seen.update(ring)
        return found

    def _order(self, node: int, other: int) -> bytes:
        return hashlib.blake2b(f"{self.ids[node]}\0{self.ids[other]}".encode(), digest_size=8).digest()

    def adjacency(self, nodes: Sequence[int], size: int) -> Ints:
        """(size, size) of 0 and 1: which of these nodes are neighbours; padding has none."""
        made = np.zeros((size, size), np.int64)
        places = {node: i for i, node in enumerate(nodes)}
        for i, node in enumerate(nodes):
            for other in self.neighbours[node].tolist():
                if other in places:
                    made[i, places[other]] = 1
        return made
