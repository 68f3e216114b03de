"""What a data recipe works from, and what its records are as training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.engine.members import Members, Piece
from kdsearch.errors import DataError, PluginError, nearest, one_of
from kdsearch.kinds import Batch, DataSource, Encodes, Field, Record, Split


class Offered:
    """A source without its test split; with `train`, that source's splits stand in place of all but `val`.

    It encodes texts where the data set does.
    """

    def __init__(self, base: DataSource, train: DataSource | None = None) -> None:
        self._base, self._train = base, train
        source = getattr(base, "source", base)
        if isinstance(source, Encodes):
            self.encode = source.encode

    @property
    def fields(self) -> tuple[Field, ...]:
        return (self._train or self._base).fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._base.facts

    @property
    def splits(self) -> tuple[str, ...]:
        if self._train is None:
            return tuple(name for name in self._base.splits if name != "test")
        held_out = ("val",) if "val" in self._base.splits else ()
        return (*(name for name in self._train.splits if name not in ("val", "test")), *held_out)

    def split(self, name: str) -> Split:
        if name == "test":
            raise PluginError("a data recipe asked for the test split", expected=one_of(self.splits))
        if name not in self.splits:
            raise DataError(f"no split '{name}'", nearest=nearest(name, self.splits), expected=one_of(self.splits))
        return self._base.split(name) if self._train is None or name == "val" else self._train.split(name)


class Swapped:
    """A source some of whose splits are others."""

    def __init__(self, base: DataSource, splits: Mapping[str, Split]) -> None:
        self._base, self._splits = base, dict(splits)

    @property
    def fields(self) -> tuple[Field, ...]:
        return self._base.fields

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._base.facts

    @property
    def splits(self) -> tuple[str, ...]:
        return (*self._splits, *(name for name in self._base.splits if name not in self._splits))

    def split(self, name: str) -> Split:
        return self._splits[name] if name in self._splits else self._base.split(name)


class RecordSource:
    """Kept records as samples: `train` alone. See `DataRecipe.open`."""

    splits = ("train",)

    def __init__(self, records: Sequence[Record], source: DataSource) -> None:
        """Raise PluginError, naming the record, for fields that are no samples of this source."""
        self.fields, self.facts = source.fields, source.facts
        self._train = _samples(records, source)

    def split(self, name: str) -> Split:
        if name != "train":
            raise DataError(f"no split '{name}'", expected="train")
        return self._train


def _samples(records: Sequence[Record], source: DataSource) -> Split:
    own = source.split("train")
    place = {sample: i for i, sample in enumerate(own.ids)}
    known = [i for i, record in enumerate(records) if record.key in place]
    fresh = [i for i, record in enumerate(records) if record.key not in place]
    pieces = []
    for rows, split in ((known, own), (fresh, None)):
        if rows:
            mine = [records[i] for i in rows]
            at = None if split is None else [place[record.key] for record in mine]
            made = _Described([record.key for record in mine], *_columns(mine, source), split, at)
            pieces.append(Piece(made, np.asarray(rows, dtype=np.int64), np.arange(len(rows), dtype=np.int64)))
    return Members([record.key for record in records], pieces, None)


class _Described:
    """Samples that records describe; the fields that they leave out are those of the samples of `split` at `at`."""

    def __init__(
        self,
        ids: Sequence[str],
        tensors: Mapping[str, Tensor],
        texts: Mapping[str, list[str]],
        split: Split | None,
        at: Sequence[int] | None,
    ) -> None:
        self.ids, self._tensors, self._texts, self._split, self._at = list(ids), tensors, texts, split, at

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        rows = torch.as_tensor(list(index), dtype=torch.int64)
        tensors = {name: column[rows] for name, column in self._tensors.items()}
        texts = {name: [column[i] for i in index] for name, column in self._texts.items()}
        if self._split is None or self._at is None:
            return Batch(tuple(self.ids[i] for i in index), tensors, texts=texts)
        batch = self._split.load([self._at[i] for i in index], augment, seed)
        return Batch(batch.ids, {**batch.tensors, **tensors}, batch.lists, {**batch.texts, **texts})


def _columns(records: Sequence[Record], source: DataSource) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Tensors by field, and texts by name, of records that all have the same fields."""
    first = records[0]
    for record in records:
        if record.fields.keys() != first.fields.keys():
            other = sorted(record.fields.keys() ^ first.fields.keys())
            raise PluginError(f"records '{first.key}' and '{record.key}' have other fields: {', '.join(other)}")
    tensors: dict[str, Tensor] = {}
    texts: dict[str, list[str]] = {}
    for name, value in first.fields.items():
        column = [record.fields[name] for record in records]
        if isinstance(value, str) and all(each.name != name for each in source.fields):
            texts[name] = [str(each) for each in column]
        else:
            tensors[name] = _tensor(name, column, records, source)
    if texts and isinstance(source, Encodes):
        tensors |= source.encode(texts)
    return tensors, texts


def _tensor(name: str, column: list[Any], records: Sequence[Record], source: DataSource) -> Tensor:
    """The values as the source's field of that name has them; another field: whole numbers int64, others float32."""
    field = next((each for each in source.fields if each.name == name), None)
    shape = None if field is None else field.shape
    dtype = None if field is None else field.torch_dtype
    for record, value in zip(records, column, strict=True):
        try:
            found = torch.tensor(value)
            if dtype is not None and found.is_floating_point() and not dtype.is_floating_point:
                raise ValueError("a fraction")
        except (TypeError, ValueError, RuntimeError):
            raise PluginError(f"field '{name}' of record '{record.key}' is {value!r:.60}", expected="numbers") from None
        if shape is not None and found.shape != torch.Size([size or 0 for size in shape]) and None not in shape:
            expected = "x".join(str(size) for size in shape) or "one number"
            got = "x".join(str(size) for size in found.shape) or "one number"
            raise PluginError(f"field '{name}' of record '{record.key}' is {got}", expected=expected)
    try:
        return torch.tensor(column, dtype=dtype)
    except (TypeError, ValueError):
        raise PluginError(f"field '{name}' of the records has several lengths", expected="one length") from None
