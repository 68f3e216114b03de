"""How far a file's answers are from the torch network's, at other batch sizes and lengths than it was exported with.

Nothing counts at positions that an output's mask leaves out: what stands over padding is nobody's answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdsearch.errors import ArtifactError, RefusedError
from kdsearch.kinds import Batch, Call, Field, Graph, named
from kdsearch.kinds.data import CHOOSING
from kdsearch.ops import detections
from kdsearch.ops.apart import beyond
from kdsearch.ops.copies import module_copy
from kdsearch.ops.undisturbed import undisturbed

FLOAT32 = 2.0**-23  # relative spacing of its numbers
# Times torch's own fp32 error that a file may be off: two ways to round differ by up to the sum of their errors.
OWN = 4
BRANCHES = "Where the network has an `if` or a loop on values, write it with torch.where or masks."
ULPS = 32  # of the largest value, in fp32: what any order of sums may cost, also where all values are equal


@dataclass(frozen=True)
class Difference:
    """How far one output is from the network's, over all probes.

    Args:
        max_abs: largest absolute difference of any element; inf where one side alone is not finite. Of numbers that stand apart
            (`ops/apart.py`), as those of a mask do, the relative difference, times the scale of the others. Of classes, whose
            numbers mean nothing by their size, the share that is not the network's (`is_share`), on a scale of 1. Of detections
            the furthest of any to the nearest of its class, on a scale of 1, but for the few that are spared (`ops/detections.py`).
        scale: of the network's answers: their standard deviation, at least a hundredth of their root mean square; of a column, at
            least the standard deviation that the field states of it.
        largest: largest absolute value of the network's answers. Both without those that stand apart.
        own: the same of torch's fp32 answers to its fp64 ones; None = not measured, or the network has no fp64 form.
        is_nan: whether the file answers NaN, where the network answers numbers.
        column: which of an output whose columns have units of their own (`units_of`); None = the whole output.
    """

    output: str
    max_abs: float
    scale: float
    largest: float
    own: float | None = None
    is_share: bool = False
    is_nan: bool = False
    is_set: bool = False
    column: int | None = None

    @property
    def place(self) -> str:
        """What it is of: the output's name, and the column as in `value[1]`."""
        return place_of(self.output, self.column)

    @property
    def relative(self) -> float:
        """Of the outputs' own scale."""
        if self.max_abs == 0:
            return 0.0
        return self.max_abs / self.scale if self.scale else math.inf

    def allowed(self, bound: float) -> float:
        """The largest absolute difference for a bound relative to the scale; never less than torch's own rounding explains."""
        return max(bound * self.scale, OWN * (self.own or 0.0), ULPS * FLOAT32 * self.largest)

    def as_json(self) -> dict[str, Any]:
        """As result and card say it."""
        return {
            "output": self.output,
            **({} if self.column is None else {"column": self.column}),
            "relative": self.relative,
            "scale": self.scale,
            "torch_fp32_to_fp64": self.own,
        }

    def check(self, bound: float) -> None:
        """Raise RefusedError where the file is further off than allowed."""
        if self.max_abs <= self.allowed(bound):
            return
        own = "" if self.own is None else f"; torch's own fp32 is {self.own:.3g} from its fp64"
        if self.is_share:
            raise RefusedError(
                f"{self.max_abs:.2%} of the answers at output '{self.output}' are not torch's{own}; allowed is a share of "
                f"{bound:g}, or {OWN} times torch's own"
            )
        raise RefusedError(
            f"differs from torch by {self.max_abs:.3g} at output '{self.place}', {self.relative:.3g} of its scale "
            f"{self.scale:.3g}{own}; allowed are {bound:g} of the scale, or {OWN} times torch's own error",
            fix=BRANCHES,
        )


