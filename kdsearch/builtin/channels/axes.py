"""Which channels must go together: every index of every axis carries the labels of the channels that it is part of.

An index of an axis goes when one of its labels goes. Labels that turn out to be one channel are joined (union-find); a label whose
axis is reshaped into several is refined into one label an axis: in attention an output of `qkv` is head h and place d, and goes
with either. What cannot go is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.int64]
DEEPEST = 16  # refinements of refinements; more are a circle


@dataclass(frozen=True)
class Axis:
    """Labels of each index: `columns` of (size,) label numbers, 0 = none. An axis without columns never changes."""

    size: int
    columns: tuple[Column, ...] = ()


class Labels:
    """All labels of a network, their joins and refinements. Number 0 is no label."""

    def __init__(self) -> None:
        self._parent: Column = np.zeros(1024, np.int64)
        self._frozen = np.zeros(1024, np.bool_)
        self._refined = np.zeros(1024, np.bool_)
        self._parts: dict[int, tuple[int, ...]] = {}
        self._n = 1
        self.reasons: dict[int, str] = {}  # of labels at the time when they were frozen

    def fresh(self, size: int) -> Axis:
        """An axis of new labels; one of size 1 has none, since nothing would be left."""
        return Axis(size, (self._new(size),)) if size > 1 else Axis(size)

    def _new(self, n: int) -> Column:
        while self._n + n > len(self._parent):
            for name in ("_parent", "_frozen", "_refined"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        made = np.arange(self._n, self._n + n)
        self._parent[made] = made
        self._n += n
        return made

    def roots(self, column: Column) -> Column:
        found = self._parent[column]
        while True:
            further = self._parent[found]
            if np.array_equal(further, found):
                return found
            found = further

    def resolved(self, axis: Axis) -> Axis:
        """The same axis in today's labels: joined, refined, without what is frozen."""
        columns, depth = list(axis.columns), 0
        while True:
            columns = [self.roots(each) for each in columns]
            if not any(self._refined[each].any() for each in columns):
                break
            depth += 1
            if depth > DEEPEST:
                for each in columns:
                    self._freeze(each, "its axes are reshaped into one another")
                break
            columns = [part for each in columns for part in self._expanded(each)]
        kept: dict[bytes, Column] = {}
        for each in columns:
            each = np.where(self._frozen[each], 0, each)
            if each.any():
                kept.setdefault(each.tobytes(), each)
        return Axis(axis.size, tuple(kept.values()))

    def _expanded(self, column: Column) -> list[Column]:
        is_refined = self._refined[column]
        if not is_refined.any():
            return [column]
        made = np.zeros((max(len(self._parts[int(each)]) for each in column[is_refined]), len(column)), np.int64)
        for i, each in enumerate(column):
            parts = self._parts[int(each)] if is_refined[i] else (int(each),)
            made[: len(parts), i] = parts
        return list(made)

    def freeze(self, axis: Axis, reason: str) -> None:
        for column in self.resolved(axis).columns:
            self._freeze(column, reason)

    def _freeze(self, column: Column, reason: str) -> None:
        for each in np.unique(self.roots(column)):
            if each and not self._frozen[each]:
                self._frozen[each] = True
                self.reasons[int(each)] = reason
                for part in self._parts.get(int(each), ()):
                    self._freeze(np.array([part]), reason)

    def reason(self, axis: Axis) -> str:
        """Why the axis cannot change; empty where it can."""
        roots = [np.unique(self.roots(column)) for column in axis.columns]
        if not any((self._frozen[each] | self._refined[each]).any() for each in roots):
            return ""
        waiting, seen = [int(label) for each in roots for label in each], set[int]()
        while waiting:
            label = waiting.pop()
            if self._frozen[label]:
                return self.reasons[label]
            if label not in seen and self._refined[label]:
                waiting += self.roots(np.array(self._parts[label])).tolist()
            seen.add(label)
        return ""

    def join(self, one: Axis, other: Axis, where: str) -> None:
        """Both axes are one: index i of the one goes when index i of the other goes."""
        a, b = self.resolved(one), self.resolved(other)
        if a.size != b.size:
            raise ValueError(f"axes of {a.size} and {b.size}")
        common = {each.tobytes() for each in a.columns} & {each.tobytes() for each in b.columns}
        left = [each for each in a.columns if each.tobytes() not in common]
        right = [each for each in b.columns if each.tobytes() not in common]
        if not left and not right:
            return
        if len(left) == len(right) == 1:
            x, y = left[0], right[0]
            both = (x > 0) & (y > 0)
            self._join(x[both], y[both])
            self._freeze(np.concatenate([x[~both], y[~both]]), where)
            return
        for i in range(a.size):
            self._join_index([int(c[i]) for c in left if c[i]], [int(c[i]) for c in right if c[i]], where)

    def _join_index(self, x: list[int], y: list[int], where: str) -> None:
        if len(x) == len(y):
            self._join(np.array(x, np.int64), np.array(y, np.int64))
        elif (len(x) == 1 and len(y) > 1 and self._refine(x[0], tuple(y))) or (
            len(y) == 1 and len(x) > 1 and self._refine(y[0], tuple(x))
        ):
            pass
        else:
            self._freeze(np.array([*x, *y], np.int64), where)

    def _refine(self, label: int, parts: tuple[int, ...]) -> bool:
        """`label` is all of `parts`. False where it is among them."""
        root = int(self.roots(np.array([label]))[0])
        now = [int(each) for each in self.roots(np.array(parts))]
        if root in now:
            return False
        if self._refined[root]:
            known = self._parts[root]
            if len(known) != len(parts):
                return False
            self._join(np.array(known), np.array(parts))
            return True
        self._parts[root], self._refined[root] = tuple(now), True
        if self._frozen[root]:
            self._freeze(np.array(now), self.reasons.get(root, ""))
        return True

    def _join(self, x: Column, y: Column) -> None:
        while True:
            a, b = self.roots(x), self.roots(y)
            low, high = np.minimum(a, b), np.maximum(a, b)
            apart = low != high
            if not apart.any():
                return
            low, high = low[apart], high[apart]
            joined = high[self._refined[high]]
            for each in np.unique(high[self._frozen[high]]):
                self._freeze(low[high == each], self.reasons.get(int(each), ""))
            for each in np.unique(low[self._frozen[low]]):
                self._freeze(high[low == each], self.reasons.get(int(each), ""))
            before = {int(each): self._parts.pop(int(each)) for each in np.unique(joined)}
            self._refined[joined] = False
            np.minimum.at(self._parent, high, low)
            for each, parts in before.items():
                if not self._refine(each, parts):
                    self._freeze(np.array([each, *parts]), "its axes are reshaped into one another")

    def merged(self, axes: Sequence[Axis]) -> Axis:
        """The axis of all index tuples, the last axis running fastest."""
        sizes = [each.size for each in axes]
        columns = []
        for at, axis in enumerate(axes):
            shape = [1] * len(sizes)
            shape[at] = sizes[at]
            columns += [np.broadcast_to(each.reshape(shape), sizes).reshape(-1) for each in axis.columns]
        return Axis(math.prod(sizes), tuple(columns))

    def split(self, axis: Axis, sizes: Sequence[int], where: str) -> list[Axis]:
        """The reverse of `merged`. A label of several new axes is refined; where that cannot be, it is one of the largest axis."""
        found: list[list[Column]] = [[] for _ in sizes]
        for _ in range(len(axis.columns) + DEEPEST):
            column = next((each for each in self.resolved(axis).columns if not self._settled(each, sizes)), None)
            if column is None:
                break
            grid = column.reshape(*sizes)
            along = [at for at in range(len(sizes)) if _varies(grid, at)]
            if not along:
                self._freeze(column, where)
            elif column.all() and len(np.unique(column)) == math.prod(sizes[at] for at in along):
                parts = [self._new(sizes[at]) for at in along]
                whole = grid[tuple(slice(None) if at in along else 0 for at in range(len(sizes)))]
                for place in np.ndindex(whole.shape):
                    if not self._refine(int(whole[place]), tuple(int(p[i]) for p, i in zip(parts, place, strict=True))):
                        self._freeze(np.array([whole[place]]), where)
            else:
                self._tie(np.moveaxis(grid, max(along, key=lambda at: sizes[at]), 0), where)
        for column in self.resolved(axis).columns:
            grid = column.reshape(*sizes)
            along = [at for at in range(len(sizes)) if _varies(grid, at)]
            if len(along) == 1:
                found[along[0]].append(grid[tuple(slice(None) if at == along[0] else 0 for at in range(len(sizes)))])
            else:
                self._freeze(column, where)
        return [Axis(size, tuple(columns)) for size, columns in zip(sizes, found, strict=True)]

    def _settled(self, column: Column, sizes: Sequence[int]) -> bool:
        return sum(_varies(column.reshape(*sizes), at) for at in range(len(sizes))) == 1

    def _tie(self, grid: NDArray[np.int64], where: str) -> None:
        """All labels of a row become one; a row with an index that has none is frozen."""
        rows = grid.reshape(len(grid), -1)
        for row in rows:
            if (row == 0).any():
                self._freeze(row[row > 0], where)
        rows = rows[(rows > 0).all(1)]
        for at in range(1, rows.shape[1]):
            self._join(rows[:, 0], rows[:, at])

    def taken(self, axis: Axis, index: NDArray[np.int64] | slice) -> Axis:
        columns = tuple(each[index] for each in axis.columns)
        return Axis(len(np.arange(axis.size)[index]), columns)

    def concatenated(self, axes: Sequence[Axis]) -> Axis:
        axes = [self.resolved(each) for each in axes]
        columns = []
        for at in range(max(len(each.columns) for each in axes)):
            columns.append(
                np.concatenate(
                    [each.columns[at] if at < len(each.columns) else np.zeros(each.size, np.int64) for each in axes]
                )
            )
        return Axis(sum(each.size for each in axes), tuple(columns))


def _varies(grid: NDArray[np.int64], at: int) -> bool:
    return bool((grid != grid.take([0], at)).any())


def kept(axis: Axis, gone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which indices of a resolved axis stay, given which labels go."""
    stay = np.ones(axis.size, np.bool_)
    for column in axis.columns:
        stay &= ~gone[column]
    return stay


def labels_of(axes: Iterable[Axis]) -> set[int]:
    return {int(label) for axis in axes for column in axis.columns for label in np.unique(column) if label}
