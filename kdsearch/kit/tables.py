"""Tables that a user brings, CSV and JSON Lines: named columns, their values checked by file and line, rows with ids of their own.
Plain text is one too: a row a line that is not blank, in one column `text`.

A row is known by a named column, or else by a digest of what it holds in the columns that are read: neither depends on the order
of rows or columns, so a file that is sorted anew has the same splits. Equal rows of a split are told apart by a number and stay
together; a row that stands in two splits is refused, unless the user says what to do with it. A cell that is empty, absent or
null is missing: None in texts and categories, NaN in numbers.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field as Option
from pydantic import field_validator

from kdsearch.errors import DataError, nearest, one_of
from kdsearch.kinds import Options, Services
from kdsearch.kit.table_copies import digests, together, unrepeated, untold, whole
from kdsearch.store.table_rows import other_delimiter, rows_of, shown

__all__ = [
    "Table",
    "TableFiles",
    "identified",
    "no_number",
    "read_table",
    "read_tables",
    "shown",
    "unrepeated",
]

SPLITS = ("train", "unlabeled", "val", "test")
_ALSO = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "unlabelled": "unlabeled"}


class TableFiles(Options):
    """Options of every data set that is read from tables: which files, which column splits them, which one has ids."""

    path: str = Option(
        description="CSV (.csv, .tsv: a header, then rows) or JSON Lines (.jsonl, .ndjson: an object a line): the training samples"
    )
    val: str | None = Option(None, description="the same for validation; null = held out of `path` by ids")
    test: str | None = Option(None, description="the same for the test; null = held out of `path` by ids")
    split: str | None = Option(
        None, description="column of `path` that says train, val, test or unlabeled; instead of `val` and `test`"
    )
    id: str | None = Option(
        None, description="column of ids that differ; null = a digest of what a row holds in the columns that are read"
    )
    copies: Literal["refuse", "drop", "keep"] = Option(
        "refuse",
        description="rows that stand in two splits: an error; left out of training (of validation, where the test has them); "
        "or kept, where equal rows are different samples and may be carved apart",
    )
    encoding: str = Option(
        "utf-8", description="of the text, such as utf-8, latin-1 or utf-16; a byte order mark is skipped"
    )
    delimiter: str | None = Option(
        None, min_length=1, max_length=1, description="between the cells of a CSV row; null = by the file's name"
    )
    header: tuple[str, ...] | None = Option(
        None, min_length=1, description="names of a CSV's columns in order, where its first line has none"
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            "".encode(value)
            return codecs.lookup(value).name
        except (LookupError, ValueError, TypeError):
            names = ("utf-8", "utf-16", "utf-32", "ascii", "latin-1", "cp1252", "cp1251", "gbk", "shift_jis", "euc_kr")
            hint = nearest(value, names)
            raise ValueError(f"an encoding of text{f', such as {hint}' if hint else ''}") from None

    @field_validator("header")
    @classmethod
    def _each_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("names that differ")
        return value

    def check(self, services: Services) -> None:
        """Raise DataError for a file of these that is not there."""
        for path in (self.path, self.val, self.test):
            if path is not None:
                services.file(path)


@dataclass(frozen=True)
class Table:
    """Rows of one file, or of one split of it.

    Args:
        file: that errors name.
        values: column -> one value a row: text in a CSV, any JSON value in JSON Lines; None = missing.
        lines: the line that each row begins at, from 1.
        ids: of each row, unique in the table.
        groups: of each row, what equal rows have in common; () = there are none, or they are different samples.
        held: of each row without an id of its own, a digest of what it holds in the columns that are read.
    """

    file: Path
    values: Mapping[str, list[Any]]
    lines: Sequence[int]
    ids: tuple[str, ...]
    groups: tuple[str, ...] = ()
    held: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.values)

    def column(self, name: str) -> list[Any]:
        """The values as they were read. Raise DataError, which lists the columns, for one that is not there."""
        if name not in self.values:
            raise _no_column(name, self.columns, self.file)
        return self.values[name]

    def fault(self, row: int, column: str, problem: str, expected: str, fix: str = "", near: str = "") -> DataError:
        """An error that names the file, the row's line and the column."""
        where = f"column '{column}'" if column else ""
        return DataError(
            problem, file=self.file, line=self.lines[row], path=where, expected=expected, nearest=near, fix=fix
        )

    def texts(self, name: str) -> list[str]:
        """One text a row. Raise DataError for a missing one, and for what is no text."""
        found = self.column(name)
        for row, value in enumerate(found):
            if not isinstance(value, str) or not value.strip():
                raise self.fault(row, name, shown(value), "text")
        return found

    def categories(self, name: str) -> list[str | None]:
        """One name a row: text, a whole number or true and false. Raise DataError for other values."""
        made: list[str | None] = []
        for row, value in enumerate(self.column(name)):
            if value is None:
                made.append(None)
            elif isinstance(value, str):
                made.append(value.strip() or None)
            elif isinstance(value, bool | int):
                made.append(json.dumps(value))
            elif isinstance(value, float) and value.is_integer():  # as other programs write a column that lacks a value
                made.append(json.dumps(int(value)))
            else:
                raise self.fault(row, name, shown(value), "a name or a whole number")
        return made

    def numbers(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(N,) float64, NaN where missing. Raise DataError for text that is no number and for infinite ones."""
        made = np.full(len(self), np.nan)
        for row, value in enumerate(self.column(name)):
            number = _number(value)
            if number is None or math.isinf(number):
                fix = no_number(value) if number is None else ""
                raise self.fault(row, name, shown(value), "a finite number", fix)
            made[row] = number
        return made

    def lists(self, name: str, separator: str | None = None) -> list[list[str] | None]:
        """Names a row: a JSON list, or text that is parted at `separator`. None where missing; [] is a list without names.

        Raise DataError for other values, and for a name that occurs twice in a row.
        """
        made: list[list[str] | None] = []
        for row, value in enumerate(self.column(name)):
            if isinstance(value, str) and separator is not None:
                value = [part.strip() for part in value.split(separator) if part.strip()]
            if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
                expected = "a list of names" if separator is None else f"names, with '{separator}' between them"
                fix = "Set `separator` to what is between them." if isinstance(value, str) else ""
                raise self.fault(row, name, shown(value), expected, fix)
            if value is not None and len(set(value)) < len(value):
                raise self.fault(row, name, f"{shown(value)} has a name twice", "each name once")
            made.append(value)
        return made

    def at(self, rows: Sequence[int]) -> Table:
        """The rows at these places, in that order."""
        values = {name: [each[i] for i in rows] for name, each in self.values.items()}
        of_rows = (tuple(each[i] for i in rows) if each else () for each in (self.ids, self.groups, self.held))
        return Table(self.file, values, [self.lines[i] for i in rows], *of_rows)

    def without(self, marks: Sequence[str]) -> Table:
        """The table with None in place of these texts, and of JSON's numbers that they are: what its author wrote for values that
        nobody knows."""
        marked, numbers = {whole(mark) for mark in marks}, {_number(mark) for mark in marks} - {None}

        def is_marked(value: Any) -> bool:
            if isinstance(value, str):
                return whole(value.strip()) in marked
            return isinstance(value, int | float) and not isinstance(value, bool) and value in numbers

        changed = {name: [None if is_marked(each) else each for each in values] for name, values in self.values.items()}
        return replace(self, values=changed) if marked else self


def read_tables(
    options: TableFiles,
    services: Services,
    reads: Callable[[str], bool] | None = None,
    targets: Collection[str] = (),
) -> dict[str, Table]:
    """The splits that the options name, `train` first, with ids that are unique in each.

    reads: whether a data set reads a column; rows that differ in others alone are equal. None = it reads all.
    targets: columns of what is to be told; a row that lacks them all is a copy of one that is equal but for them.

    Raises:
        DataError: a file that is no table, a column that is not there, another word than a split's in the split column, an id
            that is missing or occurs twice; with file, line and column.
    """
    files = {"train": options.path, "val": options.val, "test": options.test}
    given = {name: path for name, path in files.items() if path is not None}
    if options.split is not None and len(given) > 1:
        beside = next(name for name in given if name != "train")
        raise DataError(
            f"`split` and `{beside}` both say which samples are which",
            path="data.options.split",
            expected="one of them",
        )
    tables = {name: _rows(services.file(path), options) for name, path in given.items()}
    if options.split is not None:
        tables = _parted(tables["train"], options.split)
    named = {name: identified(each, options, reads, targets) for name, each in tables.items()}
    return _apart(named, options, reads, targets)


def _parted(table: Table, column: str) -> dict[str, Table]:
    rows: dict[str, list[int]] = {name: [] for name in SPLITS}
    for row, value in enumerate(table.categories(column)):
        said = "" if value is None else value.lower()
        name = _ALSO.get(said, said)
        if name not in rows:
            raise table.fault(row, column, shown(value), one_of(SPLITS), near=nearest(said, (*SPLITS, *_ALSO)))
        rows[name].append(row)
    if not rows["train"]:
        raise DataError("no row says 'train'", file=table.file, path=f"column '{column}'", expected="training samples")
    return {name: table.at(found) for name, found in rows.items() if found}


def _apart(
    tables: Mapping[str, Table], options: TableFiles, reads: Callable[[str], bool] | None, targets: Collection[str]
) -> dict[str, Table]:
    """The splits without a row in two of them: what is held out stays, `test` before `val`."""
    owner: dict[str, tuple[str, int]] = {}
    asked: dict[str, tuple[str, int]] = {}  # a held out row, by what it holds but for the targets
    without = {name: untold(each.values, targets) if targets and each.held else [] for name, each in tables.items()}
    made, copies = {}, options.copies
    for name in sorted(tables, key=SPLITS.index, reverse=True):
        table = tables[name]
        held = table.held or table.ids
        found = {row: owner[each] for row, each in enumerate(held) if each in owner}
        if any(without.values()):
            asks = digests(table.values, [each for each in _read(table, options, reads) if each not in targets])
            found = {row: asked[asks[row]] for row in without[name] if asks[row] in asked} | found
            if name in ("test", "val"):
                asked |= {each: (name, row) for row, each in enumerate(asks)}
        twice = sorted(found)
        if twice and copies == "refuse":
            other, row = found[twice[0]]
            where = f"{tables[other].file.name}:{tables[other].lines[row]}"
            raise DataError(
                f"this row of '{name}' is in '{other}' too ({where}), as {len(twice)} are",
                file=table.file,
                line=table.lines[twice[0]],
                expected="each sample in one split: one in train and test makes the result worthless",
                fix="Set `copies: drop` to train without them, or `id` if equal rows are different samples.",
            )
        if twice and copies == "drop":
            table = table.at([row for row in range(len(table)) if row not in found])
        if twice and copies == "keep":
            ids = (f"{each}-{name}" if row in found else each for row, each in enumerate(table.ids))
            table = replace(table, ids=tuple(ids))
        owner |= {each: (name, row) for row, each in enumerate(held)}
        made[name] = table
    return {name: made[name] for name in SPLITS if name in made}


def read_table(file: Path, options: TableFiles) -> Table:
    """Every row of one file, in its order; its format is told by its name. `split` parts nothing here.

    Raises:
        DataError: no such file, a FIFO, a file too large, another encoding, a row of another length than the header, a line that
            is no JSON object, no row at all, an id that is missing or occurs twice.
    """
    return identified(_rows(file, options), options)


def _rows(file: Path, options: TableFiles) -> Table:
    """The rows, not yet named."""
    values, lines = rows_of(file, options.encoding, options.delimiter, options.header)
    return Table(file, values, lines, ("",) * len(lines))


def identified(
    table: Table,
    options: TableFiles,
    reads: Callable[[str], bool] | None = None,
    targets: Collection[str] = (),
) -> Table:
    """The table with ids, of the options' column or by what its rows hold in columns that are read (None = in all).

    Raise DataError for ids missing or not unique.
    """
    if options.id is not None:
        return replace(table, ids=_named_ids(table, options.id))
    names = _read(table, options, reads)
    written, held = digests(table.values, names, lambda value: value), digests(table.values, names)
    groups = () if options.copies == "keep" else together(table.values, written, held, names, targets)
    return replace(table, ids=tuple(unrepeated(written)), groups=groups, held=held)


def _read(table: Table, options: TableFiles, reads: Callable[[str], bool] | None) -> list[str]:
    return [name for name in table.columns if name != options.split and (reads is None or reads(name))]


def _no_column(name: str, columns: Sequence[str], file: Path) -> DataError:
    """That a table has no such column, with those that it has."""
    some = [each for each in columns if each][:30]
    rest = f" and {len(columns) - len(some)} more" if len(columns) > len(some) else ""
    return DataError(
        f"no column '{name}'",
        file=file,
        nearest=nearest(name, columns),
        expected=f"{', '.join(some)}{rest}",
        fix=other_delimiter(columns),
    )


def _named_ids(table: Table, column: str) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for row, value in enumerate(table.categories(column)):
        if value is None:
            raise table.fault(row, column, shown(value), "an id")
        if value in first:
            problem = f"id '{value}' occurs twice, in line {table.lines[first[value]]} too"
            raise table.fault(
                row, column, problem, "ids that differ", "Leave `id` out: rows are then known by content."
            )
        first[value] = row
    return tuple(first)


def _number(value: Any) -> float | None:
    """NaN where missing, None for what is no number; `1_000` is none, as no other program reads it."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def no_number(value: Any) -> str:
    """What to do about a cell that is no number."""
    if isinstance(value, str) and "," in value and any(each.isdigit() for each in value):
        return "Write a point before the decimals, and nothing between thousands."
    return "List it in `missing` if it means that nobody knows."
