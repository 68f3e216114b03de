"""Finished trainings: what became of a request, read from its folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdsearch.engine.cache import Live
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import ArtifactError
from kdsearch.kinds import Model, Procedure, Product
from kdsearch.store.weights import load_into, read, read_metadata
from kdsearch.training.built import FINAL
from kdsearch.training.materials import Materials
from kdsearch.training.request import Request, owner_of, seed_of
from kdsearch.training.train import staged, train


@dataclass(frozen=True)
class Finished:
    """A trained procedure with its models in eval mode, and services to measure them by."""

    setup: LiveSetup
    procedure: Procedure[Any]

    @property
    def role(self) -> str:
        """The first one that ships."""
        return self.procedure.shipped()[0]

    @property
    def model(self) -> Model:
        return self.setup.models[self.role]

    def product(self) -> Product:
        """The procedure's own, else the task's of the first role that ships."""
        own = self.procedure.product(self.setup)
        return own or self.setup.task.product(self.model, self.setup.io)


def load_finished(
    materials: Materials, request: Request, folder: Path, teachers: Mapping[str, Live] | None = None
) -> Finished:
    """Models in the request's architectures with the weights that `folder` holds: no teacher is run and no distiller built.

    A training whose phases changed a model's structure, or whose procedure makes the product itself, is run through its finished
    phases instead, which takes its teachers.

    Raises:
        ArtifactError: not finished, damaged, or of another request.
    """
    seed, given = seed_of(materials, request), teachers or {}
    file = folder / FINAL
    if not file.exists():
        outcome, setup, procedure = train(materials, request, folder, given)
        if not outcome.done:
            raise ArtifactError("a training that is not finished", file=folder)
        return Finished(setup, procedure)
    if read_metadata(file).get("owner") != owner_of(materials, request):
        raise ArtifactError("is of another study or recipe", file=file, fix="Delete it; the stage starts anew.")
    procedure, setup = staged(materials, request, given, folder, seed)
    tensors = read(file)
    for role, model in setup.models.items():
        load_into(model.module, _of(role, tensors), file)
        model.module.to(setup.device).eval()
    return Finished(setup, procedure)


def _of(role: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{role}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def keep_finished(source: Path, target: Path) -> None:
    """All that `load_finished` reads: the weights, else the finished phases; and the values that procedures stored."""
    target.mkdir(parents=True, exist_ok=True)
    weights = FINAL if (source / FINAL).exists() else "phase-"
    for file in sorted(source.iterdir()):
        if file.name.startswith((weights, "once-")) and ".best." not in file.name:
            shutil.copyfile(file, target / file.name)
