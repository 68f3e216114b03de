"""Tables of architectures with a known accuracy: what training-free scores and search strategies are judged by."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdsearch.errors import DataError, StudyError, nearest, one_of
from kdsearch.kinds import Options, SearchSpace
from kdsearch.limits import TABLE_BYTES
from kdsearch.store.inputs import content

ARCH = "arch"


@dataclass(frozen=True)
class Entry:
    """One row: the spec as written, its canonical key, the accuracy, and the line that it begins at."""

    spec: Options
    key: str
    value: float
    line: int


def read_table(space: SearchSpace[Any], path: Path, column: str) -> list[Entry]:
    """Rows of a CSV (also .csv.gz) file with a column `arch`, or d1, d2, ... which make the text `d1,d2,...`; others are ignored.

    Raises:
        DataError: no such file or column, an architecture that is none of the space, a value that is no finite number; all equal.
    """
    rows = _rows(path)
    first, header = rows[0]
    where = _architecture(path, header)
    others = [name for name in header if name not in where]
    if column not in others:
        problem = f"'{column}' is the architecture" if column in where else f"no column '{column}'"
        raise DataError(problem, file=path, line=first, nearest=nearest(column, others), expected=one_of(others))
    for name in (column, *where):
        if header.count(name) > 1:
            raise DataError(f"{header.count(name)} columns are '{name}'", file=path, line=first, expected="one")
    at = [header.index(name) for name in where]
    value_at = header.index(column)
    entries = []
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(
                f"{len(row)} fields", file=path, line=number, expected=f"{len(header)}, as in the first line"
            )
        text = ",".join(row[i].strip() for i in at)
        try:
            spec = space.decode(text)
        except StudyError as error:
            raise DataError(
                error.problem,
                file=path,
                line=number,
                path=", ".join(where),
                expected=error.expected,
                nearest=error.nearest,
            ) from None
        entries.append(Entry(spec, space.key(spec), _number(row[value_at], path, number, column), number))
    if len(entries) < 2:
        raise DataError(f"{len(entries)} rows", file=path, expected="at least two architectures")
    if len({each.value for each in entries}) == 1:
        raise DataError(f"every value is {entries[0].value:g}", file=path, path=column, expected="values that differ")
    return entries


def contradictions(entries: Sequence[Entry]) -> list[str]:
    """Of architectures, as they are written, that several rows give different values: how many, and where the first one is."""
    rows: dict[str, list[Entry]] = {}
    for each in entries:
        rows.setdefault(each.spec.model_dump_json(), []).append(each)
    found = [same for same in rows.values() if len({each.value for each in same}) > 1]
    if not found:
        return []
    first = ", ".join(f"{each.value:g} in line {each.line}" for each in found[0][:10])
    return [f"Architectures with several different values: {len(found):,}, such as {first}."]


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line, fields) of every row that is not blank; a row of several lines has its first."""
    try:
        raw = content(path, "a CSV file with a header, or .csv.gz", most=TABLE_BYTES)
        text = (_unpacked(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"not readable as a table: {error}", file=path, expected="a CSV file, or .csv.gz") from None
    reader, rows, line = csv.reader(io.StringIO(text, newline="")), [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(str(error), file=path, line=reader.line_num, expected="a CSV file, or .csv.gz") from None
    if not rows:
        raise DataError("the file is empty", file=path, expected="a header and one row an architecture")
    return rows


def _unpacked(raw: bytes) -> bytes:
    """Raise EOFError where what is packed is no table of a size that is read."""
    with gzip.open(io.BytesIO(raw)) as stream:
        text = stream.read(TABLE_BYTES + 1)
    if len(text) > TABLE_BYTES:
        raise EOFError(f"more than {TABLE_BYTES:,} bytes unpacked")
    return text


def _architecture(path: Path, header: Sequence[str]) -> list[str]:
    """The columns that name an architecture."""
    if ARCH in header:
        return [ARCH]
    depths = sorted((name for name in header if re.fullmatch(r"d\d+", name)), key=lambda name: int(name[1:]))
    if not depths:
        raise DataError(f"no column '{ARCH}'", file=path, line=1, expected=f"a column '{ARCH}', or d1, d2, ...")
    return depths


def _number(text: str, path: Path, line: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"'{text[:40]}'", file=path, line=line, path=column, expected="a number")
    return value


def class_means(entries: Sequence[Entry]) -> Mapping[str, float]:
    """key -> mean value of the rows of one isomorphism class."""
    values: dict[str, list[float]] = {}
    for each in entries:
        values.setdefault(each.key, []).append(each.value)
    return {key: math.fsum(found) / len(found) for key, found in values.items()}
