"""Arrays of a user's .npz file: nothing is unpickled, and no more is unpacked than memory holds."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.errors import DataError
from kdsearch.kit.files import opened
from kdsearch.limits import ARRAYS_BYTES
from kdsearch.ops.memory import free_bytes

__all__ = ["Array", "check_memory", "read_arrays"]

Array = np.ndarray[Any, Any]
FEWER = "Take fewer samples."


def check_memory(n_bytes: int, file: object, fix: str = FEWER) -> None:
    """Raise DataError where so many bytes would not fit into the memory that is free now."""
    free = free_bytes()
    if n_bytes > free:
        problem = f"takes {n_bytes / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} are free"
        raise DataError(problem, file=file, expected="less", fix=fix)


def read_arrays(file: Path, fix: str = FEWER) -> dict[str, Array]:
    """Every array of an .npz, never unpickling. Raise DataError naming the file, and the array that is at fault.

    fix: what to do about more than fits into memory.
    """
    name = ""
    with opened(file, "an .npz file", most=ARRAYS_BYTES) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                unpacked = sum(each.file_size for each in archive.infolist())
            check_memory(unpacked, file, fix)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as found:
                arrays = {}
                for name in found.files:
                    array = found[name]
                    if not isinstance(array, np.ndarray):
                        raise DataError(f"'{name}' is not an array", file=file, expected="arrays only")
                    arrays[name] = array
                return arrays
        except DataError:
            raise
        except Exception as error:  # a damaged archive fails anywhere in its reader, with any type
            raise _broken(name, error, file) from error


def _broken(name: str, error: Exception, file: Path) -> DataError:
    where = f"array '{name}': " if name else ""
    return DataError(
        f"{where}not readable ({str(error)[:80]})",
        file=file,
        expected="an .npz of plain arrays, as numpy.savez writes it (no objects)",
    )
