"""Branches that add up in training and are one layer afterwards (RepVGG, MobileOne, FastViT): folded for a file.

A module says how by a method without arguments: `fuse`, `reparameterize` or `switch_to_deploy`, as in timm. It changes the module,
or answers with what takes its place.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["folded", "folds"]

_HOOKS = ("fuse", "reparameterize", "switch_to_deploy")
_NEAR = 1e-4  # largest difference of answers over their largest value: folding only orders sums anew


def folds(module: nn.Module) -> bool:
    """Whether any part of it says how it is folded."""
    return any(_hook(part) for part in module.modules())


def folded(module: nn.Module, inputs: Sequence[Tensor]) -> nn.Module:
    """A copy in eval mode with every branch folded; `module` itself where it has none, or where a folded copy answers differently.

    Args:
        inputs: what both are compared on.
    """
    if not folds(module):
        return module
    # new layers draw their weights before they get those of the branches
    with torch.random.fork_rng([]), torch.no_grad():
        try:
            whole = copy.deepcopy(module).eval()
            small = _visited(copy.deepcopy(whole))
            answers = list(zip(_tensors(small(*inputs)), _tensors(whole(*inputs)), strict=True))
        except Exception:  # foreign code in a state that it was not written for
            return module
    for one, other in answers:
        a, b = one.double(), other.double()
        if a.shape != b.shape or not bool(((a - b).abs() <= _NEAR * b.abs().amax()).all()):
            return module
    return small


def _visited(part: nn.Module) -> nn.Module:
    hook = _hook(part)
    if hook:
        tried = copy.deepcopy(part)  # a method that fails half-way leaves its part as it was
        try:
            made = getattr(tried, hook)()
        except Exception:  # foreign code: what it cannot fold stays, and its parts are tried
            pass
        else:
            return made if isinstance(made, nn.Module) else tried
    for name, child in part.named_children():
        now = _visited(child)
        if now is not child:
            setattr(part, name, now)
    return part


def _hook(part: nn.Module) -> str:
    for name in _HOOKS:
        method: Callable[..., Any] | None = getattr(part, name, None)
        if inspect.ismethod(method):
            needed = [
                each
                for each in inspect.signature(method).parameters.values()
                if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            ]
            if not needed:
                return name
    return ""


def _tensors(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, Mapping):
        return [found for each in answer.values() for found in _tensors(each)]
    if isinstance(answer, list | tuple):
        return [found for each in answer for found in _tensors(each)]
    return []
