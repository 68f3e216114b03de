"""What a training leaves behind: the weights of its models, where these alone say what it became."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import UserError
from kdsearch.kinds import Model, Procedure
from kdsearch.store.weights import write

FINAL = "final.safetensors"  # in a training's folder: `<role>/<name>` -> tensor

Structure = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Built:
    """A training's models as they were assembled, before its first phase. `plain`: the task makes the product of them."""

    models: Mapping[str, tuple[Model, nn.Module, Structure]]
    plain: bool

    @classmethod
    def of(cls, setup: LiveSetup, procedure: Procedure[Any]) -> Built:
        models = {role: (model, model.module, structure(model.module)) for role, model in setup.models.items()}
        return cls(models, type(procedure).product is Procedure.product)

    def keep(self, setup: LiveSetup, folder: Path, owner: str) -> None:
        """Write the weights, unless phases changed a structure or a product is made by the procedure: then they are run again."""
        now = {role: setup.models.get(role) for role in self.models}
        same = all(
            now[role] is model and model.module is module and structure(module) == shapes
            for role, (model, module, shapes) in self.models.items()
        )
        if self.plain and same:
            tensors = {
                f"{role}/{name}": tensor
                for role, (model, _, _) in self.models.items()
                for name, tensor in model.module.state_dict().items()
            }
            write(folder / FINAL, tensors, {"owner": owner})


def structure(module: nn.Module) -> Structure:
    """Name -> shape of every tensor of its state. Raise UserError where that holds anything else."""
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            problem = f"'{name}' of the network's state is a {type(value).__name__}"
            raise UserError(problem, expected="tensors alone: no file of weights holds what get_extra_state gives")
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
