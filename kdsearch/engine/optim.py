"""Optimisers from their declaration: parameter groups by glob, learning rates as functions of progress."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdsearch.kinds import Distiller, Optim, Schedule
from kdsearch.kinds.distiller import check_factors
from kdsearch.kinds.phase import Factor


def factor_at(factor: Factor, progress: float) -> float:
    return factor(progress) if callable(factor) else factor


def scheduled(optim: Optim, progress: float) -> float:
    """The schedule's factor on lr at progress in [0, 1)."""
    return (optim.schedule if callable(optim.schedule) else Schedule(optim.schedule))(progress)


@dataclass
class Bound:
    """A live optimiser: its declaration, torch's object, and names and parameters in a fixed order."""

    declared: Optim
    torch: Any
    parameters: Mapping[str, nn.Parameter]

    def set_rates(self, progress: float) -> None:
        base = self.declared.lr * scheduled(self.declared, progress)
        for group in self.torch.param_groups:
            group["lr"] = base * factor_at(group["factor"], progress)


def declared_factors(optim: Optim) -> dict[str, Factor]:
    """Glob -> factor on lr that the distillers among the modules declare, whoever made the optimiser."""
    return {
        f"{key}.{glob}": factor for key, module in optim.modules.items() for glob, factor in factors_of(module).items()
    }


def factors_of(module: nn.Module) -> dict[str, Factor]:
    """Glob on the module's parameters -> factor on lr that it declares, where it is a distiller, and distillers within it do.

    Raises PluginError where one declares what is no factor of its own parameters.
    """
    found: dict[str, Factor] = {}
    for path, part in module.named_modules():
        if isinstance(part, Distiller):
            check_factors(part)
            found |= {f"{path}.{glob}" if path else glob: factor for glob, factor in part.lr_factors().items()}
    return found


def bind(optim: Optim) -> Bound:
    """Parameters that require a gradient now, but for those whose factor is 0: they are frozen and in no group.

    What `scale` does not say of a distiller's own parameters, the distiller does (`lr_factors`).

    Biases and norms (one dimension) get no weight decay. A parameter in two modules counts once.

    Raises ValueError when nothing is left to train, or when a glob of `scale` matches no parameter, PluginError as `factors_of`.
    """
    names = [f"{key}.{name}" for key, module in optim.modules.items() for name, _ in module.named_parameters()]
    declared = declared_factors(optim)
    scale = {**optim.scale, **{glob: factor for glob, factor in declared.items() if glob not in optim.scale}}
    for glob in scale:
        if not any(fnmatch.fnmatchcase(name, glob) for name in names):
            raise ValueError(
                f"optimiser '{optim.name}': scale '{glob}' matches no parameter, such as {', '.join(names[:3])}"
            )
    named: dict[str, nn.Parameter] = {}
    groups: dict[tuple[Any, bool], dict[str, Any]] = {}
    taken: set[int] = set()
    for key, module in optim.modules.items():
        for name, parameter in module.named_parameters():
            full = f"{key}.{name}"
            if id(parameter) in taken or not parameter.requires_grad:
                continue
            factor = next((each for glob, each in scale.items() if fnmatch.fnmatchcase(full, glob)), 1.0)
            if not callable(factor) and factor == 0:
                continue
            taken.add(id(parameter))
            named[full] = parameter
            decays = parameter.ndim > 1
            group = groups.setdefault(
                (factor, decays),
                {"params": [], "factor": factor, "weight_decay": optim.weight_decay if decays else 0.0},
            )
            group["params"].append(parameter)
    if not named:
        raise ValueError(
            f"optimiser '{optim.name}' has no parameter to train in {', '.join(optim.modules) or 'no module'}"
        )
    ordered = list(groups.values())
    made: torch.optim.Optimizer
    if optim.kind == "sgd":
        made = torch.optim.SGD(ordered, lr=optim.lr, momentum=optim.momentum, nesterov=optim.momentum > 0)
    elif optim.kind == "adam":
        made = torch.optim.Adam(ordered, lr=optim.lr)
    else:
        made = torch.optim.AdamW(ordered, lr=optim.lr)
    return Bound(optim, made, named)
