"""What networks would take of memory, told before it is taken: a process that takes too much is killed without a word."""

from __future__ import annotations

import time
from collections.abc import Callable

from kdsearch.errors import BusyError, InterruptedRun, TooLargeError, TrialError, UserError
from kdsearch.kinds import Model
from kdsearch.ops.memory import free_bytes, total_bytes
from kdsearch.search.memory import activations
from kdsearch.store.hashing import stream
from kdsearch.training.materials import Materials

BESIDE = 2  # numbers beside a weight in training, at the least
LOOK_S, PATIENCE = 1.0, 600  # between two looks at what is free, and how many
ANSWERED = 256  # samples a batch of evaluation and caches (engine/feeds.py)


def needed(materials: Materials, model: Model, batch_size: int) -> tuple[int, int]:
    """Samples of a batch, and bytes that its training takes at least: activations, which wait for the backward pass, and what each
    weight needs beside itself (its gradient, what the optimiser keeps of it).
    """
    total, _ = activations(model, materials.io)
    n = min(batch_size, len(materials.data.split("train").ids))
    return n, 4 * n * total + 4 * BESIDE * sum(each.numel() for each in model.module.parameters())


def check_training(materials: Materials, model: Model, batch_size: int, what: str, path: str) -> None:
    """Raise UserError where what a training takes is not free.

    Args:
        what: is trained, for the message; path: the key of its batch size.
    """
    n, n_bytes = needed(materials, model, batch_size)
    _check(materials, n_bytes, f"{what}: a batch of {n} samples", path)


def wait_for_memory(
    materials: Materials,
    model: Model,
    batch_size: int,
    what: str,
    stop: Callable[[], bool],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Return once what a training takes is free. Which trials fail is then no matter of what runs beside them.

    Raises:
        TrialError: it takes more than there is. BusyError: it was not free in `PATIENCE` looks. InterruptedRun: `stop` said so.
    """
    n, n_bytes = needed(materials, model, batch_size)
    if materials.torch_device.type != "cpu":
        return
    need = f"{what}: a batch of {n} samples would need about {_gib(n_bytes)} of memory"
    if n_bytes > (total := total_bytes()):
        raise TrialError(f"{need}, there are {_gib(total)}")
    for _ in range(PATIENCE):
        if n_bytes <= free_bytes():
            return
        if stop():
            raise InterruptedRun("stopped")
        pause(LOOK_S)
    fix = "Run the same command again once there is room, or with fewer --workers: it goes on."
    raise BusyError(f"{need}, {_gib(free_bytes())} were free", fix=fix)


def check_students(materials: Materials) -> None:
    """Raise UserError where not one of three networks of a role's space could be trained in the memory that is free."""
    batch_size = materials.study.config.recipe.train.batch_size
    for role, space in materials.spaces.items():
        rng = stream(materials.seed, "memory", role)
        last: UserError | None = None
        for _ in range(3):
            try:
                model = materials.build_student(role, space.sample(rng).model_dump(mode="json"), 0)
            except TooLargeError as error:
                last = UserError(error.problem, path=materials.study.path_of_student(role), expected="smaller networks")
                continue
            except Exception:  # the search tells what cannot be built
                last = None
                break
            try:
                n = batch_size if isinstance(batch_size, int) else 1  # a searched one is the trials' affair
                check_training(materials, model, n, f"'{role}'", "recipe.train.batch_size")
            except UserError as error:
                last = error
            else:
                last = None
                break
        if last is not None:
            raise materials.study.place(last)


def check_answering(materials: Materials, model: Model, what: str) -> None:
    """Raise UserError where a batch's largest activation, read and written, does not fit into what is free."""
    _, largest = activations(model, materials.io)
    n = min(ANSWERED, len(materials.data.split("train").ids))
    _check(materials, 2 * 4 * n * largest, f"{what}: the answers to {n} samples", "")


def _check(materials: Materials, n_bytes: int, what: str, path: str) -> None:
    free = free_bytes()
    if n_bytes > free and materials.torch_device.type == "cpu":
        raise UserError(
            f"{what} would need about {_gib(n_bytes)} of memory, {_gib(free)} are free",
            path=path,
            expected="less",
            fix="Lower the batch size, or `resize` in data.options.",
        )


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.1f} GiB"
