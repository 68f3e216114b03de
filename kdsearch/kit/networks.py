"""A network that was not built for kdsearch, as a Model: run once on the study's inputs, its answers checked, its taps found."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdsearch.errors import DataError, told
from kdsearch.kinds import IO, Field, Model, Tap, named
from kdsearch.kinds.forward import probed
from kdsearch.kinds.found_taps import found_taps
from kdsearch.ops.attention import plain_attention
from kdsearch.ops.place import device_of
from kdsearch.store.program import read_program

__all__ = ["Tupled", "check_answer", "described", "modelled", "read_program", "shown"]

TEACHER = "teacher "
BATCHES = (2, 3)  # a network that was traced on a batch of one size may answer that one alone


def described(fields: Sequence[Field]) -> str:
    """Names and shapes of fields, for messages: `image 3x32x32, mask ?`."""
    return ", ".join(f"{each.name} {shown(each.shape)}" for each in fields) or "none"


def shown(shape: Sequence[object]) -> str:
    """A shape for messages: `3x32x32`, an open size as `?`."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


class Tupled(nn.Module):
    """`module` answering with a tuple in the order of `names`, whatever it returned them in."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(named(self.module(*inputs), self.names).values())


def _by_name(module: nn.Module, fields: Sequence[Field]) -> tuple[Field, ...]:
    """The fields in the order of the arguments of `forward`, where those have exactly their names; else as they are."""
    try:
        arguments = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # of compiled code
        return tuple(fields)
    names = [each.name for each in arguments if each.kind is not each.KEYWORD_ONLY]
    known = {each.name: each for each in fields}
    return tuple(known[name] for name in names) if {*names} == {*known} else tuple(fields)


def modelled(module: nn.Module, io: IO, who: str, inside: str = "", taps: bool = True, role: str = TEACHER) -> Model:
    """A Model of a foreign module, run once where it lies, on blank samples or on noise, and fed by name where it can be.

    `role` goes before its name in messages. A teacher's vectors may be of any width: distillers map them.

    Raises:
        DataError: it cannot read the study's samples, or does not answer as the task's outputs say; with what it does. Where there
            are to be taps: a part of it is TorchScript, or has control flow of torch's own, which runs compiled.
    """
    fields = _by_name(module, io.inputs)
    fed = described(fields)
    asked, device = _of_any_width(io) if role == TEACHER else io, device_of(module)

    def answered(given: list[Tensor]) -> tuple[object, list[Tensor]]:
        placed = [each.to(device) for each in given]
        return module.eval()(*placed), placed

    for n in BATCHES:
        try:
            with torch.no_grad():
                out, samples = probed(fields, n, answered)
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(
                f"{role}{who} cannot read {fed}{f' in a batch of {n}' if n > BATCHES[0] else ''}: {first[:200]}",
                expected="a network for these inputs, in batches of any size",
            ) from error
        check_answer(out, asked, who, role, n)
    closed = [path for path, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if taps and closed:
        what = f"its part '{closed[0]}' is" if closed[0] else "it is"
        raise DataError(f"{role}{who}: {what} TorchScript, which cannot be looked into", expected="a torch.nn.Module")
    found: tuple[Tap, ...] = ()
    if taps:
        try:
            with plain_attention():  # in one kernel a layer tensors may be nested, which have no shape
                found = found_taps(module, [each[:1] for each in samples], inside)
        except Exception as error:  # it ran before, unwatched
            raise DataError(
                f"{role}{who} cannot be looked into as it runs: {told(error)}",
                expected="a network without control flow of torch's own (torch.cond, while_loop, scan)",
                fix="Write what depends on values with torch.where.",
            ) from error
    outputs = tuple(each.name for each in io.outputs)
    return Model(module, tuple(each.name for each in fields), found, outputs, name=who)


def _of_any_width(io: IO) -> IO:
    outputs = (
        replace(each, shape=(*each.shape[:-1], None)) if each.kind == "vector" and each.shape else each
        for each in io.outputs
    )
    return replace(io, outputs=tuple(outputs))


def check_answer(out: object, io: IO, who: str, role: str = TEACHER, n: int = 2) -> None:
    """Raise DataError unless `out`, of n samples, is what the task's outputs say: their number, and their shapes where fixed."""
    many = out if isinstance(out, Mapping | list | tuple) else [out]
    if (isinstance(out, Mapping) and any(each.name not in out for each in io.outputs)) or len(many) < len(io.outputs):
        given = ", ".join(map(str, out)) if isinstance(out, Mapping) else f"{len(many)} tensors"
        raise DataError(f"{role}{who} answers {given}", expected=described(io.outputs))
    values = [out[each.name] for each in io.outputs] if isinstance(out, Mapping) else list(many)
    for each, value in zip(io.outputs, values, strict=False):
        got = shown(value.shape[1:]) if isinstance(value, Tensor) else type(value).__name__
        if isinstance(value, Tensor) and value.shape[:1] == (n,) and _fits(value.shape[1:], each.shape):
            continue
        is_classes = each.kind == "logits" and len(each.shape) == 1
        one = f": one {each.name} for each class of the data set" if is_classes else f" as {each.name}"
        raise DataError(
            f"{role}{who} answers {got} a sample",
            expected=f"{shown(each.shape)}{one}",
            fix=_of_more_classes(value, each),
        )


def _fits(sizes: Sequence[int], asked: Sequence[int | None]) -> bool:
    return len(sizes) == len(asked) and all(want in (None, size) for size, want in zip(sizes, asked, strict=True))


def _of_more_classes(value: object, asked: Field) -> str:
    """What to do about an answer (B, K) of more classes than the data set has."""
    if asked.kind != "logits" or len(asked.shape) != 1 or not isinstance(value, Tensor) or value.ndim != 2:
        return ""
    is_wider = value.shape[1] > (asked.shape[0] or 0)
    return (
        "If the data lack some classes, name them all, or say how many there are, in data.options." if is_wider else ""
    )
