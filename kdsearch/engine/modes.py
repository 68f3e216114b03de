"""Who trains, who is frozen and where: gradients and train or eval mode, set by a phase and given back after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from kdsearch.kinds import Phase


@contextmanager
def gradients_given_back(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards each parameter requires a gradient as before, so that a phase's freezing does not outlast it."""
    flags = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every submodule has its own mode again (frozen norms in a training network stay frozen)."""
    flags = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, flag in flags:
            part.training = flag


def freeze_all_but(held: Mapping[str, nn.Module], moved: set[int]) -> None:
    """Only the parameters with these ids require a gradient."""
    for module in held.values():
        for parameter in module.parameters():
            if parameter.requires_grad != (id(parameter) in moved):
                parameter.requires_grad_(id(parameter) in moved)


def set_modes(phase: Phase, held: Mapping[str, nn.Module], moved: set[int]) -> None:
    """Train mode for what an optimiser names, but for `keep_eval` and for parts whose every parameter is frozen."""
    for module in held.values():
        module.eval()
    for optim in phase.train:
        for module in optim.modules.values():
            module.train()
            _frozen_parts_to_eval(module, moved)
    for module in phase.keep_eval:
        module.eval()


def _frozen_parts_to_eval(module: nn.Module, moved: set[int]) -> None:
    parameters = list(module.parameters())
    if not parameters:
        return
    if not any(id(parameter) in moved for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _frozen_parts_to_eval(child, moved)
