"""One pass that follows every channel through the network, on the meta device: a rule an operator, so its work is bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kdsearch.builtin.channels.axes import Axis, Labels, kept
from kdsearch.builtin.channels.copies import copied
from kdsearch.builtin.channels.noted import Noted, note, sized_by
from kdsearch.builtin.channels.operators import RULES, Axes, pointwise
from kdsearch.builtin.channels.recurrent import follow_recurrent
from kdsearch.ops.attention import plain_attention
from kdsearch.ops.cost import on_meta

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Traced:
    """What a forward pass told.

    Args:
        tensors: axes of every weight and buffer, by its (first) name.
        products: multiply-accumulates are the sum over these of the product of the axes' sizes, `times` over.
        computed: axes of what softmax, norms over features and smooth activations answer, which no runtime folds into products.
        sized: axes whose sizes were asked for, or came out, while a module ran: (its path, axis).
        noted: axes whose size a module gave by a number of its own: (its path, the attribute, the item of it or None, axis).
        groups: of grouped convolutions, by the module's path: the axis of its groups.
        labels: joins and refinements; all axes here are resolved.
        reasons: why an axis of a tensor cannot change, by (name, dimension).
    """

    tensors: dict[str, Axes]
    products: list[tuple[Axes, int]]
    computed: list[Axes]
    sized: list[tuple[str, Axis]]
    noted: list[tuple[str, str, int | None, Axis]]
    groups: dict[str, Axis]
    reasons: dict[tuple[str, int], str]


def traced(module: nn.Module, inputs: Inputs) -> Traced:
    """Follow the channels of `module`, which is left as it was, for `inputs` (1 or more samples)."""
    try:
        shadow = on_meta(module)
        return _Tracer(shadow).run([each.to("meta") for each in inputs])
    except (
        Exception
    ):  # a network that looks at values, of which the meta device has none: what is wrong with it is said by this
        return _Tracer(copied(module)).run(list(inputs))


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = Labels()
        self._module = module.eval()
        note(self._module)
        self._known: dict[int, tuple[Tensor, Axes]] = {}  # the tensor is held, so that no other gets its id
        self._products: list[tuple[Axes, int]] = []
        self._computed: list[Axes] = []
        self._sized: list[tuple[str, Axis]] = []
        self._noted: list[tuple[str, str, int | None, Axis]] = []
        self._groups: dict[str, Axis] = {}
        self._path = [""]
        self._read = set[int]()  # ids of tensors whose axes a rule asked for
        self._own = [*module.named_parameters(), *module.named_buffers()]
        for _, tensor in self._own:
            self._set(tensor, tuple(self.labels.fresh(size) for size in tensor.shape))

    def run(self, inputs: Sequence[Tensor]) -> Traced:
        own = {name: self._known[id(tensor)][1] for name, tensor in self._own}
        for each in inputs:
            self._set(each, tuple(Axis(size) for size in each.shape))
        with ExitStack() as stack:
            stack.enter_context(self._followed())
            stack.enter_context(torch.no_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(plain_attention())
            stack.enter_context(self)
            stack.enter_context(_Calls(self))
            out = self._module(*inputs)
        for each in tensors_of(out):
            for axis in self.axes(each):
                self.labels.freeze(axis, "they are outputs")
        for name, tensor in self._own:
            for axis in own[name] if id(tensor) not in self._read else ():
                self.labels.freeze(axis, "nothing here reads them")
        reasons = {(name, at): self.labels.reason(axis) for name, axes in own.items() for at, axis in enumerate(axes)}
        resolved = self.labels.resolved
        return Traced(
            {name: tuple(map(resolved, axes)) for name, axes in own.items()},
            [(tuple(map(resolved, axes)), times) for axes, times in self._products],
            [tuple(map(resolved, axes)) for axes in self._computed],
            [(path, resolved(axis)) for path, axis in self._sized],
            [(path, name, at, resolved(axis)) for path, name, at, axis in self._noted],
            {path: resolved(axis) for path, axis in self._groups.items()},
            {key: each for key, each in reasons.items() if each},
        )

    # what the rules ask for

    def axes(self, tensor: Tensor) -> Axes:
        """Axes of a tensor; of one that the network made of nothing, new ones: its sizes may follow those of others."""
        if id(tensor) not in self._known:
            self._set(tensor, tuple(self.labels.fresh(size) for size in tensor.shape))
        self._read.add(id(tensor))
        return self._known[id(tensor)][1]

    def _set(self, tensor: Tensor, axes: Axes) -> None:
        self._known[id(tensor)] = (tensor, axes)

    def answer(self, tensor: Tensor, axes: Axes) -> Tensor:
        """A tensor that a whole module answers with."""
        self._set(tensor, axes)
        return tensor

    def product(self, axes: Sequence[Axis], times: int) -> None:
        self._products.append((tuple(axes), times))

    def sized(self, axis: Axis) -> None:
        if axis.size > 1:
            self._sized.append((self._path[-1], axis))

    def noted(self, number: Noted, tensor: Tensor, dim: int) -> None:
        if id(tensor) in self._known:
            self._noted.append((number.path, number.name, number.at, self.axes(tensor)[dim]))

    def convolved(self, groups: Axis) -> None:
        self._groups[self._path[-1]] = groups

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if isinstance(out, list | tuple) and func.overloadpacket in _LISTS:
            self._listed(func, args, kwargs, list(out))
            return out
        made = out if isinstance(out, Tensor) else next((each for each in tensors_of(out)), None)
        if made is None:
            return out
        axes = self._axes_of(func, args, kwargs, made)
        self._set(made, axes)
        if func.overloadpacket in _COMPUTED:
            self._computed.append(axes)
        return out

    def _axes_of(self, func: Any, args: Any, kwargs: Any, made: Tensor) -> Axes:
        rule, axes = RULES.get(func), None
        if rule is not None:
            try:
                axes = rule(self, *args, out=made, **kwargs)
            except (ValueError, IndexError, TypeError, StopIteration):  # called in a way that the rule does not know
                axes = None
        elif torch.Tag.pointwise in func.tags or func.overloadpacket in _IN_PLACE:
            operands = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            axes = pointwise(self, made, operands)
        if axes is not None and [each.size for each in axes] == list(made.shape):
            return axes
        for each in tensors_of([*args, *kwargs.values()]):
            for axis in self.axes(each):
                self.labels.freeze(axis, f"'{func.overloadpacket.__name__}' reads them")
        return tuple(Axis(size) for size in made.shape)

    def _listed(self, func: Any, args: Any, kwargs: Any, outs: list[Tensor]) -> None:
        x, rest = args[0], [*args[1:], *kwargs.values()]
        axes = self.axes(x)
        if func.overloadpacket is torch.ops.aten.unbind:
            for each in outs:
                self._set(each, RULES[func](self, x, *rest, out=each))
            return
        at, begun = (rest[1] if len(rest) > 1 else 0) % x.dim(), 0
        parts = []
        for each in outs:
            parts.append(self.labels.taken(axes[at], slice(begun, begun + each.shape[at])))
            begun += each.shape[at]
        if len({each.size for each in parts}) == 1:  # equal parts must stay equal: they are cut at a share of the whole
            for part in parts[1:]:
                self.labels.join(parts[0], part, "they are parts of equal size")
        for each, part in zip(outs, parts, strict=True):
            self.sized(part)
            self._set(each, (*axes[:at], part, *axes[at + 1 :]))

    # modules

    @contextmanager
    def _followed(self) -> Iterator[None]:
        handles = []
        for path, part in self._module.named_modules():
            handles.append(part.register_forward_pre_hook(self._enter(path)))
            handles.append(part.register_forward_hook(self._leave))
            if (name := _bare_width(part)) is not None:
                handles.append(part.register_forward_pre_hook(self._reads_width(path, name)))
            if isinstance(part, nn.LSTM | nn.GRU | nn.RNN):
                part.forward = follow_recurrent(self, part)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for each in handles:
                each.remove()

    def _enter(self, path: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._path.append(path)

        return enter

    def _leave(self, *_: Any) -> None:
        self._path.pop()

    def _reads_width(self, path: str, name: str) -> Callable[..., None]:
        def reads(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].dim() > 1:
                self._noted.append((path, name, None, self.axes(args[0])[1]))

        return reads


def _bare_width(part: nn.Module) -> str | None:
    """The number of channels that a norm keeps and has no weight or statistic of: what it reads alone says what becomes of it."""
    if any(each is not None for each in (*part._parameters.values(), *part._buffers.values())):
        return None
    if isinstance(part, nn.modules.batchnorm._NormBase):
        return "num_features"
    return "num_channels" if isinstance(part, nn.GroupNorm) else None


_LISTS = {
    torch.ops.aten.split, torch.ops.aten.split_with_sizes, torch.ops.aten.unbind, torch.ops.aten.chunk,
    torch.ops.aten.unsafe_split, torch.ops.aten.unsafe_split_with_sizes, torch.ops.aten.unsafe_chunk,
}  # fmt: skip
_COMPUTED = {
    torch.ops.aten._softmax, torch.ops.aten.native_layer_norm, torch.ops.aten.native_group_norm, torch.ops.aten.gelu,
    torch.ops.aten.silu, torch.ops.aten.silu_, torch.ops.aten.mish, torch.ops.aten.sigmoid, torch.ops.aten.sigmoid_,
    torch.ops.aten.tanh, torch.ops.aten.tanh_, torch.ops.aten.exp, torch.ops.aten.erf, torch.ops.aten.softplus,
}  # fmt: skip
_IN_PLACE = {torch.ops.aten.zero_, torch.ops.aten.fill_}


class _Calls(TorchFunctionMode):
    """What operators do not show: numbers that calls are given, and attention that divides by the root of its heads' width."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            query = args[0] if args else (kwargs or {})["query"]
            self._tracer.labels.freeze(self._tracer.axes(query)[-1], "attention is scaled by their number")
        out = func(*args, **(kwargs or {}))
        for number, tensor, dim in sized_by(func, args, kwargs or {}, out):
            self._tracer.noted(number, tensor, dim)
        return out


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in an answer of whatever form, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, dict):
        return [found for each in value.values() for found in tensors_of(each)]
    if isinstance(value, list | tuple):
        return [found for each in value for found in tensors_of(each)]
    if hasattr(value, "__dataclass_fields__"):
        return [found for name in value.__dataclass_fields__ for found in tensors_of(getattr(value, name))]
    return []


def macs(trace: Traced, gone: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """Multiply-accumulates of all samples without the labels that are gone."""
    return sum(times * math.prod(_sizes(axes, gone)) for axes, times in trace.products)


def computed(trace: Traced, gone: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """Numbers, of all samples, that take far longer than an addition each, without the labels that are gone."""
    return sum(math.prod(_sizes(axes, gone)) for axes in trace.computed)


def weights(trace: Traced, parameters: Sequence[str], gone: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    return sum(math.prod(_sizes(trace.tensors[name], gone)) for name in parameters)


def _sizes(axes: Axes, gone: np.ndarray[Any, np.dtype[np.bool_]]) -> list[int]:
    return [int(kept(each, gone).sum()) if each.columns else each.size for each in axes]
