"""What networks would take of memory, told before it is taken: a process that takes too much is killed without a word."""

from __future__ import annotations

from kdsearch.errors import KdsearchError, TooLargeError, UserError
from kdsearch.kinds import Model
from kdsearch.ops.memory import free_bytes
from kdsearch.search.memory import activations
from kdsearch.store.hashing import stream
from kdsearch.training.materials import Materials

BESIDE = 2  # numbers beside a weight in training, at the least
ANSWERED = 256  # samples a batch of evaluation and caches (engine/feeds.py)


def check_training(
    materials: Materials, model: Model, batch_size: int, what: str, path: str, error: type[KdsearchError] = UserError
) -> None:
    """Raise `error` where the activations of a batch, which wait for the backward pass, and what each weight needs beside itself
    (its gradient, what the optimiser keeps of it) do not fit into what is free.

    Args:
        what: is trained, for the message; path: the key of its batch size.
    """
    total, _ = activations(model, materials.io)
    n = min(batch_size, len(materials.data.split("train").ids))
    beside = 4 * BESIDE * sum(each.numel() for each in model.module.parameters())
    _check(materials, 4 * n * total + beside, f"{what}: a batch of {n} samples", path, error)


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
    _check(materials, 2 * 4 * n * largest, f"{what}: the answers to {n} samples", "", UserError)


def _check(materials: Materials, n_bytes: int, what: str, path: str, error: type[KdsearchError]) -> None:
    free = free_bytes()
    if n_bytes > free and materials.torch_device.type == "cpu":
        raise error(
            f"{what} would need about {n_bytes / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} are free",
            path=path,
            expected="less",
            fix="Lower the batch size, or `resize` in data.options.",
        )
