"""Which axis a module's number is the size of: numbers carry their names into the calls that reshape and split by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

RESHAPES = ("view", "reshape", "expand")


class Noted(int):
    """A whole number that knows which attribute of which module it is, or which item of it; what is computed from it does not."""

    path: str
    name: str
    at: int | None

    @classmethod
    def of(cls, value: int, path: str, name: str, at: int | None = None) -> Noted:
        made = cls(value)
        made.path, made.name, made.at = path, name, at
        return made


def note(module: nn.Module) -> None:
    """Every whole number among the attributes of all modules, and in tuples and lists of them, becomes a `Noted` one."""
    for path, part in module.named_modules():
        for name, value in list(vars(part).items()):
            if type(value) is int:
                vars(part)[name] = Noted.of(value, path, name)
            elif type(value) in (tuple, list) and value and all(type(each) is int for each in value):
                vars(part)[name] = type(value)(Noted.of(each, path, name, at) for at, each in enumerate(value))


def sized_by(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> Iterator[tuple[Noted, Tensor, int]]:
    """(number, tensor, its dimension) of every noted number that a call takes as a size."""
    called, rest = getattr(func, "__name__", ""), [*args[1:], *kwargs.values()]
    listed = next((each for each in rest if isinstance(each, tuple | list)), None)
    if called in RESHAPES and isinstance(out, Tensor):
        sizes = rest if listed is None else listed
        if len(sizes) == out.dim():
            yield from ((each, out, at) for at, each in enumerate(sizes) if isinstance(each, Noted))
    elif called in ("split", "split_with_sizes") and listed is not None:
        dim = next((each for each in rest if isinstance(each, int)), 0)
        yield from ((each, part, dim) for each, part in zip(listed, out, strict=False) if isinstance(each, Noted))
