"""Data set `table`: rows of the user's own, numbers and categories in, a class, numbers or several labels out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field as Option
from pydantic import field_validator

from kdsearch.builtin.tables.columns import told_apart
from kdsearch.builtin.tables.source import Read, TableSource, without_marks
from kdsearch.builtin.tables.targets import TASKS, Kind, read_target
from kdsearch.errors import DataError
from kdsearch.kinds import Dataset, DataSource, Services
from kdsearch.kit.tables import Table, TableFiles, read_tables


class TableOptions(TableFiles):
    target: str | tuple[str, ...] = Option(
        description="column of what is to be predicted; several: numbers, or labels of 0 and 1"
    )
    kind: Literal["class", "number", "labels"] = Option(
        "class",
        description="what the target is: one class; numbers (task regression); several labels at once (task multilabel), as "
        "columns of 0 and 1, or one column of lists",
    )
    separator: str | None = Option(
        None, min_length=1, description='between the labels of a CSV cell, such as ; in "news;sport"'
    )
    names: tuple[str, ...] | None = Option(
        None, min_length=2, description="classes or labels in their order; null = those that occur, sorted"
    )
    numbers: tuple[str, ...] = Option(
        (), description="columns that are numbers; those named nowhere are if every value is"
    )
    categories: tuple[str, ...] = Option(
        (), description="columns that are categories, such as codes written as numbers"
    )
    ignore: tuple[str, ...] = Option((), description="columns that are not read")
    missing: tuple[str, ...] = Option(
        (),
        description="texts or numbers that mean that nobody knows, such as ?, NA or -999, beside empty cells and null",
    )
    rare: int = Option(1, ge=1, description="a category with fewer training rows is read as an unknown one")

    @field_validator("target", "names")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise ValueError("one or more names that differ")
        return value


class TableData(Dataset[TableOptions]):
    """CSV or JSON Lines. A row without a target is a sample without a label."""

    origin: ClassVar[Mapping[str, str]] = {"source": "the user's file", "licence": "the user's"}

    def __init__(self, options: TableOptions) -> None:
        super().__init__(options)
        self.task = TASKS[options.kind]

    def preflight(self, services: Services) -> None:
        self.options.check(services)

    def open(self, services: Services) -> DataSource:
        o = self.options
        beside = [name for name in (o.split, o.id) if name is not None]
        targets = (o.target,) if isinstance(o.target, str) else o.target
        read = read_tables(o, services, lambda name: name not in o.ignore, targets)
        tables = without_marks(read, o.missing)
        facts = {"name": "table", **self.origin}
        return opened(tables, o, [*o.ignore, *beside], facts)


def opened(
    tables: Mapping[str, Table], o: TableOptions, ignored: Sequence[str], facts: Mapping[str, Any]
) -> DataSource:
    """The source of tables that were read. Raise DataError for columns and values that do not fit the options."""
    target = (o.target,) if isinstance(o.target, str) else o.target
    kind: Kind = o.kind
    if kind == "class" and len(target) > 1:
        raise DataError(
            f"{len(target)} columns of classes",
            path="data.options.target",
            expected="one, or `kind: labels` or `number`",
        )
    train = tables["train"]
    columns = told_apart(train, target, o.numbers, o.categories, ignored)
    for table in tables.values():
        for name in (*target, *columns.numbers, *columns.categories):
            table.column(name)
    answers = read_target(tables, kind, target, o.names, o.separator)
    return TableSource(Read(tables, columns, answers, o.rare, o.missing, facts))
