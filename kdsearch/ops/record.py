"""What flows between the parts of a module, with its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn

Side = Literal["output", "input"]
See = Callable[[Any, tuple[Any, ...]], Any]


@contextmanager
def hooked(places: Iterable[tuple[nn.Module, Side, See]]) -> Iterator[None]:
    """Within, `see(value, args)` gets what a submodule returned, or its first positional argument, beside all of those.

    What it returns, unless that is None, goes on in the value's place. Hooks are gone afterwards, whatever happens.
    """

    def before(see: See) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
            new = see(args[0], args) if args else None  # called by keywords alone
            return None if new is None else (new, *args[1:])

        return hook

    def after(see: See) -> Any:
        return lambda _, args, out: see(out, args)

    handles: list[Any] = []
    try:
        for part, side, see in places:
            if side == "input":
                handles.append(part.register_forward_pre_hook(before(see)))
            else:
                handles.append(part.register_forward_hook(after(see)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def passing(
    module: nn.Module, paths: Sequence[str], change: Callable[[str, Tensor], Tensor | None], side: Side = "output"
) -> Iterator[None]:
    """Within, `change(path, tensor)` sees the output (or first input) of each submodule; a tensor that it returns goes on.

    Where a submodule returns a tuple its first element is meant.
    """

    def seen(path: str) -> See:
        def see(given: Any, _: tuple[Any, ...]) -> Any:
            if not isinstance(given, tuple | list):
                return change(path, given)
            new = change(path, given[0]) if given else None
            return None if new is None else (new, *given[1:])

        return see

    with hooked([(module.get_submodule(path), side, seen(path)) for path in paths]):
        yield
