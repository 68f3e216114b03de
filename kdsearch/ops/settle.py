"""Weights that are computed from others (`torch.nn.utils.parametrize`) become, for good, what they compute."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def settle(module: nn.Module) -> None:
    """In place: afterwards an ordinary network answers as the parametrised one did."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