@dataclass(frozen=True)
class Parity:
    """max_abs: largest absolute difference of any output element; inf where one side alone is not finite.

    top1_agreement: share of equal decisions, of `judged` of them: the class, or that scored highest of logits, above 0 or not of
    each of the scores, or whether a detection of the network's is found. None where no output is of these kinds, or has any.
    differences: of each output, or of each column that has a unit of its own.
    """

    max_abs: float
    top1_agreement: float | None
    judged: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether all that the file answers are detections, and neither it nor the network has any."""
        return self.top1_agreement is None and self.max_abs == 0 and any(each.is_set for each in self.differences)

    @property
    def worst(self) -> Difference:
        """The output, or column, that is furthest off by its own scale."""
        return max(self.differences, key=lambda each: each.relative)

    def check(self, bound: float | None) -> None:
        """Raise RefusedError where an output is NaN; and where it is further off than `bound` of its scale, and than torch's own
        rounding explains.
        """
        for each in self.differences:
            if each.is_nan:
                raise RefusedError(f"the file answers NaN at output '{each.output}', where torch answers numbers")
            if bound is not None:
                each.check(bound)


def place_of(output: str, column: int | None) -> str:
    """`value[1]`, or the output's name where it is judged as a whole."""
    return output if column is None else f"{output}[{column}]"


def units_of(field: Field) -> tuple[float, ...]:
    """The standard deviation of each of a sample's K numbers, where each is in a unit of its own; () = one scale for all.

    Of one number alone the network's answers say the scale, as of outputs that state no units.
    """
    is_row = field.kind in ("value", "vector") and len(field.std) > 1 and field.shape == (len(field.std),)
    return field.std if is_row and all(0 < each < math.inf for each in field.std) else ()


def module_call(graph: Graph) -> Call:
    """The torch network in eval mode, without gradients, as what `Exporter.load` returns for its file."""

    def call(*inputs: Tensor) -> Mapping[str, Tensor]:
        with undisturbed(graph.module, train=False):
            return named(graph.module(*inputs), [each.name for each in graph.outputs])

    return call


def exact_call(graph: Graph) -> Call:
    """The torch network computing in fp64: what its own fp32 answers are measured against. The network itself stays as it is."""
    exact = replace(graph, module=module_copy(graph.module).double())
    plain = module_call(exact)

    def call(*inputs: Tensor) -> Mapping[str, Tensor]:
        return plain(*(each.double() if each.is_floating_point() else each for each in inputs))

    return call


def compare(
    torch_call: Call,
    file_call: Call,
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    samples: Batch,
    sizes: Sequence[int] = (1, 2, 5),
    batches: Iterable[Batch] = (),
    bound: float | None = None,
    exact: Callable[[], Call] | None = None,
) -> Parity:
    """Compare both calls on `samples`, cut or repeated to every batch size, and to two shorter lengths where a size is dynamic.

    One shape is not enough: exporters have baked the example's batch or length into files that agreed at that shape.

    Args:
        samples: real or random inputs, at least one row.
        sizes: batch sizes; at least three, 1 among them.
        batches: what the agreement is taken over, and classes are compared on, too: a few samples say little of their share. The
            compared samples themselves when there is none.
        bound: of differences relative to the outputs' scale, beyond which torch's own error is measured.
        exact: makes the network in fp64, for that.

    Raises:
        RefusedError: the network answers NaN; the file fails, answers in another shape, or without an output, at some size.
    """
    if len(set(sizes)) < 3 or 1 not in sizes:
        raise ValueError(f"sizes {tuple(sizes)}: at least three, 1 among them")
    same, judged = 0, 0
    lengths = (1, 2, 3) if any(None in each.shape for each in inputs) else (1,)
    resized = [(_resized(samples, inputs, n, shorter), shorter > 1) for n in sizes for shorter in lengths]
    probes = [probe for probe, _ in resized]
    seen = _seen(outputs)
    for probe, is_resized in resized:
        try:
            expected = numbers(torch_call, probe, inputs, outputs)
        except (RuntimeError, ArtifactError):
            if not is_resized:
                raise
            continue  # such as sides that a U-Net cannot halve: the network itself does not take this size
        got = _answer(file_call, probe, outputs, is_resized)
        for one in seen:
            name = one.field.name
            one.add(expected[name], got[name], probe, _counted(one.field, inputs, probe))
    deciding = [each for each in outputs if each.kind in CHOOSING]
    chosen = {each.name: _Seen(each) for each in deciding if each.is_class}
    given = ([batch[each.name] for each in inputs] for batch in batches)
    first = next(given, None)
    scored: Iterable[list[Tensor]] = probes if first is None else chain([first], given)
    if chosen:
        scored = [*scored]  # torch's fp64 may be asked them, too
    for rows in scored if deciding else ():
        expected, got = torch_call(*rows), _answer(file_call, rows, outputs)
        for each in deciding:
            if each.is_set:
                found_again = detections.found_again(*(answers[each.name].cpu().numpy() for answers in (expected, got)))
                same, judged = same + int(found_again.sum()), judged + found_again.size
                continue
            counts = _counted(each, inputs, rows)
            equal = _decided(each, expected[each.name]) == _decided(each, got[each.name])
            equal = equal[_over(each, equal, counts)]
            same, judged = same + int(equal.sum()), judged + equal.numel()
            if each.name in chosen:
                chosen[each.name].add(expected[each.name], got[each.name], rows, counts)
    found = {one.place: one.difference() for one in seen}
    found |= {name: max(found[name], each.difference(), key=lambda one: one.max_abs) for name, each in chosen.items()}
    far = [place for place, each in found.items() if bound is not None and each.max_abs > each.allowed(bound)]
    if far and exact is not None:
        asked = [each for each in outputs if each.name in {found[place].output for place in far}]
        own = own_errors(torch_call, exact, inputs, asked, probes, *([scored] if {*far} & {*chosen} else []))
        found |= {place: replace(found[place], own=own[place]) for place in far}
    differences = tuple(found.values())
    most = max((each.max_abs for each in differences), default=0.0)
    return Parity(most, same / judged if judged else None, judged, differences)


