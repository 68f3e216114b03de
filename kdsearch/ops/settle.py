"""Weights that are computed from others (`torch.nn.utils.parametrize`): what they compute for good, and the ones behind them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def settle(module: nn.Module) -> None:
    """In place: afterwards an ordinary network answers as the parametrised one did."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def lend(plain: nn.Module, module: nn.Module) -> None:
    """`plain` gets the module's own parameters, of parametrised weights those behind: what changes in one changes in the other.

    plain: the same network without parametrisations.
    """
    for path, layer in plain.named_modules():
        own: Any = module.get_submodule(path)
        for name, _ in list(layer.named_parameters(recurse=False)):
            is_computed = parametrize.is_parametrized(own, name)
            setattr(layer, name, own.parametrizations[name].original if is_computed else getattr(own, name))
