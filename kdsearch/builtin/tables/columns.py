"""What columns are to a network: numbers or categories, with means, deviations and values as the training rows have them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.errors import DataError, one_of
from kdsearch.kit.table_copies import in_one_form, whole
from kdsearch.kit.tables import Table, no_number, shown
from kdsearch.limits import CLASSES

MANY = 100  # different texts in a column that are in no two rows alike, on average: names and remarks, not categories
LOST = 0.01  # of a deviation: numbers that are rounded by more on average tell networks little
CONSTANT = 1e-14  # of its mean: a column that deviates by less is one number, and float64 rounds it
MANY_CLASSES = 20  # the same of a column of classes
NANS = ("nan", "+nan", "-nan")  # what `float` reads as no number


@dataclass(frozen=True)
class Columns:
    """Columns that are read: as numbers, and as categories; `empty` ones, in which no training row has a value, are not."""

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    empty: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        return [f"Column '{name}' is not read: no training row has a value there." for name in self.empty]


@dataclass(frozen=True)
class Known:
    """What the training rows say of the columns.

    Args:
        mean, std: of each number column; 1 in place of a deviation of 0.
        lacking: the number columns that a training row lacks.
        values: category column -> its values, sorted. A value's id is its place plus 1, plus all ids of the columns before; the
            column's first id is of whatever is missing or not among them.
    """

    columns: Columns
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lacking: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]

    @property
    def first(self) -> dict[str, int]:
        """Category column -> its first id."""
        sizes = [len(values) + 1 for values in self.values.values()]
        return dict(zip(self.values, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    @property
    def n_ids(self) -> int:
        return sum(len(values) + 1 for values in self.values.values())

    def tensors(self, table: Table) -> dict[str, Tensor]:
        """`numbers` (N, D) float32, the mean in place of what is missing; `missing` (N, M) float32, 1 where it was, of the columns
        that lack values; `categories` (N, C) int64 ids. Those without a column are left out."""
        made = {}
        if self.columns.numbers:
            raw = np.stack([numbers(table, name) for name in self.columns.numbers], 1)
            made["numbers"] = torch.from_numpy(np.where(np.isnan(raw), np.array(self.mean), raw).astype(np.float32))
            if self.lacking:
                at = [self.columns.numbers.index(name) for name in self.lacking]
                made["missing"] = torch.from_numpy(np.isnan(raw[:, at]).astype(np.float32))
        if self.values:
            ids = np.zeros((len(table), len(self.values)), np.int64)
            for i, (first, (name, values)) in enumerate(zip(self.first.values(), self.values.items(), strict=True)):
                places = {value: first + k + 1 for k, value in enumerate(values)}
                alike = {whole(value): place for value, place in places.items()}  # 10 in one file is 10.0 in another
                ids[:, i] = [
                    first if value is None else places.get(value, alike.get(whole(value), first))
                    for value in table.categories(name)
                ]
            made["categories"] = torch.from_numpy(ids)
        return made


def told_apart(
    table: Table, target: Collection[str], numbers: Sequence[str], categories: Sequence[str], ignored: Sequence[str]
) -> Columns:
    """The columns of the training rows: as the study says, else numbers where every value is one, else categories.

    Raises:
        DataError: a column that is not there, has no name, is said to be two things, or holds names instead of categories, or
            numbers with something else among them; none that is left.
    """
    said = [*target, *numbers, *categories, *ignored]
    for name in said:
        table.column(name)
        if said.count(name) > 1:
            raise DataError(f"column '{name}' is named twice", path="data.options", expected="one use of a column")
    rest = [name for name in table.columns if name not in said]
    if "" in rest:
        raise DataError(
            f"column {table.columns.index('') + 1} of {len(table.columns)} has no name",
            file=table.file,
            line=1,
            expected="a name for each column, or '' in data.options.ignore where it only counts the rows",
        )
    for name in rest:
        _all_or_none(table, name)
    found = {name: _is_number(table.column(name)) for name in rest}
    unused = [name for name in rest if all(value is None for value in table.column(name))]
    for name in rest:
        different = len(set(table.categories(name))) if not found[name] and name not in unused else 0
        if different > MANY and different > len(table) / 2:
            raise DataError(
                f"column '{name}' has {different:,} different values in {len(table):,} rows",
                file=table.file,
                expected="numbers, or categories that come back",
                fix=f"Name '{name}' in `ignore`, in `categories` if it is one, or as `id` if it says which row is which.",
            )
    order = [name for name in table.columns if name not in unused]
    made = Columns(
        tuple(name for name in order if name in numbers or found.get(name) is True),
        tuple(name for name in order if name in categories or found.get(name) is False),
        tuple(unused),
    )
    if not (made.numbers or made.categories):
        raise DataError("no column is left to read", file=table.file, expected="columns beside the target")
    for name in made.numbers:
        check_told(table, name, "or name it in `ignore`")
    return made


def check_told(table: Table, name: str, instead: str) -> None:
    """Raise DataError for training numbers that float32 rounds by more than a hundredth of their deviation; constants are allowed.

    instead: what else may be done than to subtract a constant.
    """
    found = numbers(table, name)
    found = found[~np.isnan(found)]
    if not len(found):
        return
    mean, std = found.mean(), found.std()
    lost = np.sqrt(np.mean((found.astype(np.float32) - found) ** 2))
    if std > CONSTANT * abs(mean) and lost > LOST * std:
        raise DataError(
            f"its values differ by {std:.3g} around {mean:.10g}, where float32, which networks read, has steps of "
            f"{np.spacing(np.float32(abs(mean))):.3g}",
            file=table.file,
            path=f"column '{name}'",
            expected="numbers that float32 tells apart",
            fix=f"Subtract a constant first, such as {found.min():.10g}, {instead}.",
        )


def _all_or_none(table: Table, name: str) -> None:
    """Raise DataError for a column of numbers with something else among them, or with a decimal comma: each would be a category."""
    values = table.column(name)
    known = [row for row, value in enumerate(values) if value is not None]
    others = [row for row in known if not _reads(values[row])]
    if not others:
        return
    first = values[others[0]]
    fix = f"{no_number(first)} If '{name}' is one of categories, name it in `categories`."
    if 2 * len(others) < len(known):
        expected = f"a number, as in {len(known) - len(others):,} of {len(known):,} rows"
        raise table.fault(others[0], name, shown(first), expected, fix)
    if all(_has_comma(values[row]) for row in others):
        raise table.fault(others[0], name, f"{shown(first)}, a number with a decimal comma", "a decimal point", fix)


def _has_comma(value: Any) -> bool:
    """Whether it is a number once its only comma is a point, and points between thousands are left out."""
    return isinstance(value, str) and value.count(",") == 1 and _reads(value.replace(".", "").replace(",", "."))


def _is_number(values: Sequence[Any]) -> bool:
    """Whether each value that is there is a number: in text, as JSON's are; true and false are none."""
    known = [value for value in values if value is not None]
    return bool(known) and all(_reads(value) for value in known)


