"""Content hashes and named random streams: everything that must repeat is a function of these."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from functools import cached_property, lru_cache, partial, partialmethod
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from kdsearch.store.inputs import opened

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values. Raises TypeError for what is not JSON, ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 16) -> str:
    """Hexadecimal SHA-256 of a JSON value, shortened."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes. Raise DataError for what is no regular file, or may not be read."""
    with opened(path, "a file") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def module_digest(module: nn.Module) -> str:
    """SHA-256 of a module's structure, parameters, buffers, settings and own classes: the identity of a live teacher.

    Settings are attributes that are numbers, texts, functions or sequences of these, such as a temperature; of the user's own
    classes also mappings, sets, arrays and records (dataclasses, namespaces). A tensor that is neither parameter nor buffer is
    none: a pass may have left it there.
    """
    from torch import Tensor, nn

    found, torchs = hashlib.sha256(), frozenset(vars(nn.Module()))
    classes: dict[type, str] = {}
    for name, part in module.named_modules():
        own = classes.get(type(part)) or classes.setdefault(type(part), class_digest(type(part)))
        found.update(f"{name}:{own}:{_ADDRESS.sub('', part.extra_repr())}:{_settings_of(part, torchs)}".encode())
    for name, each in sorted((module.state_dict() | unsaved_buffers(module)).items()):
        if isinstance(each, Tensor):
            found.update(f"{name}:{each.dtype}:{tuple(each.shape)}".encode())
            found.update(_bytes(each))
        else:  # a module's extra state
            found.update(f"{name}:{canonical(_plain(each, ()))}".encode())
    return found.hexdigest()[:16]


def _settings_of(part: nn.Module, torchs: Collection[str]) -> str:
    """`torchs`: names of attributes that every module has."""
    is_setting = _is_setting if _is_installed(type(part)) else _is_own_setting
    own = {name: value for name, value in vars(part).items() if name not in torchs and is_setting(value)}
    return canonical([[name, _plain(value, ())] for name, value in sorted(own.items())])


def _is_own_setting(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_own_setting, value))
    if isinstance(value, Mapping):
        return all(map(_is_own_setting, (*value, *value.values())))
    if isinstance(value, SimpleNamespace | Namespace) or (is_dataclass(value) and not isinstance(value, type)):
        return _is_own_setting(getattr(value, "__dict__", {}))
    is_array = hasattr(value, "tobytes") and str(getattr(value, "dtype", "")) != "object"
    return is_array or _is_setting(value)


def _is_setting(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, bool | int | float | str | bytes | FunctionType | BuiltinFunctionType)


def unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers by name that are not in its `state_dict`: those of `persistent=False`."""
    saved = module.state_dict().keys()
    return {name: each for name, each in module.named_buffers(remove_duplicate=False) if name not in saved}


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bits."""
    return hashlib.sha256(_bytes(tensor)).hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def class_digest(cls: type) -> str:
    """SHA-256 of a class's name and, where it is the user's own, of its source and its bases' (not of what these call).

    A class of an installed package is its name; one without a source (typed at a prompt or into a notebook) counts by what its
    body made: code with its constants and defaults, attributes, fields of options.
    """
    found = hashlib.sha256()
    for each in cls.__mro__[:-1]:
        if _is_installed(each):
            found.update(f"{each.__module__}.{each.__qualname__}\0".encode())
        else:  # without its module's name: a script is `__main__` or not, a folder moves
            found.update(f"{each.__qualname__}\0".encode() + _source(each))
    return found.hexdigest()[:16]


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_ROOTS = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))


def _is_installed(found: type | FunctionType) -> bool:
    name = found.__module__ or ""
    file = getattr(sys.modules.get(name), "__file__", None)
    is_here = name.partition(".")[0] == __name__.partition(".")[0]  # also where kdsearch runs from its checkout
    return is_here or name == "builtins" or (file is not None and is_installed_file(file))


def is_installed_file(file: str) -> bool:
    """Whether a module's file is one of the interpreter's or of an installed package: such do not change but by their version."""
    return file.startswith(_ROOTS)


def _source(cls: type) -> bytes:
    try:
        return inspect.getsource(cls).encode()
    except (OSError, TypeError):
        return canonical(_members(cls, ())).encode()


def _members(cls: type, above: tuple[Any, ...]) -> list[Any]:
    """What a class's body made, as JSON: methods, attributes and, of options, each field."""
    kept = {name: each for name, each in vars(cls).items() if _is_written(name, each)}
    fields = vars(cls).get("__pydantic_fields__", {})
    told = [[name, _ADDRESS.sub("", repr(each)), _plain(each.default_factory, above)] for name, each in fields.items()]
    return [told, [[name, _plain(each, above)] for name, each in sorted(kept.items())]]


_WRAPPERS: Mapping[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    MethodType: ("__func__",),
    property: ("fget", "fset", "fdel"),
    cached_property: ("func",),
    partial: ("func", "args", "keywords"),
    partialmethod: ("func", "args", "keywords"),
    type(lru_cache(lambda: None)): ("__wrapped__",),
}


def _is_written(name: str, value: Any) -> bool:
    """Not what Python, abc or pydantic keep there for themselves."""
    is_kept = name.startswith("__") and not isinstance(value, FunctionType | staticmethod | classmethod | property)
    return not is_kept and name != "_abc_impl"


def _plain(value: Any, above: tuple[Any, ...]) -> Any:
    """A value as JSON that is equal in other processes: functions by bytecode, constants, defaults and what they close over.

    Of an installed package its name. `above`: what it is part of, which may be part of it, too.
    """
    if any(value is each for each in above):
        return ""
    above = (*above, value)

    def inner(*parts: Any) -> list[Any]:
        return [_plain(each, above) for each in parts]

    if isinstance(value, CodeType):
        shape = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags)
        names = (value.co_names, value.co_varnames, value.co_freevars)
        return inner(value.co_code, value.co_exceptiontable, shape, names, value.co_consts)
    if isinstance(value, type | FunctionType) and _is_installed(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, FunctionType):
        return inner(
            value.__code__, value.__defaults__, value.__kwdefaults__, [_held(c) for c in value.__closure__ or ()]
        )
    if isinstance(value, type):
        return [value.__qualname__, _members(value, above)]
    if type(value) in _WRAPPERS:
        return [type(value).__name__, *inner(*(getattr(value, part) for part in _WRAPPERS[type(value)]))]
    if isinstance(value, set | frozenset):
        return sorted(canonical(each) for each in inner(*value))
    if isinstance(value, Mapping):
        return [inner(*each) for each in value.items()]
    if isinstance(value, list | tuple):
        return inner(*value)
    if isinstance(value, ModuleType):
        return value.__name__
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor | torch.nn.Module):
        return tensor_digest(value) if isinstance(value, torch.Tensor) else module_digest(value)
    told = hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else _ADDRESS.sub("", repr(value))
    return told if _is_installed(type(value)) else [told, *inner(type(value), getattr(value, "__dict__", None))]


def _held(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def derive(seed: int, *names: Any) -> int:
    """A seed in [0, 2**63) that is a function of the study's seed and the stream's names."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: Any) -> Generator:
    """The CPU generator of the stream with these names."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))
