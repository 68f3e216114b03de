"""Operators that move, pick, repeat and pad elements, or make tensors of nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from kdsearch.builtin.channels.axes import Axis
from kdsearch.builtin.channels.operators.rules import Axes, Tracer, pointwise, rule


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


@rule("channel_shuffle")
def _channel_shuffle(tracer: Tracer, x: Tensor, groups: int, *, out: Tensor) -> Axes:
    axes = tracer.axes(x)
    parts = tracer.labels.split(axes[1], [groups, x.shape[1] // groups], "it is reshaped in another way elsewhere")
    return (axes[0], tracer.labels.merged(parts[::-1]), *axes[2:])


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


@rule(
    "new_zeros", "new_ones", "new_empty", "zeros_like", "ones_like", "empty_like", "full_like", "new_full", "rand_like",
    "zeros", "ones",
)  # fmt: skip
def _made(tracer: Tracer, x: Any, *_: Any, out: Tensor, **__: Any) -> Axes:
    return tuple(tracer.labels.fresh(size) for size in out.shape)
