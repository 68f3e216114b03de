"""Running a model with its requested taps recorded, and taps replaced where a method writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdsearch.errors import TapError
from kdsearch.kinds import Batch, Model, Outputs, Tap, Task, Write


def tap_name(model: Model, name: str) -> str:
    """The canonical name of an output field or tap: `stage[-1]` -> `stage[2]`. Raise TapError listing what there is."""
    return name if name in model.outputs else model.tap(name).name


def run_model(
    model: Model, task: Task[Any], batch: Batch, taps: Iterable[str] = (), writes: Mapping[str, Write] | None = None
) -> Outputs:
    """One forward pass by the task's call. Hooks are always removed.

    Args:
        taps: canonical names to record (output fields come for free), as they were when they were reached. What follows in the
            network is computed from them, so that it can be differentiated by them.
        writes: tap -> function of the tensor there, whose result takes its place.
    """
    seen: dict[str, tuple[Tensor, int]] = {}
    handles = []
    wanted = [name for name in dict.fromkeys(taps) if name not in model.outputs]
    copied = bool(wanted) and _works_in_place(model.module)

    def see(name: str, value: Tensor) -> Tensor:
        seen[name] = value, value._version
        return value.clone() if copied else value  # the next layer may overwrite what it gets

    try:
        for name, write in (writes or {}).items():
            handles.append(_hook(model.module, model.tap(name), write))
        for name in wanted:
            handles.append(_hook(model.module, model.tap(name), partial(see, name)))
        out = task.call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in wanted if name not in seen]
    if missing:
        raise TapError(f"tap '{missing[0]}' of '{model.name}' was not reached by the forward pass")
    for name, (tensor, version) in seen.items():
        if tensor._version != version:
            problem = f"tap '{name}' of '{model.name}' is changed in place after it was recorded"
            raise TapError(problem, expected="a tap after the operation that changes it")
    return Outputs(
        {**out, **{name: tensor for name, (tensor, _) in seen.items()}}, lambda name: tap_name(model, name), model.name
    )


def _works_in_place(root: nn.Module) -> bool:
    return any(getattr(part, "inplace", False) for part in root.modules())


def _hook(root: nn.Module, tap: Tap, change: Callable[[Tensor], Tensor]) -> Any:
    """Let the tensor at the tap be what `change` gives for it."""
    part = root.get_submodule(tap.path)

    def through(given: Any) -> Any:
        value = tap.read(given)
        changed = change(value)
        return given if changed is value else tap.written(given, changed)

    def on_input(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (through(args[0]), *args[1:])

    def on_output(_: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        return through(out)

    return part.register_forward_pre_hook(on_input) if tap.side == "input" else part.register_forward_hook(on_output)
