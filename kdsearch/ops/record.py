"""What flows between the parts of a module, with its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def passing(
    module: nn.Module, paths: Sequence[str], change: Callable[[str, Tensor], Tensor | None], side: str = "output"
) -> Iterator[None]:
    """Within, `change(path, tensor)` sees the output (or first input) of each submodule; a tensor that it returns goes on.

    Where a submodule returns a tuple its first element is meant. Hooks are gone afterwards, whatever happens.
    """

    def replaced(path: str, given: Any) -> Any:
        is_several = isinstance(given, tuple | list)
        if is_several and not given:
            return None  # called by keywords alone
        new = change(path, given[0] if is_several else given)
        if new is None:
            return None
        return (new, *given[1:]) if is_several else new

    handles = []
    try:
        for path in paths:
            part = module.get_submodule(path)
            if side == "input":
                handles.append(part.register_forward_pre_hook(lambda _, args, path=path: replaced(path, args)))
            else:
                handles.append(part.register_forward_hook(lambda _, args, out, path=path: replaced(path, out)))
        yield
    finally:
        for handle in handles:
            handle.remove()
