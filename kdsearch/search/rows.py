"""Rows in a file: one JSON object a line, appended whole, so that a kill loses at most the chunk that was being written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kdsearch.errors import ArtifactError, StorageError
from kdsearch.limits import JSON_BYTES
from kdsearch.store.artifacts import SEAL, sealed, unsealed
from kdsearch.store.files import parsed_json, shaped
from kdsearch.store.inputs import lines

FORMAT = 1
AGAIN = "Delete the file; `run` scores again."


class Rows:
    """The rows of one search. The first line says what the file belongs to.

    `shape`: a type that every row but the first line is checked against.

    A torn last line is cut off. A file of another `key` is kept beside as `<name>.<its key>` and a new one is begun.

    Raises:
        ArtifactError: a line in the middle is no JSON, of another shape or not as it was written, or the format is newer.
        StorageError: the disk is full or not writable.
    """

    def __init__(self, path: Path, key: str, shape: Any = None) -> None:
        self.path, self.key, self.shape = path, key, shape
        self.rows: list[dict[str, Any]] = self._read()

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add these rows in one write and wait until the disk has them."""
        new = list(rows)
        if new:
            self._write("".join(_line(sealed(row)) for row in new))
            self.rows += new

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._begin()
            return []
        whole = self._whole()
        header = next(whole, None)
        if header is None:
            self._begin()
            return []
        if header.get("format") != FORMAT:
            raise ArtifactError(
                f"format {header.get('format')!r}",
                file=self.path,
                line=1,
                expected=f"format {FORMAT}",
                fix="Use the kdsearch that wrote it, or delete the file; `run` scores again.",
            )
        if header.get("key") != self.key:
            os.replace(self.path, self.path.with_name(f"{self.path.name}.{str(header.get('key'))[:8]}"))
            self._begin()
            return []
        rows = []
        for number, line in enumerate(whole, 2):
            if self.shape is not None:
                shaped(
                    {name: each for name, each in line.items() if name != SEAL}, self.shape, self.path, AGAIN, number
                )
            rows.append(unsealed(line, self.path, AGAIN, number))
        return rows

    def _whole(self) -> Iterator[dict[str, Any]]:
        """The lines, one at a time; what a kill tore of the last one is cut off."""
        size = 0
        for number, line in enumerate(lines(self.path, "scored candidates", most=JSON_BYTES, error=ArtifactError), 1):
            if not line.endswith(b"\n"):
                os.truncate(self.path, size)
                return
            size += len(line)
            yield self._parse(number, line)

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            found = parsed_json(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ArtifactError(
                f"'{line[:40].decode(errors='replace')}' is no JSON object",
                file=self.path,
                line=number,
                fix=AGAIN,
            )
        return found

    def _begin(self) -> None:
        self._write(_line({"format": FORMAT, "key": self.key}))

    def _write(self, text: str) -> None:
        data = text.encode()
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(handle).st_size
                if os.write(handle, data) != len(data):
                    os.ftruncate(handle, size)
                    raise OSError("the disk is full")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(str(error), file=self.path, fix="Make room and run again; it goes on.") from error


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n"
