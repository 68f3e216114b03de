"""Reads a pickle of plain containers and byte arrays without running anything that it names.

CIFAR's python files are pickles. Here a pickle may build dicts, lists, tuples, text, bytes and numbers, and arrays of
unsigned bytes or integers. numpy's own constructors are not offered: a forged dtype or array state corrupts memory.
Stand-ins collect what the pickle says, and the array is made from checked values.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from kdsearch.errors import DataError
from kdsearch.kit.files import content
from kdsearch.limits import PICKLE_BYTES

DTYPES = {"u1": 1, "i1": 1, "u2": 2, "i2": 2, "u4": 4, "i4": 4, "u8": 8, "i8": 8}


class Forbidden(pickle.UnpicklingError):
    """The pickle asks for something that plain data does not need."""


def _allowed() -> dict[tuple[str, str], Any]:
    """(module, name) -> stand-in. Made anew for each file, so that a pickle that edits one edits nothing of ours."""

    class Dtype:
        def __init__(self, code: Any, *rest: Any) -> None:
            self.code = (code.decode("ascii") if isinstance(code, bytes) else str(code)).lstrip("|<=>")
            if self.code not in DTYPES:
                raise Forbidden(f"array of dtype {str(code)[:20]!r}")
            self.order = "="

        def __setstate__(self, state: Any) -> None:
            order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
            self.order = order if order in ("<", ">") else "="

    class Array:
        value: Any = None

        def __setstate__(self, state: Any) -> None:
            _, shape, dtype, fortran, data = state
            if not isinstance(dtype, Dtype) or not isinstance(data, bytes | str):
                raise Forbidden("array without a plain dtype and bytes")
            raw = data.encode("latin1") if isinstance(data, str) else data
            flat = np.frombuffer(raw, dtype=np.dtype(dtype.order + dtype.code))
            self.value = flat.reshape(tuple(int(n) for n in shape), order="F" if fortran else "C")

    class Kind:
        """What `numpy.ndarray` is in these files: a name to hand to `_reconstruct`."""

    def reconstruct(kind: Any, shape: Any, code: Any) -> Any:
        return Array()

    def encode(text: Any, codec: Any = "latin1") -> bytes:
        if codec not in ("latin1", b"latin1") or not isinstance(text, str):
            raise Forbidden(f"_codecs.encode with codec {codec!r:.20}")
        return text.encode("latin1")

    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    return {
        **{(module, "_reconstruct"): reconstruct for module in modules},
        ("numpy", "ndarray"): Kind,
        ("numpy", "dtype"): Dtype,
        ("_codecs", "encode"): encode,
    }


class _Reader(pickle._Unpickler):
    """The interpreted unpickler: its memo is a dict, so that a forged index cannot make it allocate gigabytes."""

    dispatch = {  # noqa: RUF012 - the base class's own table, less what preallocates or reaches outside the file
        code: method
        for code, method in pickle._Unpickler.dispatch.items()
        if code
        not in (
            pickle.BYTEARRAY8[0],
            pickle.NEXT_BUFFER[0],
            pickle.READONLY_BUFFER[0],
            pickle.EXT1[0],
            pickle.EXT2[0],
            pickle.EXT4[0],
            pickle.PERSID[0],
            pickle.BINPERSID[0],
        )
    }

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="bytes")
        self.offered = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.offered[module, name]
        except KeyError:
            raise Forbidden(f"asks for {module}.{name}") from None


def read_plain_pickle(file: Path) -> dict[str, Any]:
    """A pickled dict with text keys; arrays as numpy arrays, Python 2 text as bytes. Raise DataError for anything else."""
    data = content(file, "a pickle", most=PICKLE_BYTES)
    try:
        found = _Reader(io.BytesIO(data)).load()
    except Forbidden as error:
        raise DataError(
            f"the pickle {error}",
            file=file,
            expected="only containers, text, bytes, numbers and integer arrays",
            fix="The file is not the original: nothing of it was run. Download it again.",
        ) from error
    except Exception as error:  # a broken pickle fails anywhere in the interpreter, with any type
        raise DataError(
            f"not a readable pickle ({type(error).__name__}: {str(error)[:80]})",
            file=file,
            expected="the python version of the data set's files",
            fix="Download it again.",
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"the pickle holds a {type(found).__name__}", file=file, expected="a dict")
    return {_text(key): _value(value) for key, value in found.items()}


def _text(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _value(value: Any) -> Any:
    return value.value if type(value).__name__ == "Array" else value
