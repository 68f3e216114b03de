"""Data as a teacher with a view is fed them: what it is trained on, where the study trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Generator

from kdsearch.kinds import Batch, DataSource, Field, Split
from kdsearch.store.hashing import derive, stream


class Viewed:
    """A source whose batches are those of `view`; what it draws is a function of the seed of the pass and the samples."""

    def __init__(self, base: DataSource, view: Callable[[Batch, Generator], Batch], seed: int) -> None:
        self._base, self._view, self._seed = base, view, seed

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._base.fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._base.facts

    @property
    def splits(self) -> tuple[str, ...]:
        return self._base.splits

    def split(self, name: str) -> Split:
        return _ViewedSplit(self._base.split(name), self._view, self._seed)


class _ViewedSplit:
    def __init__(self, split: Split, view: Callable[[Batch, Generator], Batch], seed: int) -> None:
        self._split, self._view, self._seed = split, view, seed

    @property
    def ids(self) -> Sequence[str]:
        return self._split.ids

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        batch = self._split.load(index, augment, seed)
        return self._view(batch, stream(derive(self._seed, "view", seed), *batch.ids))
