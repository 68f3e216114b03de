"""What a cut network has to keep: shares of MACs and weights, bytes in a format, milliseconds in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from kdsearch.builtin.channels.cutting import Counted, Cutter, Found
from kdsearch.builtin.channels.surgery import Cut
from kdsearch.errors import RefusedError
from kdsearch.kinds import Cost

Format = Literal["onnx-fp32", "onnx-int8", "onnx-int4"]
# bytes of a weight of a matrix or kernel, with its share of the scales of 32 (int4) or of an output (int8, counted apart)
MATRIX_BYTES = {"onnx-fp32": 4.0, "onnx-int8": 1.0, "onnx-int4": 0.5 + 4 / 32 + 0.5 / 32}
MEASUREMENTS = 3  # of latency, the whole network's among them
NEAR = 0.02  # of a latency's target that is near enough to measure no more
READ = 10  # multiply-accumulates that take as long as reading one weight, on a CPU at batch 1


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
    """Bytes of the weights in a format: vectors stay fp32; the names and nodes of the graph come on top."""
    vectors = counted.params - counted.matrices
    return MATRIX_BYTES[format] * counted.matrices + 4.0 * vectors


def work_of(cost: Counted | Cost) -> float:
    """What latency is taken to grow with, in multiply-accumulates."""
    return cost.macs + READ * cost.params


@dataclass
class LatencyFit:
    """Milliseconds as a line in the work, through the last two measurements; through the origin where there is one."""

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
                slope = (s - t) / (v - w)
                return slope, t - slope * w
        return t / w, 0.0


def meet_latency(
    cutter: Cutter, target_ms: float, limit: Limit, measure: Callable[[nn.Module], float]
) -> tuple[Found, list[str]]:
    """The gentlest cut that measures at most `target_ms`, after at most `MEASUREMENTS`; else the fastest that was seen.

    The log has each measurement beside what was predicted.
    """
    whole = cutter.counted
    ms = measure(cutter.module)
    log = [f"latency {ms:.3f} ms before"]
    if ms <= target_ms and limit.holds(whole):
        return Found(Cut({}), cutter.module, whole), log
    fit = LatencyFit([(work_of(whole), ms)])
    tried: list[tuple[float, Found]] = []
    while len(fit.seen) < MEASUREMENTS:
        bound = Limit(limit.macs, limit.params, limit.bytes, min(limit.work, fit.work(target_ms)), limit.format)
        try:
            found = cutter.meet(bound.holds)
        except RefusedError as error:
            if tried:  # the line said too little; what was measured is what there is
                log.append(f"a faster one would be needed by the last measurement: {error}")
                break
            share = bound.work / work_of(whole)
            raise RefusedError(
                f"{target_ms:g} ms of {ms:.3f} needs a network of {share:.3f} of the size, by one measurement: {error}",
                path="compress.prune.options.latency_ms",
                expected="a latency that pruning can reach",
                fix="Raise latency_ms, or choose a smaller architecture.",
            ) from None
        predicted = fit.ms(work_of(found.counted))
        ms = measure(found.module)
        log.append(
            f"latency {ms:.3f} ms, predicted {predicted:.3f} ({(predicted - ms) / ms:+.1%}), target {target_ms:g}"
        )
        tried.append((ms, found))
        fit.seen.append((work_of(found.counted), ms))
        if target_ms * (1 - NEAR) <= ms <= target_ms or (ms < target_ms and bound.work >= work_of(whole)):
            break
    below = [each for each in tried if each[0] <= target_ms]
    ms, found = max(below, key=lambda each: each[0]) if below else min(tried, key=lambda each: each[0])
    if ms > target_ms:
        log.append(f"latency is {ms / target_ms - 1:.1%} above its target after {len(fit.seen)} measurements")
    return found, log
