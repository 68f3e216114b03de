"""The rules: what an operator of torch (ATen) does to the axes of its inputs.

A rule gets the tracer and the operator's own arguments, and answers with the axes of the first output; every further output's axes
that match no input are new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kdsearch.builtin.channels.axes import Axis, Labels

aten = torch.ops.aten
Axes = tuple[Axis, ...]


class Tracer(Protocol):
    labels: Labels

    def axes(self, tensor: Tensor) -> Axes: ...
    def product(self, axes: Sequence[Axis], times: int) -> None:
        """Multiply-accumulates: the product of the axes' sizes, `times` over."""

    def sized(self, axis: Axis) -> None:
        """The size of the axis may stand in the module that runs now."""

    def convolved(self, groups: Axis) -> None: ...


Rule = Callable[..., Axes]
RULES: dict[Any, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        for name in names:
            packet, _, overload = name.partition(".")
            if hasattr(aten, packet) and hasattr(getattr(aten, packet), overload or "default"):
                RULES[getattr(getattr(aten, packet), overload or "default")] = function
        return function

    return add


def pointwise(tracer: Tracer, out: Tensor, operands: Sequence[Tensor]) -> Axes:
    """Broadcast against each other: axes that meet are one."""
    made: list[Axis] = []
    for at in range(out.dim()):
        meeting = [
            tracer.axes(each)[at - out.dim()]
            for each in operands
            if each.dim() >= out.dim() - at and each.shape[at - out.dim()] == out.shape[at] > 1
        ]
        for other in meeting[1:]:
            tracer.labels.join(meeting[0], other, "it meets an axis of fixed size")
        made.append(meeting[0] if meeting else Axis(out.shape[at]))
    return tuple(made)
