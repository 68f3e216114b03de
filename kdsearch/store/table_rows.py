"""The rows of a table's file, CSV, JSON Lines or plain text: column -> values, and the line that each row begins at."""

from __future__ import annotations

import codecs
import csv
import io
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdsearch.errors import DataError
from kdsearch.limits import TABLE_BYTES, TABLE_CELL, TABLE_COLUMNS
from kdsearch.store.files import parsed_json
from kdsearch.store.inputs import content

Columns = tuple[dict[str, list[Any]], list[int]]  # column -> a value a row; the line that each row begins at, from 1

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_OTHERS = (";", "\t", "|", ",")  # what stands between the cells of other programs' tables
_LINES = (".jsonl", ".ndjson")
_PLAIN, _TEXT = ".txt", "text"
_WIDE = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_EXPECTED = "a table: CSV (.csv, .tsv), JSON Lines (.jsonl, .ndjson), or plain text (.txt)"
_CSV_LIMIT = threading.Lock()  # of a cell's size: one for the whole process


def rows_of(file: Path, encoding: str, delimiter: str | None, header: Sequence[str] | None) -> Columns:
    """Every row of the file, in its order; its format is told by its name. An empty cell, an absent key and null are None.

    Args:
        delimiter: between the cells of a CSV row; None = by the file's name.
        header: names of a CSV's columns where its first line has none.

    Raises:
        DataError: no such file, a FIFO, a file too large, another encoding, a row of another length than the header, a line that
            is no JSON object, no row at all; with file and line.
    """
    kind = file.suffix.lower()
    if kind not in _DELIMITERS and kind not in _LINES and kind != _PLAIN:
        raise DataError(f"is a '{kind}' file" if kind else "its name has no ending", file=file, expected=_EXPECTED)
    text = _decoded(content(file, _EXPECTED, most=TABLE_BYTES), encoding, file)
    if kind in _LINES:
        values, lines = _json_rows(text, file)
    elif kind == _PLAIN:
        values, lines = _plain_rows(text, file)
    else:
        values, lines = _csv_rows(text, delimiter or _DELIMITERS[kind], header, file)
    if not lines:
        raise DataError("has no row", file=file, expected="one sample or more")
    return values, lines


def _decoded(raw: bytes, encoding: str, file: Path) -> str:
    try:
        return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = (
            f"byte 0x{raw[error.start]:02x} is no {encoding} here" if error.start < len(raw) else f"is no {encoding}"
        )
        wide = next((name for mark, name in _WIDE.items() if raw.startswith(mark)), "")
        fix = f"Set `encoding: {wide}`." if wide else "Set `encoding` to what the file was written in, such as latin-1."
        raise DataError(found, file=file, line=line, expected=f"text in {encoding}", fix=fix) from None
    except UnicodeError as error:  # utf-16 without a byte order mark, an odd number of bytes
        raise DataError(f"is no {encoding} ({error})", file=file, expected=f"text in {encoding}") from None


def _csv_rows(text: str, delimiter: str, header: Sequence[str] | None, file: Path) -> Columns:
    """Column -> texts, None where a cell is empty; and the line that each row begins at."""
    rows = _cells(text, delimiter, file)
    if header is None:
        first = next(rows, None)
        if first is None:
            raise DataError("is empty", file=file, expected="a header and rows")
        header = [name.strip() for name in first[1]]
        _check_header(header, file, first[0])
    columns: list[list[Any]] = [[] for _ in header]
    lines = []
    for line, cells in rows:
        if len(cells) != len(header):
            expected = f"{len(header)}: {', '.join(header[:10])}{', ...' if len(header) > 10 else ''}"
            fix = "" if delimiter in text[:10_000] else "Set `delimiter` to what is between the cells."
            fix = other_delimiter(header) or fix
            raise DataError(f"{len(cells)} cells", file=file, line=line, expected=expected, fix=fix)
        lines.append(line)
        for column, cell in zip(columns, cells, strict=True):
            column.append(_known(cell))
    return dict(zip(header, columns, strict=True)), lines


def other_delimiter(header: Sequence[str]) -> str:
    """What to set where the only column's name looks like several names; "" else."""
    apart = next((mark for mark in _OTHERS if len(header) == 1 and mark in header[0]), None)
    return "" if apart is None else f"Set `delimiter: {json.dumps(apart)}` if it stands between the cells."


def _cells(text: str, delimiter: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line that it begins at, cells) of each row; lines without a character are none."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    while True:
        with _CSV_LIMIT:
            was = csv.field_size_limit(TABLE_CELL)
            try:
                cells = next(rows, None)
            except csv.Error as error:
                raise DataError(
                    f"is no CSV ({error})", file=file, line=line, expected='cells, quoted with ""'
                ) from None
            finally:
                csv.field_size_limit(was)
        if cells is None:
            return
        if cells:
            yield line, cells
        line = rows.line_num + 1


def _check_header(header: Sequence[str], file: Path, line: int) -> None:
    if len(header) > TABLE_COLUMNS:
        raise DataError(f"{len(header):,} columns", file=file, line=line, expected=f"at most {TABLE_COLUMNS:,}")
    seen: set[str] = set()
    for name in header:
        if name in seen:
            fix = "If this is the first row and no header, name the columns in `header`."
            raise DataError(
                f"two columns are named '{name}'", file=file, line=line, expected="names that differ", fix=fix
            )
        seen.add(name)


def _plain_rows(text: str, file: Path) -> Columns:
    """The lines that are not blank, and the number of each."""
    rows = [(line, raw.strip()) for line, raw in enumerate(text.split("\n"), 1) if raw.strip()]
    for line, raw in rows:
        if len(raw) > TABLE_CELL:
            raise DataError(f"{len(raw):,} characters", file=file, line=line, expected=f"at most {TABLE_CELL:,}")
    return {_TEXT: [raw for _, raw in rows]}, [line for line, _ in rows]


def _json_rows(text: str, file: Path) -> Columns:
    """Key -> values, None where it is absent or null; and the line of each row."""
    columns: dict[str, list[Any]] = {}
    lines: list[int] = []
    for line, raw in enumerate(text.split("\n"), 1):
        if not raw.strip():
            continue
        if len(raw) > TABLE_CELL:
            raise DataError(f"{len(raw):,} characters", file=file, line=line, expected=f"at most {TABLE_CELL:,}")
        try:
            row = parsed_json(raw.encode("utf-8", "surrogatepass"), unique=True)
        except ValueError as error:
            raise DataError(f"is no JSON ({error})", file=file, line=line, expected="an object, {...}") from None
        if "\\u" in raw and not _is_text(row):
            raise DataError("holds half of a surrogate pair", file=file, line=line, expected="whole characters")
        if not isinstance(row, dict):
            raise DataError(shown(row), file=file, line=line, expected='an object, {"column": value, ...}')
        for name in row:
            if name not in columns:
                columns[name] = [None] * len(lines)
        for name, values in columns.items():
            values.append(_known(row.get(name)))
        lines.append(line)
        if len(columns) > TABLE_COLUMNS:
            raise DataError(f"{len(columns):,} keys", file=file, line=line, expected=f"at most {TABLE_COLUMNS:,}")
    return columns, lines


def _known(value: Any) -> Any:
    """None for an empty text, as for an empty cell."""
    return None if isinstance(value, str) and not value.strip() else value


def _is_text(value: Any) -> bool:
    """Whether all texts in a JSON value can be written."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """A value in a message."""
    if value is None:
        return "is missing"
    text = value if isinstance(value, str) else json.dumps(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"got '{text}'" if isinstance(value, str) else f"got {text}"
