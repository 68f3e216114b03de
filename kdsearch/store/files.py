"""Writing to disk: atomic, synced, and with a full disk told as what it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from kdsearch.errors import ArtifactError, StorageError

_DISK = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EFBIG: "the file would exceed the size limit",
}


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError that is the disk's fault into StorageError naming the path."""
    try:
        yield
    except PermissionError as error:
        raise StorageError(
            "not writable", file=error.filename or path, fix="Choose another folder with --dir."
        ) from error
    except OSError as error:
        if error.errno in _DISK:
            raise as_storage_error(error, path) from error
        raise


def as_storage_error(error: OSError, path: Path | None = None) -> StorageError:
    """The message for a disk that is full or read-only; what was written whole stays valid."""
    problem = _DISK.get(error.errno or 0, str(error))
    return StorageError(
        problem, file=path or error.filename, fix="Make room and run the same command again: it goes on."
    )


def is_disk_error(error: BaseException) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in _DISK


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside and rename: a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
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
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
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


def read_json(path: Path) -> Any:
    """Raise ArtifactError when the file is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"not valid JSON ({error})", file=path, fix="Delete it; `kdsearch run` makes it again."
        ) from None


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


def read_lines(path: Path) -> list[Any]:
    """The file's JSON lines; lines that a kill tore are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def remove(path: Path) -> None:
    """A folder or file, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
