"""Networks that would not fit into memory: each is refused as itself, before it is built or run."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn

from kdsearch.errors import TooLargeError
from kdsearch.kinds import IO, Model, Options, SearchSpace
from kdsearch.ops.cost import on_meta, shapes_alone
from kdsearch.ops.memory import free_bytes, total_bytes
from kdsearch.ops.record import hooked

FLOAT = 4  # bytes
LOOK_S, PATIENCE = 1.0, 60  # between two looks at what is free, and how many


def check_weights(space: SearchSpace[Any], spec: Options, io: IO) -> None:
    """Raise TooLargeError where a network's weights alone would not fit, as the space's formula has it."""
    cost = space.cost(spec, io)
    if cost is not None:
        check_bytes(FLOAT * cost.params, f"a network of {cost.params:,} parameters")


def check_pass(model: Model, io: IO, macs: int, batch_size: int) -> None:
    """Raise TooLargeError where what the layers answer for a batch, kept for a backward pass, would not fit.

    macs: of one sample. A number that a layer answers costs a multiplication at least, so that most networks need no tracing.
    """
    if FLOAT * macs * batch_size > free_bytes():
        check_bytes(
            FLOAT * batch_size * activations(model, io)[0], f"the answers of its layers to {batch_size} samples"
        )


def check_bytes(n_bytes: int, what: str) -> None:
    """Return once so many bytes are free: what a candidate is worth is no matter of what runs beside it for a moment.

    Raise TooLargeError where there are not so many, or they were not free in `PATIENCE` looks.
    """
    total = total_bytes()
    if n_bytes <= total:
        for _ in range(PATIENCE):
            if n_bytes <= free_bytes():
                return
            time.sleep(LOOK_S)
    there = "there are" if n_bytes > total else f"in {PATIENCE * LOOK_S:.0f} s there were never so many free of"
    raise TooLargeError(f"{what} would need about {n_bytes / 2**30:,.1f} GiB of memory, {there} {total / 2**30:,.1f}")


def activations(model: Model, io: IO) -> tuple[int, int]:
    """Numbers that the network's layers answer for one sample: all, and of the largest. (0, 0) where it cannot be traced.

    Shapes alone are computed, on the meta device.
    """
    sizes = [0]

    def seen(out: Any, _: tuple[Any, ...]) -> None:
        sizes.extend(
            each.numel() for each in (out if isinstance(out, tuple | list) else [out]) if isinstance(each, Tensor)
        )

    try:
        net = on_meta(model.module).eval()
        leaves: list[nn.Module] = [each for each in net.modules() if not any(True for _ in each.children())]
        with shapes_alone(), hooked([(each, "output", seen) for each in leaves]):
            net(*(io.input(name).blank(device="meta") for name in model.inputs))
    except Exception:  # foreign networks do what they like; what is not known is not refused
        return 0, 0
    return sum(sizes), max(sizes)
