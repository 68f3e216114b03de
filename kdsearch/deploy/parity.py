"""How far a file's answers are from the torch network's, at other batch sizes and lengths than it was exported with.

Nothing counts at positions that an output's mask leaves out: what stands over padding is nobody's answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdsearch.errors import RefusedError
from kdsearch.kinds import Batch, Call, Field, Graph, named
from kdsearch.kinds.data import CHOOSING
from kdsearch.ops.undisturbed import undisturbed


@dataclass(frozen=True)
class Parity:
    """max_abs: largest absolute difference of any output element; inf where one side alone is not finite.

    top1_agreement: share of equal decisions, of `judged` of them: the class scored highest of logits, above 0 or not of each of the
    scores. None where no output is of these kinds.
    """

    max_abs: float
    top1_agreement: float | None
    judged: int = 0


def module_call(graph: Graph) -> Call:
    """The torch network in eval mode, without gradients, as what `Exporter.load` returns for its file."""

    def call(*inputs: Tensor) -> Mapping[str, Tensor]:
        with undisturbed(graph.module, train=False):
            return named(graph.module(*inputs), [each.name for each in graph.outputs])

    return call


def compare(
    torch_call: Call,
    file_call: Call,
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    samples: Batch,
    sizes: Sequence[int] = (1, 2, 5),
    batches: Iterable[Batch] = (),
) -> Parity:
    """Compare both calls on `samples`, cut or repeated to every batch size, and to a second length where a size is dynamic.

    One shape is not enough: exporters have baked the example's batch or length into files that agreed at that shape.

    Args:
        samples: real or random inputs, at least one row.
        sizes: batch sizes; at least three, 1 among them.
        batches: what the agreement is taken over; the compared samples themselves when there is none.

    Raises:
        RefusedError: the network answers NaN; the file fails, answers in another shape, or without an output, at some size.
    """
    if len(set(sizes)) < 3 or 1 not in sizes:
        raise ValueError(f"sizes {tuple(sizes)}: at least three, 1 among them")
    far, same, judged = 0.0, 0, 0
    lengths = (False, True) if any(None in each.shape for each in inputs) else (False,)
    probes = [_resized(samples, inputs, n, other) for n in sizes for other in lengths]
    for probe in probes:
        expected, got = numbers(torch_call, probe, inputs, outputs), _answer(file_call, probe, outputs)
        for each in outputs:
            counts = _counted(each, inputs, probe)
            far = max(far, _distance(each, expected[each.name], got[each.name], probe, counts))
    deciding = [each for each in outputs if each.kind in CHOOSING]
    scored = [[batch[each.name] for each in inputs] for batch in batches] or probes
    for rows in scored if deciding else ():
        expected, got = torch_call(*rows), _answer(file_call, rows, outputs)
        for each in deciding:
            equal = _decided(each, expected[each.name]) == _decided(each, got[each.name])
            equal = equal[_over(each, equal, _counted(each, inputs, rows))]
            same, judged = same + int(equal.sum()), judged + equal.numel()
    return Parity(far, same / judged if judged else None, judged)


def numbers(
    torch_call: Call, tensors: Sequence[Tensor], inputs: Sequence[Field], outputs: Sequence[Field]
) -> Mapping[str, Tensor]:
    """The network's own answer. Raise RefusedError where it has a NaN: no file of it is of use."""
    out = torch_call(*tensors)
    for each in outputs:
        found = out[each.name].detach().cpu()
        if bool(torch.isnan(found[_over(each, found, _counted(each, inputs, tensors))]).any()):
            raise RefusedError(f"output '{each.name}' of the network itself is not a number at {_shown(tensors)}")
    return out


def _decided(field: Field, answer: Tensor) -> Tensor:
    """The class a position, or whether each score is above 0."""
    return answer.argmax(field.class_axis).cpu() if field.kind == "logits" else answer.cpu() > 0


def _counted(output: Field, inputs: Sequence[Field], tensors: Sequence[Tensor]) -> Tensor | None:
    """(B, ...) bool: which positions of the output count, as its mask among the inputs says; None = all."""
    for each, tensor in zip(inputs, tensors, strict=True):
        if output.mask and each.name == output.mask:
            return tensor.cpu() != 0
    return None


def _over(field: Field, answer: Tensor, counts: Tensor | None) -> Tensor:
    """The positions that count, as bool of the answer's shape, whose first axes they are, that of the classes left aside."""
    if counts is None:
        return torch.ones(answer.shape, dtype=torch.bool)
    has_classes = field.kind == "logits" and answer.ndim == len(field.shape) + 1
    if has_classes and field.class_axis <= counts.ndim:
        counts = counts.unsqueeze(field.class_axis)
    return counts.reshape(*counts.shape, *[1] * (answer.ndim - counts.ndim)).expand(answer.shape)


def _resized(samples: Batch, inputs: Sequence[Field], n: int, other_length: bool) -> list[Tensor]:
    """n rows of every input; with `other_length` each dynamic size is halved (doubled where it is 1)."""
    rows = torch.arange(n) % len(samples)
    resized = []
    for each in inputs:
        tensor = samples[each.name][rows]
        for axis, size in enumerate(each.shape, start=1):
            if size is None and other_length:
                had = tensor.shape[axis]
                tensor = tensor.narrow(axis, 0, had // 2) if had > 1 else torch.cat([tensor, tensor], axis)
        resized.append(tensor.contiguous())
    return resized


def _answer(call: Call, probe: Sequence[Tensor], outputs: Sequence[Field]) -> Mapping[str, Tensor]:
    try:
        got = call(*probe)
    except Exception as error:  # whatever the runtime raises, the file is of no use at this shape
        raise RefusedError(f"the file fails at {_shown(probe)}: {str(error).splitlines()[0][:200]}") from error
    missing = [each.name for each in outputs if each.name not in got]
    if missing:
        raise RefusedError(f"the file has no output '{missing[0]}'", expected=", ".join(each.name for each in outputs))
    return got


def _distance(field: Field, expected: Tensor, got: Tensor, probe: Sequence[Tensor], counts: Tensor | None) -> float:
    if expected.shape != got.shape:
        problem = f"output '{field.name}' at {_shown(probe)} is {tuple(got.shape)} in the file"
        raise RefusedError(problem, expected=f"{tuple(expected.shape)} as in torch")
    a, b = expected.detach().cpu().double(), got.detach().cpu().double()
    # equal infinities would differ by NaN
    equal = (a == b) | (a.isnan() & b.isnan()) | ~_over(field, a, counts)
    if bool(equal.all()):
        return 0.0
    far = float((a - b).abs().masked_fill(equal, 0.0).max())
    return math.inf if math.isnan(far) else far


def _shown(probe: Sequence[Tensor]) -> str:
    return ", ".join("x".join(str(size) for size in each.shape) for each in probe)
