"""Operators that compute: products, convolutions, norms, reductions, pools, and those of single elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdsearch.builtin.channels.axes import Axis
from kdsearch.builtin.channels.operators.rules import Axes, Rule, Tracer, pointwise, rule


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


@rule("glu")
def _glu(tracer: Tracer, x: Tensor, dim: int = -1, *, out: Tensor) -> Axes:
    axes = list(tracer.axes(x))
    at, half = dim % len(axes), x.shape[dim] // 2
    made, gate = (tracer.labels.taken(axes[at], each) for each in (slice(None, half), slice(half, None)))
    tracer.labels.join(made, gate, "they are gated halves")
    axes[at] = made
    return tuple(axes)


@rule(
    "copy_", "copy", "_to_copy", "clone", "hardswish", "hardswish_", "lift_fresh", "detach", "alias", "floor_divide",
    "_prelu_kernel", "log_sigmoid_forward", "rrelu_with_noise",
)  # fmt: skip
def _pointwise(tracer: Tracer, *args: Any, out: Tensor, **_: Any) -> Axes:
    return pointwise(tracer, out, [each for each in args if isinstance(each, Tensor)])
