"""Whether a cut network is the network with zeros: computed both ways, at every cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdsearch.builtin.channels.copies import copied
from kdsearch.builtin.channels.surgery import Cut, Gone, cut_copy, cut_of, guesses_of, masked_copy
from kdsearch.builtin.channels.tracing import Inputs, Traced, tensors_of
from kdsearch.kit.streams import stream
from kdsearch.ops.attention import plain_attention

aten = torch.ops.aten
DOUBTED = 4  # guesses of which each is left out once, where a cut that is not the last one fails with all of them
# allowed difference over the outputs' largest value; another order of sums gives about 1e-14 and 1e-6
ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4}


def exact_cut(
    module: nn.Module,
    opened: nn.Module,
    trace: Traced,
    gone: Gone,
    probes: Sequence[Inputs],
    dtype: torch.dtype,
    is_final: bool = False,
) -> tuple[Cut, str]:
    """What is to be cut where `gone` goes, and what is wrong with it: empty where the cut is exact and trains.

    Numbers of modules that are guessed follow only where it is not exact otherwise.

    Args:
        opened: the module as it was traced.
        dtype: see `precision`.
        is_final: of the guesses only those follow without which the cut is not exact, a check each.
    """

    def wrong_of(cut: Cut) -> str:
        differs = next((each for inputs in probes if (each := difference(module, cut, inputs, dtype))), "")
        return differs or untrained(module, cut, probes[0])

    cut = cut_of(opened, trace, gone)
    wrong = wrong_of(cut)
    guesses = guesses_of(opened, trace, gone) if wrong else []
    if not guesses:
        return cut, wrong
    cut = cut_of(opened, trace, gone, guesses)
    wrong = wrong_of(cut)
    for each in guesses if len(guesses) > 1 and (is_final or (wrong and len(guesses) <= DOUBTED)) else ():
        fewer = [one for one in guesses if one != each]
        if not wrong_of(tried := cut_of(opened, trace, gone, fewer)):
            cut, guesses, wrong = tried, fewer, ""
    return cut, wrong


def untrained(module: nn.Module, cut: Cut, inputs: Inputs) -> str:
    """Why the cut network cannot run in training mode where the whole one can, by a branch that runs in training alone."""
    with torch.random.fork_rng([]), torch.no_grad():
        try:
            cut_copy(module, cut).train()(*inputs)
        except Exception as error:
            try:
                masked_copy(module, cut).train()(*inputs)
            except Exception:  # nor does the whole one, for a reason of its own
                return ""
            return f"the cut network does not run in training: {_said(error)}"[:200]
    return ""


def precision(module: nn.Module, probes: Sequence[Inputs]) -> torch.dtype:
    """What cuts are compared in: double where the network runs in it, else single, since it may hold to a precision of its own."""
    whole = copied(module, lambda _, tensor: _as(torch.float64, tensor).clone())
    try:
        for inputs in probes:
            _answers(whole, inputs, torch.float64)
    except Exception:  # a network may refuse numbers that it does not expect in any way
        return torch.float32
    return torch.float64


def redrawn(module: nn.Module) -> nn.Module:
    """A copy with weights drawn anew, in which no branch is hidden by weights that happen to be zero."""
    return copied(module, lambda name, each: _drawn(name, each) if each.is_floating_point() else each.clone())


def difference(module: nn.Module, cut: Cut, inputs: Inputs, dtype: torch.dtype = torch.float64) -> str:
    """Empty where the cut network answers as the masked one does, else what is different.

    Masked: zeros in every weight, bias and statistic of what goes, and norms (layer, group, RMS) that look at what stays only.
    Compared in `dtype`.
    """
    try:
        return _compared(module, cut, inputs, dtype)
    except Exception as error:  # a network may fail in any way when its widths no longer fit
        return f"the cut network does not run: {_said(error)}"[:200]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _as(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _answers(module: nn.Module, inputs: Inputs, dtype: torch.dtype) -> list[Tensor]:
    with torch.random.fork_rng([]), torch.no_grad(), plain_attention():
        return tensors_of(module.eval()(*(_as(dtype, each) for each in inputs)))


def _compared(module: nn.Module, cut: Cut, inputs: Inputs, dtype: torch.dtype) -> str:
    small = cut_copy(module, cut, lambda _, tensor: _as(dtype, tensor))
    answer = _answers(small, inputs, dtype)
    whole = masked_copy(module, cut, lambda _, tensor: _as(dtype, tensor))
    stay = {
        parameter.data_ptr(): _stay(cut, name, parameter)
        for name, parameter in whole.named_parameters()
        if (name, 0) in cut.slices and parameter.dim() == 1
    }
    with _KeptNorms(stay):
        expected = _answers(whole, inputs, dtype)
    if [each.shape for each in answer] != [each.shape for each in expected]:
        return (
            f"answers of {[list(each.shape) for each in answer]} instead of {[list(each.shape) for each in expected]}"
        )
    for one, other in zip(answer, expected, strict=True):
        if not bool(torch.isfinite(other).all()):
            return "the answers are not finite"
        scale, far = (
            float(other.abs().max()) if other.numel() else 0.0,
            float((one - other).abs().max()) if other.numel() else 0.0,
        )
        if not far <= ALLOWED[dtype] * scale:
            return f"the cut network differs from the masked one by {far / scale if scale else far:.2g} of its answers"
    return ""


def _stay(cut: Cut, name: str, parameter: Tensor) -> Tensor:
    return torch.from_numpy(np.delete(np.arange(len(parameter)), cut.slices[name, 0]))


def _drawn(name: str, tensor: Tensor) -> Tensor:
    """Values of the usual scale that depend on the name alone."""
    if tensor.dim() > 1:
        return torch.randn(tensor.shape, generator=stream(0, "redrawn", name)) / math.sqrt(max(tensor[0].numel(), 1))
    drawn = torch.rand(tensor.shape, generator=stream(0, "redrawn", name))
    return drawn.add(-0.5 if name.endswith(("bias", "mean")) else 0.5)


class _KeptNorms(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Norms over channels of which some go are taken over those that stay, by the norm's weight."""

    def __init__(self, stay: Mapping[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stay = stay

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.native_layer_norm.default and (stay := self._of(args[2])) is not None:
            x, _, weight, bias, eps = args
            small = func(x[..., stay], [len(stay)], weight[stay], None if bias is None else bias[stay], eps)
            return self._spread(x, stay, -1, small)
        if func is aten._fused_rms_norm.default and (stay := self._of(args[2])) is not None:
            x, _, weight, eps = args
            return self._spread(x, stay, -1, func(x[..., stay], [len(stay)], weight[stay], eps))
        if func is aten.native_group_norm.default and (stay := self._of(args[1])) is not None:
            x, weight, bias, n, _, places, groups, eps = args
            part = x[:, stay].contiguous()
            small = func(part, weight[stay], None if bias is None else bias[stay], n, len(stay), places, groups, eps)
            return self._spread(x, stay, 1, small)
        return func(*args, **kwargs)

    def _of(self, weight: Any) -> Tensor | None:
        return self._stay.get(weight.data_ptr()) if isinstance(weight, Tensor) else None

    def _spread(self, x: Tensor, stay: Tensor, dim: int, small: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.zeros_like(x).index_copy(dim, stay, small[0]), *small[1:]
