"""Counted cost of a module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from kdsearch.ops.attention import plain_attention
from kdsearch.ops.copies import computed
from kdsearch.ops.undisturbed import undisturbed

aten = torch.ops.aten


def parameters(module: nn.Module) -> int:
    """Weights of the module, trained and frozen; one that two parts share counts once."""
    return sum(each.numel() for each in module.parameters())


def stored_values(module: nn.Module) -> int:
    """Numbers that are no integers among the buffers of its state: prototypes, a bank of features, a fitted matrix."""
    held = {id(each): each for each in module.state_dict(keep_vars=True).values() if isinstance(each, Tensor)}
    return sum(
        each.numel() for each in held.values() if each.is_floating_point() and not isinstance(each, nn.Parameter)
    )


def multiply_accumulates(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates of convolutions, matrix products, recurrent layers and attention for `inputs`, in eval mode.

    Counted on a copy on the meta device, where nothing is computed and fused attention is not hidden. A network that looks at
    values, which that device has none of, is run instead.
    """
    try:
        shadow = on_meta(module).eval()
        with shapes_alone() as counter:
            shadow(*[torch.empty_like(each, device="meta") for each in inputs])
    except Exception:  # foreign networks do what they like; what is wrong with them is said by the run
        return _run_and_count(module, inputs)
    return int(counter.flops) // 2


@contextmanager
def shapes_alone() -> Iterator[MetaCounter]:
    """Networks on the meta device run fast inside; no gradients."""
    with torch.inference_mode(False), torch.no_grad(), MetaCounter() as counter:
        yield counter


def on_meta(module: nn.Module) -> nn.Module:
    """A copy whose weights and buffers are on the meta device: no value is copied."""
    with torch.inference_mode(False):
        memo = computed(module)
        for each in module.parameters():
            memo[id(each)] = nn.Parameter(torch.empty_like(each, device="meta"), requires_grad=False)
        for buffer in module.buffers():
            memo[id(buffer)] = torch.empty_like(buffer, device="meta")
        return copy.deepcopy(module, memo).to("meta")


def _run_and_count(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """A real forward, with attention and recurrent layers as the products that they are made of."""
    first = next(module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    with undisturbed(module, train=False), plain_attention(), _unfused(), FlopCounterMode(display=False) as counter:
        module(*[each.to(device) for each in inputs])
    return int(counter.get_total_flops()) // 2


@contextmanager
def _unfused() -> Iterator[None]:
    """Fused kernels that the counter has no formula for stay unused."""
    flags = torch.backends.mkldnn
    before = flags.set_flags(_enabled=False, _fp32_precision=None)[0]  # type: ignore[no-untyped-call]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        flags.set_flags(_enabled=before, _fp32_precision=None)  # type: ignore[no-untyped-call]


class MetaCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts as torch's own counter does, without taking operators apart that it has no formula for.

    The meta device works out most shapes by running the operator in Python (6 ms for one bilinear upsampling, where a convolution
    takes 0.05): what the commonest answer is told here from their arguments.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        shape = _SHAPES.get(func)
        out = None if shape is None else shape(*args, **kwargs)
        if out is None:
            out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        return out


# What an operator answers, as empty tensors. None = it is asked itself: what is unusual, and what does not fit and is to raise.


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return torch.empty_like(x) if x.is_floating_point() else None


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return x if x.is_floating_point() else None


def _pair(a: Any, b: Any, **_: Any) -> Tensor | None:
    return torch.empty_like(a) if _is_alike(a, b) else None


def _first_of_pair(a: Any, b: Any, **_: Any) -> Tensor | None:
    return a if _is_alike(a, b) else None


def _is_alike(a: Any, b: Any) -> bool:
    """Whether nothing is broadcast or cast: two equal tensors, or a tensor and a number."""
    if not (isinstance(a, Tensor) and a.is_floating_point()):
        return False
    if isinstance(b, Tensor):
        return (b.shape, b.dtype, b.stride()) == (a.shape, a.dtype, a.stride())
    return isinstance(b, int | float)


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor | None:
    return torch.empty_like(x) if x.is_floating_point() and not half_to_float and -x.dim() <= dim < x.dim() else None


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> tuple[Tensor, ...] | None:
    own = [each for each in (weight, bias, mean, var) if each is not None]
    if training or x.dim() < 2 or any(each.shape != x.shape[1:2] or each.dtype != x.dtype for each in own):
        return None
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


def _layer_norm(x: Tensor, over: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Tensor, ...] | None:
    own = [each for each in (weight, bias) if each is not None]
    wrong = any(each.shape != torch.Size(over) or each.dtype != x.dtype for each in own)
    if wrong or x.shape[-len(over) :] != torch.Size(over) or not x.is_contiguous():
        return None
    rows = (*x.shape[: -len(over)], *(1 for _ in over))
    return torch.empty_like(x), x.new_empty(rows), x.new_empty(rows)


def _resized(x: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    if x.dim() != len(size) + 2 or min(size) < 1 or x.numel() == 0:
        return None
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if x.is_contiguous() == is_last:  # neither, or both
        return None
    kept = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=kept)


def _mm(a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.dim() == b.dim() == 2 and a.shape[1] == b.shape[0] and a.dtype == b.dtype
    return a.new_empty((a.shape[0], b.shape[1])) if fits else None


def _bmm(a: Tensor, b: Tensor) -> Tensor | None:
    fits = a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1] and a.dtype == b.dtype
    return a.new_empty((a.shape[0], a.shape[1], b.shape[2])) if fits else None


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> Tensor | None:
    fits = bias.dtype == a.dtype and bias.dim() == 1 and b.dim() == 2 and bias.shape[0] == b.shape[1]
    return _mm(a, b) if fits else None


_UNARY = (
    "relu",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "leaky_relu",
    "elu",
    "mish",
)
_UPSAMPLINGS = ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d")
_SHAPES: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, name).default: _same for name in (*_UNARY, "exp", "sqrt", "rsqrt", "neg")},
    **{getattr(aten, f"{name}_").default: _itself for name in _UNARY},
    **{getattr(aten, name).Tensor: _pair for name in ("add", "sub", "mul", "div")},
    **{getattr(aten, name).Tensor: _first_of_pair for name in ("add_", "sub_", "mul_", "div_")},
    **{getattr(aten, f"upsample_{way}").default: _resized for way in _UPSAMPLINGS},
    aten._softmax.default: _softmax,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.addmm.default: _addmm,
}
