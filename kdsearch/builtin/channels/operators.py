"""What each operator of torch (ATen) does to the axes of its inputs. One that is not here freezes what it reads.

A rule gets the tracer and the operator's own arguments, and answers with the axes of the first output; every further output's axes
that match no input are new.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
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


def _at(axes: Axes, dim: int) -> int:
    return dim % len(axes)


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy")
def _view(tracer: Tracer, x: Tensor, size: Any, *_: Any, out: Tensor) -> Axes:
    axes, made = list(tracer.axes(x)), []
    before, after = list(x.shape), list(out.shape)
    i = j = 0
    while i < len(before) or j < len(after):
        if i < len(before) and j < len(after) and before[i] == after[j]:
            made.append(axes[i])
            i, j = i + 1, j + 1
            continue
        first, second = i, j
        here = there = 1
        while here != there or (i == first and j == second):
            if j >= len(after) or (i < len(before) and here <= there):
                here *= before[i]
                i += 1
            else:
                there *= after[j]
                j += 1
        whole = tracer.labels.merged(axes[first:i])
        sizes = after[second:j]
        parts = (
            tracer.labels.split(whole, sizes, "it is reshaped in another way elsewhere")
            if len(sizes) > 1
            else [whole] * len(sizes)
        )
        made += parts
    for each in made:
        tracer.sized(each)
    return tuple(made)


@rule("permute")
def _permute(tracer: Tracer, x: Tensor, dims: Sequence[int], *, out: Tensor) -> Axes:
    axes = tracer.axes(x)
    return tuple(axes[_at(axes, each)] for each in dims)


@rule("t")
def _t(tracer: Tracer, x: Tensor, *, out: Tensor) -> Axes:
    return tracer.axes(x)[::-1]


@rule("transpose.int")
def _transpose(tracer: Tracer, x: Tensor, one: int, other: int, *, out: Tensor) -> Axes:
    axes = list(tracer.axes(x))
    if axes:
        axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


@rule("expand")
def _expand(tracer: Tracer, x: Tensor, size: Any, *, out: Tensor, implicit: bool = False) -> Axes:
    axes, new = tracer.axes(x), out.dim() - x.dim()
    return tuple(
        axes[at - new] if at >= new and x.shape[at - new] == out.shape[at] else tracer.labels.fresh(out.shape[at])
        for at in range(out.dim())
    )


@rule("unsqueeze")
def _unsqueeze(tracer: Tracer, x: Tensor, dim: int, *, out: Tensor) -> Axes:
    axes, at = tracer.axes(x), dim % out.dim()
    return (*axes[:at], Axis(1), *axes[at:])


@rule("squeeze.dim", "squeeze", "squeeze.dims")
def _squeeze(tracer: Tracer, x: Tensor, dim: Any = None, *, out: Tensor) -> Axes:
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {each % x.dim() for each in dims if x.dim() and x.shape[each] == 1}
    return tuple(each for at, each in enumerate(tracer.axes(x)) if at not in gone)


@rule("slice.Tensor")
def _slice(
    tracer: Tracer, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1, *, out: Tensor
) -> Axes:
    axes = list(tracer.axes(x))
    at = _at(tuple(axes), dim)
    axes[at] = tracer.labels.taken(axes[at], slice(start, end, step))
    tracer.sized(axes[at])
    return tuple(axes)


@rule("select.int")
def _select(tracer: Tracer, x: Tensor, dim: int, index: int, *, out: Tensor) -> Axes:
    axes = tracer.axes(x)
    at = _at(axes, dim)
    tracer.labels.freeze(tracer.labels.taken(axes[at], np.array([index])), "single ones of them are read by number")
    return (*axes[:at], *axes[at + 1 :])


@rule("unbind.int")
def _unbind(tracer: Tracer, x: Tensor, dim: int = 0, *, out: Tensor) -> Axes:
    axes = tracer.axes(x)
    at = _at(axes, dim)
    tracer.labels.freeze(axes[at], "single ones of them are read by number")
    return (*axes[:at], *axes[at + 1 :])


@rule("cat")
def _cat(tracer: Tracer, tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor) -> Axes:
    parts = [each for each in tensors if each.dim() == out.dim()]  # torch lets an empty vector pass
    rows = [tracer.axes(each) for each in parts]
    at, made = dim % out.dim(), []
    for i in range(out.dim()):
        if i == at:
            made.append(tracer.labels.concatenated([row[i] for row in rows]))
        else:
            for row in rows[1:]:
                tracer.labels.join(rows[0][i], row[i], "it meets an axis of fixed size")
            made.append(rows[0][i])
    return tuple(made)


@rule("stack")
def _stack(tracer: Tracer, tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor) -> Axes:
    axes, at = pointwise(tracer, tensors[0], tensors), dim % out.dim()
    return (*axes[:at], Axis(out.shape[at]), *axes[at:])


@rule("roll")
def _roll(tracer: Tracer, x: Tensor, shifts: Sequence[int], dims: Sequence[int] = (), *, out: Tensor) -> Axes:
    axes = list(tracer.axes(x))
    if not dims:
        return _frozen_all(tracer, x)
    for shift, dim in zip(shifts, dims, strict=True):
        axes[dim] = tracer.labels.taken(axes[dim], np.roll(np.arange(axes[dim].size), shift))
    return tuple(axes)


@rule("flip")
def _flip(tracer: Tracer, x: Tensor, dims: Sequence[int], *, out: Tensor) -> Axes:
    axes = list(tracer.axes(x))
    for dim in dims:
        axes[dim] = tracer.labels.taken(axes[dim], slice(None, None, -1))
    return tuple(axes)


def _frozen_all(tracer: Tracer, x: Tensor) -> Axes:
    for axis in tracer.axes(x):
        tracer.labels.freeze(axis, "an operator reads them in an order of its own")
    return tuple(Axis(size) for size in x.shape)


def _mix(tracer: Tracer, one: Axis, other: Axis) -> None:
    tracer.labels.join(one, other, "it is multiplied with an axis of fixed size")


@rule("mm")
def _mm(tracer: Tracer, a: Tensor, b: Tensor, *, out: Tensor) -> Axes:
    (rows, inner), (also, columns) = tracer.axes(a), tracer.axes(b)
    _mix(tracer, inner, also)
    tracer.product([rows, inner, columns], 1)
    return rows, columns


@rule("addmm")
def _addmm(tracer: Tracer, bias: Tensor, a: Tensor, b: Tensor, *, out: Tensor, beta: Any = 1, alpha: Any = 1) -> Axes:
    made = _mm(tracer, a, b, out=out)
    return _plus(tracer, made, bias)


def _plus(tracer: Tracer, made: Axes, bias: Tensor) -> Axes:
    for axis, other in zip(reversed(made), reversed(tracer.axes(bias)), strict=False):
        if axis.size == other.size:
            tracer.labels.join(axis, other, "it meets an axis of fixed size")
    return made


@rule("bmm")
def _bmm(tracer: Tracer, a: Tensor, b: Tensor, *, out: Tensor) -> Axes:
    (batch, rows, inner), (same, also, columns) = tracer.axes(a), tracer.axes(b)
    _mix(tracer, inner, also)
    _mix(tracer, batch, same)
    tracer.product([batch, rows, inner, columns], 1)
    return batch, rows, columns


@rule("baddbmm")
def _baddbmm(tracer: Tracer, bias: Tensor, a: Tensor, b: Tensor, *, out: Tensor, beta: Any = 1, alpha: Any = 1) -> Axes:
    return _plus(tracer, _bmm(tracer, a, b, out=out), bias)


@rule("convolution", "_convolution")
def _convolution(
    tracer: Tracer,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_: Any,
    out: Tensor,
) -> Axes:
    labels = tracer.labels
    batch, channels, *places = tracer.axes(x)
    first, second, *kernel = tracer.axes(weight)
    for each in (*places, *kernel):
        labels.freeze(each, "they are places, not channels")
    # ordinary: weight is (O, I / g, ...); transposed: (I, O / g, ...)
    if groups == 1:
        into, made = (first, second) if transposed else (second, first)
        _mix(tracer, channels, into)
    else:
        where = "its convolution's groups cut across it"
        group, within = labels.split(first, [groups, first.size // groups], where)
        read, inner = labels.split(channels, [groups, channels.size // groups], where)
        labels.join(group, read, where)
        if transposed:
            labels.join(within, inner, where)
            made = labels.merged([group, second])
        else:
            labels.join(second, inner, where)
            made = first
        tracer.convolved(group)
    tracer.product(
        [first, second], x.shape[0] * math.prod(weight.shape[2:]) * math.prod((x if transposed else out).shape[2:])
    )
    if bias is not None:
        labels.join(made, tracer.axes(bias)[0], "it meets an axis of fixed size")
    return (batch, made, *(Axis(size) for size in out.shape[2:]))


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit.no_stats",
    "cudnn_batch_norm",
    "_batch_norm_no_update",
)
def _batch_norm(tracer: Tracer, x: Tensor, *args: Any, out: Tensor) -> Axes:
    axes = tracer.axes(x)
    for each in args[:4]:
        if isinstance(each, Tensor):
            tracer.labels.join(axes[1], tracer.axes(each)[0], "it meets an axis of fixed size")
    if any(each is True for each in args):  # training: means over every other axis
        for at, axis in enumerate(axes):
            if at != 1:
                tracer.labels.freeze(axis, "a norm is taken over them")
    return axes


@rule("native_layer_norm")
def _layer_norm(
    tracer: Tracer, x: Tensor, over: Sequence[int], weight: Any, bias: Any, eps: float, *, out: Tensor
) -> Axes:
    axes = tracer.axes(x)
    if len(over) > 1 or weight is None:
        for axis in axes[len(axes) - len(over) :]:
            tracer.labels.freeze(axis, "a norm without weights of its own is taken over them")
    for each in (weight, bias):
        if each is not None:
            for axis, other in zip(axes[len(axes) - len(over) :], tracer.axes(each), strict=True):
                tracer.labels.join(axis, other, "it meets an axis of fixed size")
    return axes


@rule("native_group_norm")
def _group_norm(
    tracer: Tracer,
    x: Tensor,
    weight: Any,
    bias: Any,
    n: int,
    c: int,
    places: int,
    groups: int,
    eps: float,
    *,
    out: Tensor,
) -> Axes:
    axes = tracer.axes(x)
    if weight is None:
        tracer.labels.freeze(axes[1], "a norm without weights of its own is taken over them")
    for each in (weight, bias):
        if each is not None:
            tracer.labels.join(axes[1], tracer.axes(each)[0], "it meets an axis of fixed size")
    if groups > 1:
        parts = tracer.labels.split(axes[1], [groups, c // groups], "a norm's groups cut across it")
        tracer.labels.freeze(parts[0], "they are groups of a norm")
    for each in axes[2:]:
        tracer.labels.freeze(each, "a norm is taken over them")
    return axes


@rule("_softmax", "_log_softmax", "_safe_softmax")
def _softmax(tracer: Tracer, x: Tensor, dim: int, *_: Any, out: Tensor, **__: Any) -> Axes:
    axes = tracer.axes(x)
    tracer.labels.freeze(axes[dim], "a softmax is taken over them")
    return axes


@rule(
    "sum.dim_IntList", "mean.dim", "amax", "amin", "var.correction", "std.correction", "linalg_vector_norm", "var_mean.correction",
    "logsumexp", "prod.dim_int", "argmax", "norm.ScalarOpt_dim", "max.dim", "min.dim", "any.dim", "all.dim",
)  # fmt: skip
def _reduced(tracer: Tracer, x: Tensor, *args: Any, out: Tensor, **options: Any) -> Axes:
    dims = next(
        (each for each in (*args, options.get("dim")) if isinstance(each, int | list | tuple) and each != []), None
    )
    if args and isinstance(args[0], int | float) and len(args) > 1 and isinstance(args[1], list | tuple):
        dims = args[1]  # of a norm, whose first number is its order
    axes = tracer.axes(x)
    over = (
        {each % x.dim() for each in ([dims] if isinstance(dims, int) else dims)}
        if dims is not None
        else set(range(x.dim()))
    )
    for at in over:
        tracer.labels.freeze(axes[at], "a mean, a sum or a norm is taken over them")
    if out.dim() == x.dim():
        return tuple(Axis(1) if at in over else each for at, each in enumerate(axes))
    return tuple(each for at, each in enumerate(axes) if at not in over)


def _places(n: int) -> Rule:
    """Pooled, resized or padded in its last n axes; the channels pass."""

    def passed(tracer: Tracer, x: Tensor, *_: Any, out: Tensor, **__: Any) -> Axes:
        axes = tracer.axes(x)
        for each in axes[-n:]:
            tracer.labels.freeze(each, "they are places, not channels")
        return (*axes[:-n], *(Axis(size) for size in out.shape[-n:]))

    return passed


for _n in (1, 2, 3):
    _ways = {1: ("linear1d",), 2: ("bilinear2d", "bicubic2d"), 3: ("trilinear3d",)}[_n]
    _resized = [f"upsample_{way}{end}" for way in (f"nearest{_n}d", *_ways) for end in ("", ".vec")]
    _resized += [
        f"_upsample_{way}" for way in (f"nearest_exact{_n}d", "bilinear2d_aa", "bicubic2d_aa") if f"{_n}d" in way
    ]
    _pooled = [f"max_pool{_n}d_with_indices", f"avg_pool{_n}d", f"_adaptive_avg_pool{_n}d", f"adaptive_max_pool{_n}d"]
    rule(*_resized, *_pooled, f"reflection_pad{_n}d", f"replication_pad{_n}d", f"max_pool{_n}d")(_places(_n))


@rule("constant_pad_nd")
def _pad(tracer: Tracer, x: Tensor, pad: Sequence[int], value: Any = 0, *, out: Tensor) -> Axes:
    axes = list(tracer.axes(x))
    for at in range(len(pad) // 2):
        dim = len(axes) - 1 - at
        if pad[2 * at] or pad[2 * at + 1]:
            tracer.labels.freeze(axes[dim], "it is padded")
            axes[dim] = Axis(out.shape[dim])
    return tuple(axes)


@rule("im2col")
def _im2col(tracer: Tracer, x: Tensor, kernel: Sequence[int], *_: Any, out: Tensor) -> Axes:
    batch, channels = tracer.axes(x)[:2]
    return batch, tracer.labels.merged([channels, Axis(math.prod(kernel))]), Axis(out.shape[2])


@rule("pixel_shuffle")
def _pixel_shuffle(tracer: Tracer, x: Tensor, factor: int, *, out: Tensor) -> Axes:
    batch, channels, *_ = tracer.axes(x)
    made, inner = tracer.labels.split(
        channels, [channels.size // factor**2, factor**2], "it is reshaped in another way elsewhere"
    )
    tracer.labels.freeze(inner, "they become places")
    return (batch, made, *(Axis(size) for size in out.shape[2:]))


@rule("embedding")
def _embedding(tracer: Tracer, weight: Tensor, index: Tensor, *_: Any, out: Tensor) -> Axes:
    rows, width = tracer.axes(weight)
    tracer.labels.freeze(rows, "they are read by number")
    return (*tracer.axes(index), width)


@rule("index.Tensor")
def _index(tracer: Tracer, x: Tensor, indices: Sequence[Tensor | None], *, out: Tensor) -> Axes:
    axes = tracer.axes(x)
    at = [i for i, each in enumerate(indices) if each is not None]
    for i in at:
        tracer.labels.freeze(axes[i], "they are read by number")
    rest = [axis for i, axis in enumerate(axes) if i not in at]
    first = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    new = [Axis(size) for size in out.shape[first : first + out.dim() - len(rest)]]
    return (*rest[:first], *new, *rest[first:])


@rule("index_select")
def _index_select(tracer: Tracer, x: Tensor, dim: int, index: Tensor, *, out: Tensor) -> Axes:
    axes = list(tracer.axes(x))
    tracer.labels.freeze(axes[dim], "they are read by number")
    axes[dim] = Axis(out.shape[dim])
    return tuple(axes)


@rule("gather")
def _gather(tracer: Tracer, x: Tensor, dim: int, index: Tensor, *, out: Tensor, sparse_grad: bool = False) -> Axes:
    axes, picked = tracer.axes(x), list(tracer.axes(index))
    at = _at(axes, dim)
    for i, axis in enumerate(axes):
        if i != at and axis.size == out.shape[i]:
            tracer.labels.join(axis, picked[i], "it meets an axis of fixed size")
        else:
            tracer.labels.freeze(axis, "they are read by number")
    return tuple(picked)


@rule("glu")
def _glu(tracer: Tracer, x: Tensor, dim: int = -1, *, out: Tensor) -> Axes:
    axes = list(tracer.axes(x))
    at, half = _at(tuple(axes), dim), x.shape[dim] // 2
    made, gate = (tracer.labels.taken(axes[at], each) for each in (slice(None, half), slice(half, None)))
    tracer.labels.join(made, gate, "they are gated halves")
    axes[at] = made
    return tuple(axes)


@rule(
    "copy_", "copy", "_to_copy", "clone", "hardswish", "hardswish_", "lift_fresh", "detach", "alias", "floor_divide",
    "_prelu_kernel", "log_sigmoid_forward",
)  # fmt: skip
def _pointwise(tracer: Tracer, *args: Any, out: Tensor, **_: Any) -> Axes:
    return pointwise(tracer, out, [each for each in args if isinstance(each, Tensor)])


@rule(
    "new_zeros", "new_ones", "new_empty", "zeros_like", "ones_like", "empty_like", "full_like", "new_full", "rand_like",
    "zeros", "ones",
)  # fmt: skip
def _made(tracer: Tracer, x: Any, *_: Any, out: Tensor, **__: Any) -> Axes:
    return tuple(tracer.labels.fresh(size) for size in out.shape)