def _reads(value: Any) -> bool:
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def numbers(table: Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N,) as `Table.numbers`. Raise DataError for one that float32 does not hold."""
    found = table.numbers(name)
    wrong = np.flatnonzero(np.abs(found) > 1e37)
    if len(wrong):
        raise table.fault(int(wrong[0]), name, f"got {found[wrong[0]]:g}", "a number within 1e37")
    return found


def check_no_nan(tables: Mapping[str, Table], column: str, expected: str, instead: str = "") -> None:
    """Raise DataError for a target's text `nan` in any split: what other programs write for a value that they lack.

    instead: what else may be done than to list it in `missing`.
    """
    for table in tables.values():
        for row, value in enumerate(table.column(column)):
            if isinstance(value, str) and value.strip().lower() in NANS:
                raise table.fault(row, column, shown(value), expected, f"{no_number(value)}{instead}")


def known(table: Table, columns: Columns, rare: int) -> Known:
    """What these training rows say. `rare`: a category that fewer rows have counts as none that is known."""
    raw = np.stack([numbers(table, name) for name in columns.numbers], 1) if columns.numbers else np.zeros((1, 0))
    mean, std = moments(raw)
    lacking = tuple(name for name, column in zip(columns.numbers, raw.T, strict=True) if np.isnan(column).any())
    values = {}
    for name in columns.categories:
        counts = Counter(in_one_form({name: table.categories(name)})[name])
        values[name] = tuple(sorted(value for value, n in counts.items() if value is not None and n >= rare))
    made = Known(columns, mean, std, lacking, values)
    if made.n_ids > CLASSES:
        raise DataError(f"{made.n_ids:,} categories in all", file=table.file, expected=f"at most {CLASSES:,}")
    return made


def moments(raw: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(D,) mean and standard deviation of the rows (N, D), NaN left out; 0 and 1 where there is nothing.

    Of a constant it is 1, or a thousandth of it where that is more: float32 has to tell both apart.
    """
    n = np.maximum((~np.isnan(raw)).sum(0), 1)
    mean = np.nansum(raw, 0) / n
    std = np.sqrt(np.nansum((raw - mean) ** 2, 0) / n)
    std = np.where(std > 1e-9 * np.maximum(np.abs(mean), 1e-30), std, np.maximum(np.abs(mean) / 1000, 1.0))
    return tuple(mean.tolist()), tuple(std.tolist())


