"""Rows as samples: numbers, categories and a target, with all that is measured taken from the training rows alone."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdsearch.builtin.tables import prepare
from kdsearch.builtin.tables.columns import Columns, Known, known
from kdsearch.builtin.tables.targets import Target, facts_of
from kdsearch.kinds import Batch, Field, Split, split_of
from kdsearch.kit.tables import Table


class Rows:
    """Samples held in memory, a tensor (N, ...) a field. `labels` (N,), where rows have a class, are there without loading.

    `groups`: of each sample, where there are equal ones.
    """

    def __init__(self, ids: tuple[str, ...], tensors: Mapping[str, Tensor], groups: tuple[str, ...] = ()) -> None:
        self.ids, self.tensors, self.groups = ids, dict(tensors), groups
        if "label" in tensors:
            self.labels = tensors["label"]

    def load(self, index: Sequence[int], augment: bool = False, seed: int = 0) -> Batch:
        at = torch.as_tensor(list(index), dtype=torch.long)
        return Batch(tuple(self.ids[i] for i in index), {name: each[at] for name, each in self.tensors.items()})


@dataclass(frozen=True)
class Read:
    """A data set's rows as they were read: by split, with their targets and columns.

    Args:
        rare: see `columns.known`. marks: texts that mean that nobody knows. facts: origin and licence.
    """

    tables: Mapping[str, Table]
    columns: Columns
    target: Target
    rare: int
    marks: tuple[str, ...]
    facts: Mapping[str, Any]


class TableSource:
    """An opened table.

    Fields: `numbers` (D,), in their own units; `missing` (M,), 1 where a number is; `categories` (C,), ids; each where there are
    such columns; and the target: `label`, `target` (K,) or `labels` (K,).
    """

    def __init__(self, read: Read, ids: Collection[str] | None = None, labeled: Collection[str] | None = None) -> None:
        """`ids`: of the training rows that means and categories are taken from, `labeled` those of targets; None = all."""
        self._read = read
        train = read.tables["train"]
        rows = _at(train.ids, ids)
        self._known = known(train.at(rows), read.columns, read.rare)
        self._target = read.target.described(read.target.values["train"][_at(train.ids, labeled)])
        self._splits: dict[str, Split] = {
            name: Rows(
                table.ids, {**self._known.tensors(table), self._target.name: read.target.values[name]}, table.groups
            )
            for name, table in read.tables.items()
        }
        self._facts = {
            **read.facts,
            **facts_of(read.target),
            "samples": {name: len(table) for name, table in read.tables.items()},
            "columns": {"numbers": list(read.columns.numbers), "categories": list(read.columns.categories)},
            "notes": read.columns.notes,
            "measured_on": len(rows),
            "content": _content(read),
        }

    @property
    def fields(self) -> tuple[Field, ...]:
        found, k = self._known, self._known.columns
        made = []
        if k.numbers:
            made.append(Field("numbers", "vector", (len(k.numbers),), mean=found.mean, std=found.std))
        if found.lacking:
            made.append(Field("missing", "vector", (len(found.lacking),)))
        if k.categories:
            made.append(Field("categories", "categories", (len(k.categories),), "int64", n_values=found.n_ids))
        return (*made, self._target)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        return split_of(self._splits, name)

    def measured_on(self, ids: Collection[str], labeled: Collection[str]) -> TableSource:
        """The same rows, with means, deviations and categories of these training rows, and of the labeled ones' targets."""
        return TableSource(self._read, ids, labeled)

    def files(self) -> dict[str, bytes]:
        """`table.json`, what columns become; and `prepare.py`, which reads a row by it."""
        return {
            "table.json": (
                json.dumps(described(self._known, self._read), indent=1, ensure_ascii=False) + "\n"
            ).encode(),
            "prepare.py": inspect.getsource(prepare).encode(),
        }


def _at(ids: Sequence[str], wanted: Collection[str] | None) -> list[int]:
    """Where the wanted ones stand; None = everywhere."""
    among = ids if wanted is None else set(wanted)
    return [i for i, sample in enumerate(ids) if wanted is None or sample in among]


def described(found: Known, read: Read) -> dict[str, Any]:
    """The JSON that `prepare.py` reads."""
    columns = [
        {
            "name": name,
            "unknown": found.first[name],
            "values": {v: found.first[name] + k + 1 for k, v in enumerate(values)},
        }
        for name, values in found.values.items()
    ]
    return {
        "format": 1,
        "numbers": list(found.columns.numbers),
        "mean": list(found.mean),
        "missing": list(found.lacking),
        "empty": list(found.columns.empty),
        "categories": columns,
        "marks": list(read.marks),
        "answers": {"kind": read.target.kind, "names": list(read.target.names)},
    }


def _content(read: Read) -> str:
    """sha256 over ids, values and targets of every split."""
    digest = hashlib.sha256()
    for name, table in read.tables.items():
        columns = {each: table.values[each] for each in (*read.columns.numbers, *read.columns.categories)}
        digest.update(json.dumps([name, table.ids, columns], sort_keys=True).encode())
        digest.update(read.target.values[name].numpy().tobytes())
    return digest.hexdigest()


def without_marks(tables: Mapping[str, Table], marks: Sequence[str]) -> dict[str, Table]:
    """Every split with None in place of these texts."""
    return {name: table.without(marks) for name, table in tables.items()}