class _Seen:
    """What probes say of one output: the largest difference and moments of the network's answers; of classes, how many differ.

    column, unit: the one column that is looked at, and its standard deviation as the field states it.
    """

    def __init__(self, field: Field, column: int | None = None, unit: float = 0.0) -> None:
        self.column, self.unit, self.place = column, unit, place_of(field.name, column)
        self.field, self.far, self.share, self.largest, self.is_nan = field, 0.0, 0.0, 0.0, False
        self.n, self.total, self.squares = 0, 0.0, 0.0
        self.distances: tuple[list[NDArray[Any]], ...] = ([], [])  # of torch's detections to the file's, and back

    def add(self, expected: Tensor, got: Tensor, probe: Sequence[Tensor], counts: Tensor | None) -> None:
        if self.field.is_set:
            _check_shape(self.field, expected, got, probe)
            torchs, files = (each.detach().cpu().numpy() for each in (expected, got))
            self.is_nan |= bool(np.isnan(files).any())
            for kept, (of, among) in zip(self.distances, ((torchs, files), (files, torchs)), strict=True):
                kept.append(detections.gaps(of, among))
            return
        if self.column is not None:
            _check_shape(self.field, expected, got, probe)
            expected, got = (each.narrow(1, self.column, 1) for each in (expected, got))
        far, share = _distance(self.field, expected, got, probe, counts)
        over = _over(self.field, expected, counts)
        if self.field.is_class:
            self.n += int(over.sum())
            self.total += int((expected.cpu() != got.cpu())[over].sum())
            self.far = self.total / self.n if self.n else 0.0
            return
        self.far, self.share = max(self.far, far), max(self.share, share)
        self.is_nan |= bool(got.detach().cpu().isnan()[over].any())
        values = expected.detach().cpu().double()[over]
        values = values[values.isfinite() & (values.abs() <= beyond(values.numpy()))]
        if values.numel():
            self.largest = max(self.largest, float(values.abs().max()))
            self.n += values.numel()
            self.total += float(values.sum())
            self.squares += float(values.square().sum())

    def difference(self) -> Difference:
        name = self.field.name
        if self.field.is_set:
            far = max(detections.furthest(np.concatenate([np.empty(0), *each])) for each in self.distances)
            return Difference(name, far, scale=1.0, largest=0.0, is_nan=self.is_nan, is_set=True)
        if self.field.is_class:
            return Difference(name, self.far, scale=1.0, largest=0.0, is_share=True)
        mean, square = (self.total / self.n, self.squares / self.n) if self.n else (0.0, 0.0)
        scale = max(math.sqrt(max(square - mean * mean, 0.0)), self.unit or math.sqrt(square) / 100)
        far = max(self.far, self.share * scale)
        return Difference(name, far, scale, self.largest, is_nan=self.is_nan, column=self.column)


def _seen(outputs: Sequence[Field]) -> list[_Seen]:
    """One of each output, and of each column that has a unit of its own: beside a large one a small one would be unguarded."""
    found: list[_Seen] = []
    for each in outputs:
        units = units_of(each)
        found += [_Seen(each, i, unit) for i, unit in enumerate(units)] if units else [_Seen(each)]
    return found


