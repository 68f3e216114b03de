"""A split that is made of samples of other splits, with its own view of their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import DataError, KdsearchError, told
from kdsearch.kinds import Batch, Field, Split
from kdsearch.ops.padding import joined, resized
from kdsearch.store.files import is_disk_error

Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Piece:
    """Samples of `split`: those at `row` there are those at `at` here (ascending)."""

    split: Split
    at: Rows
    row: Rows


Hide = Callable[[Batch, Tensor], Batch]


class Members:
    """The samples `ids`, from one or several splits.

    Args:
        hidden: (N,) bool, samples whose targets the study does not see; `hide` makes a batch that shows none of them.
        labels: (N,) class indices as the study sees them, where the target is a class.
        fields: of the batches; each says what pads it where the splits' batches differ in length. A size that it leaves open is at
            least 1: where no sample of a batch has the field there is one place of padding, since exporters cannot trace 0.
    """

    def __init__(
        self,
        ids: Sequence[str],
        pieces: Sequence[Piece],
        labels: Tensor | None = None,
        hidden: Tensor | None = None,
        hide: Hide | None = None,
        fields: Sequence[Field] = (),
    ) -> None:
        self._ids, self._pieces, self.labels, self._hidden, self._hide = ids, tuple(pieces), labels, hidden, hide
        self._padding = {each.name: each.fill for each in fields}
        self._open = {each.name: each.fill for each in fields if None in each.shape}
        self._piece = np.zeros(len(ids), dtype=np.int64)
        self._row = np.zeros(len(ids), dtype=np.int64)
        for k, piece in enumerate(self._pieces):
            self._piece[piece.at], self._row[piece.at] = k, piece.row

    @property
    def ids(self) -> Sequence[str]:
        return self._ids

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        at = np.asarray(index, dtype=np.int64)
        pieces, rows = self._piece[at], self._row[at]
        used = np.unique(pieces).tolist() or [0]
        loaded: list[Batch] = []
        for k in used:
            batch = _loaded(self._pieces[k].split, rows[pieces == k].tolist(), augment, seed)
            if self._hide is not None and self._hidden is not None:
                batch = self._hide(batch, self._hidden[torch.from_numpy(at[pieces == k])])
            loaded.append(batch)
        if len(loaded) == 1:
            return self._long(loaded[0])
        return self._long(_merged(loaded, [np.flatnonzero(pieces == k) for k in used], self._padding))

    def _long(self, batch: Batch) -> Batch:
        short = {
            name: resized(batch[name], [max(size, 1) for size in batch[name].shape[1:]], fill)
            for name, fill in self._open.items()
            if name in batch and 0 in batch[name].shape[1:]
        }
        return batch.having(**short) if short else batch


def _loaded(split: Split, rows: Sequence[int], augment: bool, seed: int) -> Batch:
    """Raise DataError, which names the samples, for whatever the data set's own code raises; a full disk and memory go through."""
    try:
        return split.load(rows, augment, seed)
    except (KdsearchError, MemoryError):
        raise
    except Exception as error:
        if is_disk_error(error):
            raise
        few = ", ".join(f"'{split.ids[row]}'" for row in rows[:3])
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        raise DataError(f"samples {few}{more} cannot be loaded: {told(error)}", path="data") from error


def _merged(batches: Sequence[Batch], places: Sequence[Rows], padding: Mapping[str, float]) -> Batch:
    """Batches as one, sample j of batch k at places[k][j], padded to the longest.

    Raises:
        DataError: they have other fields, or a field has other axes.
    """
    first = batches[0]
    for each in batches[1:]:
        for kind in ("tensors", "lists", "texts"):
            mine, other = set(getattr(first, kind)), set(getattr(each, kind))
            if mine != other:
                raise DataError(
                    f"samples '{first.ids[0]}' and '{each.ids[0]}' have other fields: {sorted(mine ^ other)}",
                    expected="the same fields in every split that is used for training",
                )
    order = np.argsort(np.concatenate(places), kind="stable")
    at = torch.from_numpy(order)

    def lists(which: str) -> Mapping[str, list[Any]]:
        names = getattr(first, which)
        every = {name: [item for each in batches for item in getattr(each, which)[name]] for name in names}
        return {name: [items[i] for i in order.tolist()] for name, items in every.items()}

    def tensor(name: str) -> Tensor:
        try:
            return joined([each.tensors[name] for each in batches], padding.get(name, 0))[at]
        except ValueError as error:
            raise DataError(f"field '{name}' has {error}", expected="as many axes in every split") from None

    ids = [sample for each in batches for sample in each.ids]
    return Batch(
        tuple(ids[i] for i in order.tolist()),
        {name: tensor(name) for name in first.tensors},
        lists("lists"),
        lists("texts"),
    )
