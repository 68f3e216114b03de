"""Content hashes and named random streams: everything that must repeat is a function of these."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import sysconfig
from pathlib import Path
from types import CodeType
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
    """SHA-256 of a module's structure, parameters, buffers and own classes: the identity of a live teacher."""
    found = hashlib.sha256()
    classes: dict[type, str] = {}
    for name, part in module.named_modules():
        own = classes.get(type(part)) or classes.setdefault(type(part), class_digest(type(part)))
        found.update(f"{name}:{own}:{_ADDRESS.sub('', part.extra_repr())}".encode())
    for name, tensor in sorted((module.state_dict() | unsaved_buffers(module)).items()):
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()[:16]


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

    A class of an installed package is its name; without a source (typed at a prompt) methods count by their bytecode.
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


def _is_installed(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    is_here = (
        cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    )  # also where kdsearch runs from its checkout
    return is_here or cls.__module__ == "builtins" or (file is not None and is_installed_file(file))


def is_installed_file(file: str) -> bool:
    """Whether a module's file is one of the interpreter's or of an installed package: such do not change but by their version."""
    return file.startswith(_ROOTS)


def _source(cls: type) -> bytes:
    try:
        return inspect.getsource(cls).encode()
    except (OSError, TypeError):
        codes = {name: getattr(each, "__code__", None) for name, each in vars(cls).items()}
        return repr([(n, c.co_code, c.co_names, _plain(c.co_consts)) for n, c in sorted(codes.items()) if c]).encode()


def _plain(constants: tuple[Any, ...]) -> list[Any]:
    return [each.co_code if isinstance(each, CodeType) else each for each in constants]


def derive(seed: int, *names: Any) -> int:
    """A seed in [0, 2**63) that is a function of the study's seed and the stream's names."""
    text = "/".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: Any) -> Generator:
    """The CPU generator of the stream with these names."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))
