"""Code that a study names: run only where the command line allows it by the very string."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from kdsearch.errors import INTERRUPTS, DataError, KdsearchError, StudyError, UnsafeCodeError, nearest, told
from kdsearch.store.inputs import lies, regular

_PYTHON = re.compile(r".+\.py:[A-Za-z_][\w.]*")


def is_code(text: str) -> bool:
    """Whether a study's string names code whatever its key: `file.py:Name`, or a file that runs code when loaded (.pt2)."""
    return bool(_PYTHON.fullmatch(text)) or text.lower().endswith((".pt2", ".py"))


def code_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """(key path, string) of everything in a study's values that names code."""
    if isinstance(value, str):
        if is_code(value):
            yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from code_in(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, Sequence):
        for i, inner in enumerate(value):
            yield from code_in(inner, f"{path}[{i}]")


def allow(target: str, allow_code: Sequence[str], path: str = "") -> None:
    """Raise UnsafeCodeError unless the command line carries `--allow-code` with this very string."""
    if target not in allow_code:
        raise UnsafeCodeError(
            f"'{target}' would run code", path=path, fix=f"If you trust it, add: --allow-code '{target}'"
        )


def load_code(target: str, allow_code: Sequence[str], folder: Path, path: str = "") -> Any:
    """The object at `file.py:name` (relative to `folder`) or `package.module:name`; of a `.pt2` file its path.

    Raises:
        UnsafeCodeError: not allowed.
        DataError: no such file.
        StudyError: no such name, or the code raised.
    """
    allow(target, allow_code, path)
    if target.lower().endswith(".pt2"):  # loading it runs what it holds; the teacher that asked opens it
        return folder / target
    where, colon, name = target.rpartition(":")
    if not colon or not name:
        raise StudyError(f"got '{target}'", path=path, expected="file.py:Name or package.module:Name")
    try:
        found: Any = _module(folder / where) if where.endswith(".py") else import_module(where)
    except (*INTERRUPTS, KdsearchError):
        raise
    except BaseException as error:
        raise StudyError(f"'{target}' raised {told(error)}", path=path) from error
    for part in name.split("."):
        if not hasattr(found, part):
            names = [each for each in vars(found) if not each.startswith("_")] if hasattr(found, "__dict__") else []
            raise StudyError(f"'{where}' has no '{part}'", path=path, nearest=nearest(part, names))
        found = getattr(found, part)
    return found


class _Source(SourceFileLoader):
    """Compiles what the file holds now and writes nothing beside it: bytecode is told from a newer source by whole seconds only."""

    def path_stats(self, path: str) -> dict[str, Any]:
        raise OSError("no bytecode")  # where there are none, it is neither read nor written


def _module(file: Path) -> Any:
    if not lies(file):
        raise DataError("there is no such file", file=file)
    regular(file, "a Python file")
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    name = f"kdsearch_allowed_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file, loader=_Source(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pydantic look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