def own_errors(
    torch_call: Call,
    exact: Callable[[], Call],
    inputs: Sequence[Field],
    outputs: Sequence[Field],
    *groups: Iterable[Sequence[Tensor]],
) -> dict[str, float | None]:
    """Output, or column as in `value[1]` -> how far torch's fp32 is from its fp64, over the probes of the group where it is most.

    None where the network does not run in fp64, or is not finite there.
    """
    found = {one.place: 0.0 for one in _seen(outputs)}
    try:
        call = exact()
        for probes in groups:
            seen = _seen(outputs)
            for probe in probes:
                plain, fine = torch_call(*probe), call(*probe)
                for one in seen:
                    name = one.field.name
                    one.add(fine[name], plain[name], probe, _counted(one.field, inputs, probe))
            found = {one.place: max(found[one.place], one.difference().max_abs) for one in seen}
    except Exception:  # a network may hold tensors of its own in fp32, or need a type that has no fp64 form
        return dict.fromkeys(found)
    return {place: far if math.isfinite(far) else None for place, far in found.items()}


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
    if field.is_class:
        return answer.cpu()
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


def _resized(samples: Batch, inputs: Sequence[Field], n: int, shorter: int) -> list[Tensor]:
    """n rows of every input; each dynamic size is divided by `shorter`, or doubled where that leaves nothing or changes nothing."""
    rows = torch.arange(n) % len(samples)
    resized = []
    for each in inputs:
        tensor = samples[each.name][rows]
        for axis, size in enumerate(each.shape, start=1):
            if size is None and shorter > 1:
                had = tensor.shape[axis]
                short = had // shorter
                tensor = tensor.narrow(axis, 0, short) if short else torch.cat([tensor, tensor], axis)
        resized.append(tensor.contiguous())
    return resized


def _answer(
    call: Call, probe: Sequence[Tensor], outputs: Sequence[Field], is_resized: bool = False
) -> Mapping[str, Tensor]:
    """is_resized: it has another length than samples that the file did answer to."""
    try:
        got = call(*probe)
    except Exception as error:  # whatever the runtime raises, the file is of no use at this shape
        why = ", and not at the samples' own length, which may be a number in it" if is_resized else ""
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        problem = f"the file fails at {_shown(probe)}{why}: {reason}"
        raise RefusedError(problem) from error
    if not isinstance(got, Mapping):
        problem = f"what the exporter loads answers {type(got).__name__}"
        raise RefusedError(problem, expected=f"tensors by name: {', '.join(each.name for each in outputs)}")
    missing = [each.name for each in outputs if each.name not in got]
    if missing:
        raise RefusedError(f"the file has no output '{missing[0]}'", expected=", ".join(each.name for each in outputs))
    return got


def _distance(
    field: Field, expected: Tensor, got: Tensor, probe: Sequence[Tensor], counts: Tensor | None
) -> tuple[float, float]:
    """The largest difference of any number, and the largest share of it of any that stands apart."""
    _check_shape(field, expected, got, probe)
    a, b = expected.detach().cpu().double(), got.detach().cpu().double()
    over = _over(field, a, counts)
    # equal infinities would differ by NaN
    equal = (a == b) | (a.isnan() & b.isnan()) | ~over
    if bool(equal.all()):
        return 0.0, 0.0
    gaps = (a - b).abs().masked_fill(equal, 0.0).nan_to_num(math.inf)
    is_apart = a.isfinite() & (a.abs() > beyond(a[over].numpy()))
    shares = gaps[is_apart] / a[is_apart].abs()
    return float(gaps.masked_fill(is_apart, 0.0).max()), float(shares.max()) if shares.numel() else 0.0


def _check_shape(field: Field, expected: Tensor, got: Tensor, probe: Sequence[Tensor]) -> None:
    if expected.shape != got.shape:
        problem = f"output '{field.name}' at {_shown(probe)} is {tuple(got.shape)} in the file"
        raise RefusedError(problem, expected=f"{tuple(expected.shape)} as in torch")


def _shown(probe: Sequence[Tensor]) -> str:
    return ", ".join("x".join(str(size) for size in each.shape) for each in probe)
