"""What a data recipe works from, and what its records are as training data."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.engine.members import Members, Piece
from kdsearch.errors import DataError, PluginError, nearest, one_of
from kdsearch.kinds import HIDDEN, Batch, DataSource, Encodes, Field, Record, Split
from kdsearch.kinds.targets import targets_of, without_targets
from kdsearch.ops.padding import stacked


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
    for mine, split in ((known, own), (fresh, None)):
        for rows in _alike(mine, records, source, split is not None):
            found = [records[i] for i in rows]
            at = None if split is None else [place[record.key] for record in found]
            columns = _columns(found, source)
            columns = columns if split is not None else _with_what_is_missing(columns, found, source)
            made = _Described([record.key for record in found], columns, source, split, at)
            pieces.append(Piece(made, np.asarray(rows, dtype=np.int64), np.arange(len(rows), dtype=np.int64)))
    return Members([record.key for record in records], pieces, fields=source.fields)


def _alike(rows: Sequence[int], records: Sequence[Record], source: DataSource, known: bool) -> list[list[int]]:
    """These rows of the records by the fields that they have.

    A record may leave out what a sample has without it: a known one any field of its sample, a new one a target, which nobody
    knows then, and what samples may lack. Raise PluginError, which names two, where they differ in more.
    """
    optional = {each.name for each in (source.fields if known else targets_of(source.fields))}
    for gate in (each.name for each in source.fields if each.kind == "present"):
        of = gate.removeprefix("present_")
        optional |= {gate, of, f"{of}_mask"}
    groups: dict[frozenset[str], list[int]] = {}
    for row in rows:
        groups.setdefault(frozenset(records[row].fields), []).append(row)
    first = next(iter(groups), frozenset())
    for names, group in groups.items():
        if other := (names ^ first) - optional:
            one, two = records[groups[first][0]].key, records[group[0]].key
            raise PluginError(f"records '{one}' and '{two}' have other fields: {', '.join(sorted(other))}")
    return list(groups.values())


@dataclass(frozen=True)
class _Columns:
    """What records hold by field: tensors (N, ...); rows of open length, which a batch pads to its longest; texts."""

    tensors: Mapping[str, Tensor]
    rows: Mapping[str, list[Tensor]]
    texts: Mapping[str, list[str]]


class _Described:
    """Samples that records describe; the fields that they leave out are those of the samples of `split` at `at`."""

    def __init__(
        self, ids: Sequence[str], columns: _Columns, source: DataSource, split: Split | None, at: Sequence[int] | None
    ) -> None:
        self.ids, self._columns, self._split, self._at = list(ids), columns, split, at
        self._fill = {each.name: each.fill for each in source.fields}
        self._encode = source.encode if columns.texts and isinstance(source, Encodes) else None
        if self._encode is not None and not any(None in each.shape for each in source.fields):
            encoded, self._encode = self._encode(columns.texts), None
            self._columns = replace(columns, tensors={**columns.tensors, **encoded})

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        rows, columns = torch.as_tensor(list(index), dtype=torch.int64), self._columns
        tensors = {name: column[rows] for name, column in columns.tensors.items()}
        for name, column in columns.rows.items():
            tensors[name] = stacked([column[i] for i in index], self._fill[name])
        texts = {name: [column[i] for i in index] for name, column in columns.texts.items()}
        if self._encode is not None:
            tensors |= self._encode(texts)
        if self._split is None or self._at is None:
            return Batch(tuple(self.ids[i] for i in index), tensors, texts=texts)
        batch = self._split.load([self._at[i] for i in index], augment, seed)
        return Batch(batch.ids, {**batch.tensors, **tensors}, batch.lists, {**batch.texts, **texts})


def _columns(records: Sequence[Record], source: DataSource) -> _Columns:
    """Of records that all have the same fields."""
    first = records[0]
    fields = {each.name: each for each in source.fields}
    tensors: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {}
    texts: dict[str, list[str]] = {}
    for name, value in first.fields.items():
        column = [record.fields[name] for record in records]
        if isinstance(value, str) and name not in fields:
            texts[name] = [str(each) for each in column]
            continue
        found = _rows(name, column, records, fields.get(name))
        if name in fields and None in fields[name].shape:
            rows[name] = found
        else:
            tensors[name] = torch.stack(found)
    return _Columns(tensors, rows, texts)


def _with_what_is_missing(columns: _Columns, records: Sequence[Record], source: DataSource) -> _Columns:
    """With what says which fields new samples have, and zeros for those that they lack (see `kdsearch.kit.modalities`); targets
    that they lack are not known. Raise PluginError for one of open length, as nobody can tell how long it would be.
    """
    n = len(records)
    fields = {each.name: each for each in source.fields}
    tensors, rows = dict(columns.tensors), dict(columns.rows)
    encoded: Collection[str] = ()
    if columns.texts and isinstance(source, Encodes):
        encoded = source.encode({name: texts[:1] for name, texts in columns.texts.items()})
    given = {*tensors, *rows, *encoded}
    for gate in (each for each in source.fields if each.kind == "present" and each.name not in given):
        of = gate.name.removeprefix("present_")
        tensors[gate.name] = torch.full((n,), float(of in given)).to(gate.torch_dtype)
        for name in ({of, f"{of}_mask"} & fields.keys()) - given if of not in given else ():
            blank = torch.zeros([size or 0 for size in fields[name].shape], dtype=fields[name].torch_dtype)
            if None in fields[name].shape:
                rows[name] = [blank] * n
            else:
                tensors[name] = blank.expand(n, *blank.shape)
    untold = [each for each in targets_of(source.fields) if each.name not in {*given, *tensors, *rows}]
    if long := next((each for each in untold if None in each.shape), None):
        raise PluginError(
            f"record '{records[0].key}' has no '{long.name}'", expected=f"the target, or as many {HIDDEN} or NaN"
        )
    nothing = Batch(tuple(record.key for record in records), {})
    tensors |= without_targets(nothing, torch.ones(n, dtype=torch.bool), untold).tensors
    return replace(columns, tensors=tensors, rows=rows)


def _rows(name: str, column: list[Any], records: Sequence[Record], field: Field | None) -> list[Tensor]:
    """The values as the source's field of that name has them; another field: whole numbers int64, others float32."""
    found = []
    for record, value in zip(records, column, strict=True):
        try:
            row = torch.tensor(value, dtype=None if field is None or value != [] else field.torch_dtype)
            if field is not None and row.is_floating_point() and not field.torch_dtype.is_floating_point:
                raise ValueError("a fraction")
        except (TypeError, ValueError, RuntimeError):
            raise PluginError(f"field '{name}' of record '{record.key}' is {value!r:.60}", expected="numbers") from None
        if field is not None and not _fits(row.shape, field.shape):
            got, expected = _shown(row.shape), _shown(field.shape)
            raise PluginError(f"field '{name}' of record '{record.key}' is {got}", expected=expected)
        found.append(row if field is None else row.to(field.torch_dtype))
    if len({row.shape for row in found}) > 1 and (field is None or None not in field.shape):
        raise PluginError(f"field '{name}' of the records has several lengths", expected="one length")
    dtype = functools.reduce(torch.promote_types, [row.dtype for row in found])
    return [row.to(dtype) for row in found]


def _fits(found: Sequence[int], shape: Sequence[int | None]) -> bool:
    return len(found) == len(shape) and all(want in (None, size) for size, want in zip(found, shape, strict=True))


def _shown(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "one number"
