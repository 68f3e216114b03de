"""What is to be said of a row: a class, numbers, or several labels; read from its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kdsearch.builtin.tables.columns import (
    NANS,
    check_named,
    check_no_nan,
    check_told,
    classes_told,
    moments,
    numbers,
    taught,
)
from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, Field
from kdsearch.kit.table_copies import in_one_form
from kdsearch.kit.tables import Table, no_number

Kind = Literal["class", "number", "labels"]
TASKS: Mapping[Kind, str] = {"class": "classification", "number": "regression", "labels": "multilabel"}
_YES_NO = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1}


@dataclass(frozen=True)
class Target:
    """Every row's answer, by split. `names`: classes, labels or the columns of numbers; `field`: its name in a batch."""

    kind: Kind
    field: str
    names: tuple[str, ...]
    values: Mapping[str, Tensor]

    def described(self, train: Tensor) -> Field:
        """The field. `train` (N, ...) are the rows that numbers are measured on."""
        if self.kind == "class":
            return Field("label", "label", (), "int64", "target")
        if self.kind == "labels":
            return Field("labels", "labels", (len(self.names),), "int64", "target")
        mean, std = moments(train.double().numpy())
        return Field("target", "value", (len(self.names),), "float32", "target", mean=mean, std=std)


def read_target(
    tables: Mapping[str, Table], kind: Kind, columns: Sequence[str], names: Sequence[str] | None, separator: str | None
) -> Target:
    """The target's columns in every split.

    Raises:
        DataError: a value that is no class, number or label, with file, line and column; names that were not said.
    """
    if kind == "number":
        for name in columns:
            check_no_nan(tables, name, "a finite number")
        values = {
            split: torch.from_numpy(np.stack([numbers(table, name) for name in columns], 1).astype(np.float32))
            for split, table in tables.items()
        }
        for i, name in enumerate(columns):
            check_told(tables["train"], name, "and add it to the answers")
            _differ(torch.cat([each[:, i] for each in values.values()]), tables["train"], name)
        return Target(kind, "target", tuple(columns), values)
    if kind == "class":
        return _classes(tables, columns[0], names)
    if len(columns) > 1:
        values = {split: torch.stack([_flags(table, name) for name in columns], 1) for split, table in tables.items()}
        if not any(bool((each != HIDDEN).any()) for each in values.values()):
            where = f"columns {', '.join(columns)}"
            raise DataError("no row has a value", file=tables["train"].file, path=where, expected="0 or 1")
        return Target(kind, "labels", tuple(columns), values)
    return _lists(tables, columns[0], names, separator)


def _differ(values: Tensor, table: Table, column: str) -> None:
    """Raise DataError for numbers (N,) that are all one: every network that says it is right."""
    known = values[~values.isnan()]
    if len(known) != 1 and bool((known == known[:1]).all()):  # of one row alone the splits speak
        problem = f"every value is {known[0]:g}" if len(known) else "no row has a value"
        raise DataError(problem, file=table.file, path=f"column '{column}'", expected="numbers that differ")


def _check_named_nan(tables: Mapping[str, Table], column: str, names: Sequence[str] | None, expected: str) -> None:
    """Raise DataError for the text `nan`, unless it is among the names: who has it for a class says so."""
    if not any(name.lower() in NANS for name in names or ()):
        check_no_nan(tables, column, expected, " If one is called so, list all in `names`.")


def _classes(tables: Mapping[str, Table], column: str, names: Sequence[str] | None) -> Target:
    _check_named_nan(tables, column, names, "a class")
    found = in_one_form({split: table.categories(column) for split, table in tables.items()}, names or ())
    made = list(names) if names is not None else classes_told(tables, found, column)
    for split, table in tables.items():
        check_named(made, [value for value in found[split] if value is not None], table, column)
    places = {name: i for i, name in enumerate(made)}
    values = {
        split: torch.tensor([HIDDEN if value is None else places[value] for value in rows])
        for split, rows in found.items()
    }
    return Target("class", "label", tuple(made), values)


def _flags(table: Table, column: str) -> Tensor:
    """(N,) int64: 1, 0, or HIDDEN where nothing is said."""
    made = []
    for row, value in enumerate(table.categories(column)):
        if value is not None and value.lower() not in _YES_NO:
            raise table.fault(row, column, f"got '{value}'", "0 or 1", no_number(value))
        made.append(HIDDEN if value is None else _YES_NO[value.lower()])
    return torch.tensor(made)


def _lists(tables: Mapping[str, Table], column: str, names: Sequence[str] | None, separator: str | None) -> Target:
    _check_named_nan(tables, column, names, "labels")
    raw = tables["train"].column(column)
    if all(value is None or str(value).lower() in _YES_NO for value in raw):
        fix = f"Name two columns or more, as [{column}, ...], or set `kind: class` for a single yes or no."
        file = tables["train"].file
        raise DataError(
            "holds 0 and 1 alone", file=file, path=f"column '{column}'", expected="lists of labels", fix=fix
        )
    found = {split: table.lists(column, separator) for split, table in tables.items()}
    fix = "List it in `names` if it is one that training rows need not have."
    made = (
        list(names)
        if names is not None
        else taught(
            tables, {split: [row or () for row in rows] for split, rows in found.items()}, column, "a label", fix
        )
    )
    for split, table in tables.items():
        check_named(made, [name for row in found[split] if row is not None for name in row], table, column)
    if len(made) < 2:
        table = tables["train"]
        fix = "Set `separator` to what is between labels." if separator is None else ""
        raise DataError(
            f"{len(made)} labels", file=table.file, path=f"column '{column}'", expected="two or more", fix=fix
        )

    def flags(row: list[str] | None) -> list[int]:
        return [HIDDEN] * len(made) if row is None else [int(name in row) for name in made]

    return Target(
        "labels",
        "labels",
        tuple(made),
        {split: torch.tensor([flags(row) for row in rows]) for split, rows in found.items()},
    )


def facts_of(target: Target) -> dict[str, Any]:
    """What the data set says of its targets: `classes` of classes alone, so that nothing else is taken for one."""
    return {{"class": "classes", "labels": "labels", "number": "targets"}[target.kind]: list(target.names)}
