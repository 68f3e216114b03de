"""What a data recipe is handed beside its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kdsearch.engine.cache import Live
from kdsearch.engine.setup import Site
from kdsearch.errors import PluginError, nearest, one_of
from kdsearch.kinds import Batch, Outputs, Task
from kdsearch.store.hashing import derive


@dataclass
class RecipeSite(Site):
    """Services with the teachers that the recipe's options name; networks answer through `predict`."""

    teachers: Mapping[str, Live] = field(default_factory=dict)
    task: Task[Any] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def predict(self, model: str, batch: Batch, taps: Sequence[str] = ()) -> Outputs:
        if model not in self.teachers:
            near = nearest(model, self.teachers)
            problem = f"no network '{model}' that this recipe's options name"
            raise PluginError(problem, nearest=near, expected=one_of(self.teachers))
        live = self.teachers[model]
        live.model.module.to(self.device)
        seed = derive(self.seed, "view", model)
        return live.outputs(batch.to(self.device), live.names(taps), self.device, seed=seed)
