"""What compressors plan on: a finished student among the others, and its objective on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from kdsearch.deploy.cost import count
from kdsearch.engine.measured import values_of
from kdsearch.engine.setup import Evaluator, LiveSetup
from kdsearch.kinds import Cost, DataSource, Model, Procedure
from kdsearch.stages.costs import bounds
from kdsearch.stages.products import Shipped, shipped
from kdsearch.store.hashing import digest
from kdsearch.training.few_samples import FewSamples
from kdsearch.training.finished import Finished
from kdsearch.training.keys import SOURCE, declared
from kdsearch.training.materials import Materials
from kdsearch.training.sites import kept_in


@dataclass(kw_only=True)
class LiveSubject(Evaluator):
    """See `kdsearch.kinds.Subject`: what a plan for one role is made from; the other roles stay as they are."""

    role: str
    budget: Mapping[str, float]
    materials: Materials
    setup: LiveSetup
    procedure: Procedure[Any]

    @property
    def model(self) -> Model:
        return self.setup.models[self.role]

    def shipped(self, model: Model | None = None) -> Shipped:
        """The product that the role is part of, with another model in its place."""
        setup = replace(self.setup, models={**self.setup.models, self.role: model or self.model})
        return next(each for each in shipped(self.materials, setup, self.procedure) if self.role in each.models)

    def score(self, model: Model, samples: int | None = None) -> float:
        """The objective of the product on validation; higher is better."""
        name = self.materials.objective
        data: DataSource = self.data if samples is None else FewSamples(self.data, samples)
        value = values_of(name, self.metrics[name], self.shipped(model).predict, data, "val", self)[name]
        return value if self.metrics[name].direction == "max" else -value

    def cost(self, model: Model) -> Cost:
        return count(model, self.io)


def subject_of(materials: Materials, found: Finished, role: str, teachers: Mapping[str, Any]) -> LiveSubject:
    named = {**teachers, **({"teacher": next(iter(teachers.values()))} if teachers else {})}
    for model in found.setup.models.values():
        model.module.cpu()
    return LiveSubject(
        seed=materials.seed,
        base=materials.study.folder,
        memory=kept_in(materials, digest(["subject", declared(materials, (*SOURCE, "objective", "measured"))])),
        task=materials.task,
        data=materials.data,
        io=materials.io,
        models=found.setup.models,
        teachers=named,
        metrics=materials.metrics,
        device=torch.device("cpu"),
        role=role,
        budget=bounds(materials),
        materials=materials,
        setup=found.setup,
        procedure=found.procedure,
    )
