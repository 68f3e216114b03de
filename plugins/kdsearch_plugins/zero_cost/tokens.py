"""Where a network's inputs are continuous: values, and the vectors that it looks up for token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from kdsearch.kinds import Batch, Model, Probe
from kdsearch.ops.record import hooked
from kdsearch.ops.weights import LOOKED_UP


def is_mask(probe: Probe, name: str) -> bool:
    return any(each.name == name and each.kind == "mask" for each in probe.io.inputs)


def continuous(student: Model, probe: Probe, batch: Batch) -> list[str]:
    """Inputs that can be moved a little: no ids, no masks."""
    return [name for name in student.inputs if batch[name].is_floating_point() and not is_mask(probe, name)]


def in_units(probe: Probe, name: str, z: Tensor) -> Tensor:
    """z (B, ...), in standard deviations of an input, in that input's own units: those of a field that has any."""
    field = next((each for each in probe.io.inputs if each.name == name and each.mean), None)
    return z if field is None else z * z.new_tensor(field.std)


@contextmanager
def looked_up(student: Model, batch: Batch, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, `change` of the vectors (B, ...) that embeddings give for the batch's ids goes on in their place.

    A network may cut its texts: what it looks up is then shorter than the batch.
    """
    shapes = [batch[name].shape for name in student.inputs if not batch[name].is_floating_point()]

    def see(out: Tensor, args: tuple[Tensor, ...]) -> Tensor | None:
        looks_up = args and any(_is_cut_of(args[0].shape, shape) for shape in shapes)
        return change(out) if looks_up else None  # positions are looked up by other ids, one row for all samples

    with hooked([(part, "output", see) for part in student.module.modules() if isinstance(part, LOOKED_UP)]):
        yield


def _is_cut_of(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether it has all samples of `whole`, and no axis is longer."""
    return len(shape) == len(whole) and shape[0] == whole[0] and all(a <= b for a, b in zip(shape, whole, strict=True))
