"""What kdsearch keeps on disk: written atomically and synced, a full disk told as what it is; JSON read back through one door."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from kdsearch.errors import ArtifactError, StorageError, key_path, wanted
from kdsearch.limits import JSON_BYTES, JSON_DEPTH
from kdsearch.store.inputs import content, lines

_WRITABLE = "Make it writable, or choose another folder."
_DISK = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EFBIG: "the file would exceed the size limit",
    errno.EIO: "the disk, or the way to it, failed (input/output error)",
    errno.ESTALE: "the file server lost the file (stale file handle)",
}
_FIXES = {
    errno.EROFS: _WRITABLE,
    errno.EIO: "Once it works, run the same command again: it goes on.",
    errno.ESTALE: "Once it has it, run the same command again: it goes on.",
}
_PLACE = {  # where nothing can be written, whoever writes
    errno.EEXIST: "is no folder",
    errno.ENOTDIR: "is no folder, or below a file",
    errno.EISDIR: "is a folder",
    errno.ELOOP: "is a symbolic link that leads back to itself",
    errno.ENAMETOOLONG: "has a name that is too long",
}


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError that is the disk's fault into StorageError naming the path."""
    try:
        yield
    except PermissionError as error:
        raise StorageError("not writable", file=_named(error, path), fix=_WRITABLE) from error
    except OSError as error:
        if error.errno in _DISK:
            raise as_storage_error(error, path) from error
        if error.errno in _PLACE:
            raise StorageError(_PLACE[error.errno], file=_named(error, path), fix="Name another place.") from error
        raise


def _named(error: OSError, path: Path) -> Path:
    """The file that the system could not write, in words of the user: what is written beside it first is never heard of."""
    found = Path(os.fsdecode(error.filename or path))
    return path if found.suffix == ".part" else found


def as_storage_error(error: OSError, path: Path | None = None) -> StorageError:
    """The message for a disk that is full, read-only or fails; what was written whole stays valid."""
    problem = _DISK.get(error.errno or 0, str(error))
    fix = _FIXES.get(error.errno or 0, "Make room and run the same command again: it goes on.")
    return StorageError(problem, file=path or error.filename, fix=fix)


def is_disk_error(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in _DISK


_HERE = uuid4().hex[:8]  # process ids are a machine's, or a container's, and folders are shared


def _beside(path: Path) -> Path:
    """Where this process writes what is to have that name."""
    return path.with_name(f".{path.name}.{_HERE}-{os.getpid()}.part")


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside and rename: a reader sees the old file or the new one, never a part."""
    beside = _beside(path)
    with storing(path):
        try:
            with beside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """A copy under its final name at once; nothing is left where the disk is full."""
    beside = _beside(target)
    with storing(target):
        try:
            shutil.copyfile(source, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Room on the disk for all of a file's length, before it is written through a mapping: a full disk would be a SIGBUS there."""
    with storing(path), path.open("r+b") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, max(os.fstat(stream.fileno()).st_size, 1))


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


MADE_AGAIN = "Delete it; `kdsearch run` makes it again."


def read_json(path: Path, shape: Any = None, fix: str = MADE_AGAIN) -> Any:
    """The one door for JSON files of a study's folder.

    Args:
        shape: a type that pydantic checks the value against, such as a TypedDict; None = any JSON value.
        fix: what to do where the file is not as it was written.

    Raises:
        FileNotFoundError: there is none.
        ArtifactError: it is no regular file, too large, no JSON, nested too deeply, or of another shape; naming the place in it.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        raw = content(path, "a JSON file", most=JSON_BYTES, error=ArtifactError)
    except ArtifactError as error:
        error.fix = fix
        raise
    try:
        found = parsed_json(raw)
    except ValueError as error:
        raise ArtifactError(f"not valid JSON ({error})", file=path, fix=fix) from None
    return found if shape is None else shaped(found, shape, path, fix)


def parsed_json(raw: bytes, unique: bool = False) -> Any:
    """Raise ValueError for what is no JSON (NaN and infinities are none) or nested too deeply; `unique`: for a key that is there
    twice, of which JSON would keep the last."""

    def no_number(text: str) -> Any:
        raise ValueError(f"{text[:20]} is no number")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else no_number(text)

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"key '{next(name for name in names if names.count(name) > 1)}' is there twice")
        return made

    hook = each_once if unique else None
    try:
        found = json.loads(raw, parse_constant=no_number, parse_float=number, object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    open_ends = [(found, 1)]
    while open_ends:
        value, depth = open_ends.pop()
        if depth > JSON_DEPTH:
            raise ValueError("nested too deeply")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        open_ends += [(each, depth + 1) for each in inner if isinstance(each, dict | list)]
    return found


def shaped(value: Any, shape: Any, path: Path | str, fix: str = MADE_AGAIN, line: int | None = None) -> Any:
    """The value, checked against a type. Raise ArtifactError naming the place in the file and what was expected there."""
    try:
        return _adapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = key_path(first["loc"], value, missing=first["type"] == "missing")
        if first["type"] == "missing":
            problem, expected = "is missing", "a value"
        else:
            problem, expected = f"got {json.dumps(first['input'])[:80]}", wanted(first["type"], first["msg"])
        changed = "not as kdsearch wrote it" if not where else problem
        raise ArtifactError(changed, file=path, line=line, path=where, expected=expected, fix=fix) from None


@lru_cache(maxsize=64)
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def append_line(path: Path, value: Any) -> None:
    """One JSON line, written by a single call; a torn last line is dropped by `read_lines`."""
    data = (json.dumps(value, sort_keys=True, allow_nan=False) + "\n").encode()
    with storing(path), path.open("ab") as stream:
        if stream.tell() and not _ends_line(path):
            data = b"\n" + data
        stream.write(data)


def _ends_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def read_lines(path: Path, shape: Any = None) -> list[Any]:
    """The file's JSON lines, however many; lines that a kill tore are left out.

    Raises:
        ArtifactError: no regular file, or a line that is too large; with `shape`, a line of another shape, naming it.
    """
    if not os.path.lexists(path):
        return []
    rows = []
    fix = "Delete the line, or the file."
    for number, line in enumerate(lines(path, "JSON lines", most=JSON_BYTES, error=ArtifactError), 1):
        try:
            found = parsed_json(line)
        except ValueError:
            continue
        rows.append(found if shape is None else shaped(found, shape, path, fix, number))
    return rows


def remove(path: Path) -> None:
    """A folder or file, if it is there; of a symbolic link the link, never what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