def classes_told(tables: Mapping[str, Table], found: Mapping[str, Sequence[str | None]], column: str) -> list[str]:
    """The classes that training rows have, `class_names` of them; `found`: split -> a name a row, None where there is none.

    Raises:
        DataError: names that hardly come back, and so are no classes; one that no training row has.
    """
    told = [name for split in ("train", "unlabeled") for name in found.get(split, ()) if name is not None]
    different = set(told)
    if len(different) > MANY_CLASSES and 2 * len(different) > len(told):
        raise DataError(
            f"{len(different):,} different values in {len(told):,} rows",
            file=tables["train"].file,
            path=f"column '{column}'",
            expected="classes, which come back",
            fix="Name the column of the classes; a table of numbers to be told has `kind: number`.",
        )
    each = {split: [() if name is None else (name,) for name in names] for split, names in found.items()}
    return taught(tables, each, column, "a class")


def taught(
    tables: Mapping[str, Table], found: Mapping[str, Sequence[Collection[str]]], column: str, what: str, fix: str = ""
) -> list[str]:
    """The names that training rows have, `class_names` of them; all, where these have none and the teacher alone speaks of them.

    `found`: split -> names a row. Raise DataError for one that no training row has.
    """
    known = {name for split in ("train", "unlabeled") for names in found.get(split, ()) for name in names}
    if not known:
        return class_names({name for rows in found.values() for names in rows for name in names})
    made = class_names(known)
    told = f"{', '.join(made[:30])}{', ...' if len(made) > 30 else ''}"
    for split, rows in found.items():
        for row, names in enumerate(rows):
            if other := next((name for name in names if name not in known), None):
                raise tables[split].fault(row, column, shown(other), f"{what} of the training rows ({told})", fix)
    return made


def class_names(values: Collection[str]) -> list[str]:
    """Sorted: as numbers where all are whole ones, else as text."""
    if all(value.removeprefix("-").isdecimal() for value in values):
        return sorted(values, key=lambda value: (int(value), value))
    return sorted(values)


def check_named(wanted: Sequence[str], found: Collection[str], table: Table, column: str) -> None:
    """Raise DataError for a value of the target that the study's list of names lacks."""
    unknown = sorted(set(found) - set(wanted))
    if unknown:
        raise DataError(f"got '{unknown[0]}'", file=table.file, path=f"column '{column}'", expected=one_of(wanted[:30]))
