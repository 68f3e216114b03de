"""What a cut network has to keep: shares of MACs and weights, bytes in a format, milliseconds in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from kdsearch.builtin.channels.cutting import Counted, Cutter, Found
from kdsearch.builtin.channels.surgery import Cut
from kdsearch.errors import RefusedError

Format = Literal["onnx-fp32", "onnx-int8", "onnx-int4"]
# bytes of a weight of a matrix or kernel, with its share of the scale of 32 (int4, symmetric). What int8 keeps for each output is
# not counted: as much as it gains where norms are folded, which count as vectors
MATRIX_BYTES = {"onnx-fp32": 4.0, "onnx-int8": 1.0, "onnx-int4": 0.5 + 4 / 32}
MEASUREMENTS = 3  # of latency, the whole network's among them
NEAR = 0.03  # of a latency's target that is near enough to measure no more
AIM = 0.985  # of a latency's target: what misses it is as often below as above; a second cut, of which more is known, aims at all
OVER = 0.02  # above its target, a latency holds it: less than what measuring one file twice gives
# multiples of kept channels where a latency asks, the first that comes `CLOSE` to the size that any of them reaches: onnxruntime
# fills blocks of 16 up, so that resnet18 of half the MACs takes .49 of the time in steps of 16 and .64 in steps of 4
STEPS, CLOSE = (16, 8, 4, 1), 0.97
READ = 10  # multiply-accumulates that take as long as reading one weight, on a CPU at batch 1
COMPUTED = 45  # ... and as one number of a softmax, a norm over features or a smooth activation


@dataclass(frozen=True)
class Limit:
    """Everything holds that is finite; `bytes` in `format`."""

    macs: float = math.inf
    params: float = math.inf
    bytes: float = math.inf
    work: float = math.inf
    format: Format = "onnx-fp32"

    def holds(self, counted: Counted) -> bool:
        return (
            counted.macs <= self.macs
            and counted.params <= self.params
            and bytes_of(counted, self.format) <= self.bytes
            and work_of(counted) <= self.work
        )


def bytes_of(counted: Counted, format: Format) -> float:
    """Bytes of the weights in a format, by their number: vectors stay fp32; names and nodes of the graph, and int8's scales, come
    on top.
    """
    vectors = counted.params - counted.matrices
    return MATRIX_BYTES[format] * counted.matrices + 4.0 * vectors


def work_of(cost: Counted) -> float:
    """What latency is taken to grow with, in multiply-accumulates."""
    return cost.macs + READ * cost.params + COMPUTED * cost.computed


@dataclass(frozen=True)
class Taken:
    """A measured latency. error: two standard errors, as a share of it."""

    ms: float
    error: float = 0.0

    def __str__(self) -> str:
        return f"{self.ms:.3f} ms" + (f" (+-{self.error:.1%})" if self.error else "")


@dataclass
class LatencyFit:
    """Milliseconds as a line in the work, through the last measurement; through the origin, too, where there is no other.

    With another one its slope is the mean of that of both lines: what no cut makes less, and blocks that are filled up, bend the
    curve, so that near the last measurement it is steeper than from afar.
    """

    seen: list[tuple[float, float]]

    def ms(self, work: float) -> float:
        slope, offset = self._line()
        return offset + slope * work

    def work(self, ms: float) -> float:
        """The work that is taken to last `ms`."""
        slope, offset = self._line()
        return (ms - offset) / slope

    def _line(self) -> tuple[float, float]:
        (w, t) = self.seen[-1]
        if len(self.seen) > 1:
            v, s = min(self.seen[:-1], key=lambda each: abs(each[1] - t))
            if v != w and (s - t) * (v - w) > 0:
                slope = ((s - t) / (v - w) + t / w) / 2
                return slope, t - slope * w
        return t / w, 0.0


def meet_latency(
    cutter: Cutter, target_ms: float, limit: Limit, measure: Callable[[nn.Module], Taken], steps: Sequence[int] = STEPS
) -> tuple[Found, list[str]]:
    """The gentlest cut that measures `target_ms` at most, or `OVER` above it, after at most `MEASUREMENTS`; else the fastest seen.

    One that is faster than need be, where the cut before was too slow, gives way to one between both, by the line through them.
    The log has each measurement beside what was predicted.

    Args:
        measure: of networks; the first one is the cutter's own. steps: multiples of kept channels, by preference.
    """
    whole, taken = cutter.counted, measure(cutter.module)
    log = [f"latency {taken} before"]
    if taken.ms <= target_ms and limit.holds(whole):
        return Found(Cut({}), cutter.module, whole), log
    fit = LatencyFit([(work_of(whole), taken.ms)])
    tried: list[tuple[float, Found]] = []
    while len(fit.seen) < MEASUREMENTS:
        aim = 1.0 if tried and tried[-1][0] > target_ms else AIM
        bound = replace(limit, work=min(limit.work, fit.work(aim * target_ms)))
        try:
            found, step = _met(cutter, bound, steps)
        except RefusedError as error:
            if tried:  # the line said too little; what was measured is what there is
                log.append(f"a faster one would be needed by the last measurement: {error}")
                break
            share = bound.work / work_of(whole)
            raise RefusedError(
                f"{target_ms:g} ms of {taken.ms:.3f} needs a network of {share:.3f} of the size, by one measurement: {error}",
                path="compress.prune.options.latency_ms",
                expected="a latency that pruning can reach",
                fix="Raise latency_ms, or choose a smaller architecture.",
            ) from None
        cutter.told(1.0, f"latency of cut {len(tried) + 1}")
        predicted, taken = fit.ms(work_of(found.counted)), measure(found.module)
        off = (predicted - taken.ms) / taken.ms
        log.append(f"latency {taken}, predicted {predicted:.3f} ({off:+.1%}), target {target_ms:g}")
        steps = (step, *(each for each in steps if each < step))  # a line is of cuts of one kind
        tried.append((taken.ms, found))
        fit.seen.append((work_of(found.counted), taken.ms))
        is_near = (AIM - NEAR) * target_ms <= taken.ms <= (1 + OVER / 2) * target_ms
        if is_near or (taken.ms < target_ms and bound.work >= work_of(whole)):
            break
    holding = [each for each in tried if each[0] <= (1 + OVER) * target_ms]
    ms, found = max(holding, key=lambda each: each[0]) if holding else min(tried, key=lambda each: each[0])
    if ms > target_ms:
        log.append(f"latency is {ms / target_ms - 1:.1%} above its target after {len(fit.seen)} measurements")
    slower = [each for each in tried if each[0] > (1 + OVER) * target_ms]
    if slower and ms < AIM * target_ms:
        over, above = min(slower, key=lambda each: each[0])
        least, most = work_of(found.counted), work_of(above.counted)
        share = (target_ms - ms) / (over - ms)
        between, _ = _met(cutter, replace(limit, work=min(limit.work, least + share * (most - least))), steps)
        if (work := work_of(between.counted)) > least:
            predicted = ms + (over - ms) * (work - least) / (most - least)
            log.append(f"latency {predicted:.3f} ms predicted for a cut between both, not measured")
            found = between
    return found, log


def _met(cutter: Cutter, limit: Limit, steps: Sequence[int]) -> tuple[Found, int]:
    """A cut that meets the limit, with the first of the steps that comes close to it, and that step."""
    reached = {step: cutter.reach(limit.holds, step) for step in steps}
    works = {step: work_of(each) for step, each in reached.items() if each is not None}
    most = max(works.values(), default=0.0)
    step = next((each for each, work in works.items() if work >= CLOSE * most), steps[-1])
    return cutter.meet(limit.holds, step), step
