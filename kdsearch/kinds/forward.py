"""One forward pass of a model, the same for training, scoring and caches: taps recorded, or replaced where a method writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from torch import Generator, Tensor, nn

from kdsearch.errors import TapError
from kdsearch.kinds.data import Batch, Field
from kdsearch.kinds.model import Model, Outputs, Tap
from kdsearch.kinds.step import Write
from kdsearch.kinds.task import Task
from kdsearch.ops.record import See, hooked

T = TypeVar("T")


def tap_name(model: Model, name: str) -> str:
    """The canonical name of an output field or tap: `stage[-1]` -> `stage[2]`. Raise TapError listing what there is."""
    return name if name in model.outputs else model.tap(name).name


def run_model(
    model: Model,
    task: Task[Any],
    batch: Batch,
    taps: Iterable[str] = (),
    writes: Mapping[str, Write] | None = None,
    copies: bool = False,
) -> Outputs:
    """One forward pass by the task's call. Hooks are always removed.

    Args:
        taps: canonical names to record (output fields come for free), as they were when they were reached. What follows in the
            network is computed from them, so that it can be differentiated by them.
        writes: tap -> function of the tensor there, whose result takes its place.
        copies: record constant copies, for a pass without graph: what is written over a tap in place does not matter.

    Raises:
        TapError: a tap that was not reached, or (without `copies`) that was changed in place.
    """
    wanted = [model.tap(name) for name in dict.fromkeys(taps) if name not in model.outputs]
    versions: dict[str, int] = {}
    cloned = bool(wanted) and not copies and _works_in_place(model.module)

    def see(tap: Tap) -> See:
        def hook(given: Any, _: tuple[Any, ...]) -> Any:
            value = tap.read(given)
            seen[tap.name], versions[tap.name] = value, _version(value)
            return tap.written(given, value.clone()) if cloned else None  # the next layer may overwrite what it gets

        return hook

    changing = [
        _place(model, model.tap(name), _writing(model.tap(name), write)) for name, write in (writes or {}).items()
    ]
    if copies:
        with hooked(changing), recorded(model, wanted) as seen:
            out = task.call(model, batch)
    else:
        seen = {}
        with hooked([*changing, *(_place(model, tap, see(tap)) for tap in wanted)]):
            out = task.call(model, batch)
    missing = [tap.name for tap in wanted if tap.name not in seen]
    if missing:
        raise TapError(f"tap '{missing[0]}' of '{model.name}' was not reached by the forward pass")
    for name, version in versions.items():
        if _version(seen[name]) != version:
            problem = f"tap '{name}' of '{model.name}' is changed in place after it was recorded"
            raise TapError(problem, expected="a tap after the operation that changes it")
    return Outputs({**out, **seen}, lambda name: tap_name(model, name), model.name)


@contextmanager
def recorded(model: Model, taps: Sequence[Tap]) -> Iterator[dict[str, Tensor]]:
    """Fills the yielded dict with copies of the taps' tensors, by name, while the model runs."""
    found: dict[str, Tensor] = {}

    def keep(tap: Tap) -> See:
        return lambda given, _: found.update({tap.name: tap.read(given).detach().clone()})

    with hooked([_place(model, tap, keep(tap)) for tap in taps]):
        yield found


def _place(model: Model, tap: Tap, see: See) -> tuple[nn.Module, Any, See]:
    return model.module.get_submodule(tap.path), tap.side, see


def _writing(tap: Tap, write: Write) -> See:
    def hook(given: Any, _: tuple[Any, ...]) -> Any:
        value = tap.read(given)
        changed = write(value)
        return None if changed is value else tap.written(given, changed)

    return hook


def _version(value: Tensor) -> int:
    """How often it was changed in place; under `torch.inference_mode` nobody counts."""
    return 0 if value.is_inference() else value._version


def _works_in_place(root: nn.Module) -> bool:
    return any(getattr(part, "inplace", False) for part in root.modules())


def probed(fields: Sequence[Field], n: int, run: Callable[[list[Tensor]], T]) -> T:
    """`run` of n blank samples of the fields, or of noise where it fails at those. Raise what it raised at blank ones.

    Zeros may stand for padding, and of a sample that is padding alone no network knows what to do.
    """
    try:
        return run([each.blank(n) for each in fields])
    except Exception:
        rng = Generator().manual_seed(0)
        with suppress(Exception):
            return run([each.noise(n, rng) for each in fields])
        raise
