"""Whether a proxy has changed a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Trace:
    """A module's state as it is now: weights, buffers, gradients, mode and `requires_grad` flags, submodules, hooks.

    Values are compared, not version counters: writes through `.data` do not count as a new version.
    """

    def __init__(self, module: nn.Module) -> None:
        self._tensors = [(name, tensor, tensor.detach().clone()) for name, tensor in _tensors(module)]
        self._shape = _shape(module)

    def unchanged(self, module: nn.Module) -> bool:
        """Whether `module` is in that state, bit by bit. A NaN counts as changed."""
        now = list(_tensors(module))
        return (
            len(now) == len(self._tensors)
            and _shape(module) == self._shape
            and all(
                name == known and tensor is held and tensor.shape == saved.shape and torch.equal(tensor, saved)
                for (known, held, saved), (name, tensor) in zip(self._tensors, now, strict=True)
            )
        )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _shape(module: nn.Module) -> list[Any]:
    parts = [
        (
            name,
            type(part),
            id(part),
            part.training,
            part.__dict__.get("forward"),
            *(len(getattr(part, h)) for h in _HOOKS),
        )
        for name, part in module.named_modules()
    ]
    weights = [(name, each.requires_grad, each.grad is None, each.dtype) for name, each in module.named_parameters()]
    return [parts, weights]
