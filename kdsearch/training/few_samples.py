"""A study's data and teachers as the dry step has them: a few samples, and nobody who would have to be paid for an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from kdsearch.errors import DataError, nearest, one_of
from kdsearch.kinds import HIDDEN, Batch, DataSource, Field, Split

CLASSES = 256  # that have a sample where every class is to have one


class NotAskedError(Exception):
    """A method asked a teacher that writes or embeds: that costs, so nothing is said of what would follow."""


class FewSamples:
    """The study's data with n samples of each split, evenly spaced; labelled and unlabelled ones are parts of `train`. No test
    split. `every_class`: and the first sample of each class, where classes are known without loading.
    """

    def __init__(self, data: DataSource, n: int, every_class: bool = False) -> None:
        self._data, self._every_class = data, every_class
        parts = [name for name in data.splits if name in ("labeled", "unlabeled")] or ["train"]
        self._train: set[str] = set()
        for name in parts:
            split = data.split(name)
            self._train |= {split.ids[i] for i in self._some(split, -(-n // len(parts)))}
        self._n = n

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._data.fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._data.facts

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in self._data.splits if name != "test")

    def split(self, name: str) -> Split:
        if name == "test":
            raise DataError("no split 'test' here", nearest=nearest(name, self.splits), expected=one_of(self.splits))
        whole = self._data.split(name)
        if name in ("train", "labeled", "unlabeled"):
            rows = [i for i, id in enumerate(whole.ids) if id in self._train]
        else:
            rows = self._some(whole, self._n)
        return _FewOf(whole, rows)

    def _some(self, split: Split, n: int) -> list[int]:
        """Rows of n samples; where every class is to have one, theirs are among these, or more than n."""
        labels, spaced = getattr(split, "labels", None), _spaced(len(split.ids), n)
        if not self._every_class or not isinstance(labels, Tensor):
            return spaced
        firsts = {label: i for i, label in reversed(list(enumerate(labels.tolist()))) if label != HIDDEN}
        found = set(sorted(firsts.values())[:CLASSES])
        for row in spaced:
            if len(found) < n:
                found.add(row)
        return sorted(found)


class _FewOf:
    def __init__(self, whole: Split, rows: Sequence[int]) -> None:
        self._whole, self._rows = whole, rows
        self.ids = tuple(whole.ids[i] for i in rows)

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        return self._whole.load([self._rows[i] for i in index], augment, seed)


def _spaced(length: int, n: int) -> list[int]:
    return sorted({i * length // n for i in range(n)}) if length else []


class _Nobody(Mapping[str, Any]):
    """Teachers by name that may not be asked."""

    def __getitem__(self, name: str) -> Any:
        raise NotAskedError(name)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


NOBODY = _Nobody()
