"""What a training delivers: one product of the procedure's own, or one for each role that it ships."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from kdsearch.deploy.parity import module_call
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import PluginError
from kdsearch.kinds import Batch, Call, Carries, Field, Graph, Model, Procedure, Product
from kdsearch.limits import NAME, NAME_IN_WORDS
from kdsearch.store.hashing import derive, stream
from kdsearch.training.adapted import adapts
from kdsearch.training.finished import Finished
from kdsearch.training.materials import Materials
from kdsearch.training.request import Request
from kdsearch.training.train import staged


@dataclass(frozen=True)
class Shipped:
    """One product, ready to export on the CPU.

    Args:
        role: of several that ship by themselves; "" where there is one product.
        models: role -> model, of those that it is made of.
        calls: graph -> the torch network.
    """

    role: str
    product: Product
    models: Mapping[str, Model]
    calls: Mapping[str, Call]

    def predict(self, batch: Batch) -> Mapping[str, Any]:
        return self.product.call(self.calls, batch)

    def named(self, name: str) -> str:
        """`name` beside the role."""
        return f"{self.role} {name}" if self.role else name


def shipped(materials: Materials, setup: LiveSetup, procedure: Procedure[Any]) -> list[Shipped]:
    """The procedure's own product, else the task's of every role that ships, with the files that the data carry along.

    Models are moved to the CPU, in eval mode.
    """
    models = {role: setup.models[role] for role in procedure.shipped()}
    for model in models.values():
        model.module.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    source = materials.data.source
    carried = source.files() if isinstance(source, Carries) else {}
    own = procedure.product(setup)
    if own is not None:
        return [_shipped("", own, models, carried)]
    many = len(models) > 1
    return [
        _shipped(role if many else "", materials.task.product(model, materials.io), {role: model}, carried)
        for role, model in models.items()
    ]


def _shipped(role: str, product: Product, models: Mapping[str, Model], carried: Mapping[str, bytes]) -> Shipped:
    if twice := sorted({*product.files} & {*carried}):
        raise PluginError(f"product and data set both have a file '{twice[0]}'", expected="another name")
    product = replace(product, files={**product.files, **carried})
    for name in [*product.graphs, *product.files]:
        if not re.fullmatch(NAME, name):
            raise PluginError(f"the product names '{name}'", expected=NAME_IN_WORDS)
    for graph in product.graphs.values():
        graph.module.cpu().eval()
    return Shipped(role, product, models, {name: module_call(graph) for name, graph in product.graphs.items()})


def has_own_product(materials: Materials) -> bool:
    """Whether the study's procedure has a say in what is delivered: it makes the product, or changes the models."""
    cls: type[Procedure[Any]] = materials.host.load_class("procedure", materials.study.config.recipe.procedure.use)
    return cls.product is not Procedure.product or adapts(cls)


def fresh_product(materials: Materials, role: str, spec: Mapping[str, Any], folder: Path) -> Shipped:
    """What would be delivered of a fresh student, for costs. Of several students that ship together, its own graphs alone."""
    if tuple(materials.study.students) == (role,) and has_own_product(materials):
        found = fresh_student(materials, role, spec, folder)
        made = shipped(materials, found.setup, found.procedure)[0]
    else:
        model = materials.build_student(role, spec, derive(materials.seed, "cost"))
        made = _shipped("", materials.task.product(model, materials.io), {role: model}, {})
    scatter(nn.ModuleList(each.module for each in made.product.graphs.values()), stream(materials.seed, "scatter"))
    return made


def fresh_student(materials: Materials, role: str, spec: Mapping[str, Any], folder: Path) -> Finished:
    """A study's one student as it would ship, with fresh weights."""
    request = Request("cost", "cost", {role: spec}, materials.recipe.default(), 1)
    procedure, setup = staged(materials, request, {}, folder, derive(materials.seed, "cost"))
    return Finished(setup, procedure)


def scatter(module: nn.Module, rng: torch.Generator) -> None:
    """Move biases, scales, norms' statistics and other weights that begin as equal numbers from where they begin, in place.

    Training does so, and of a file it is a part of the costs: exporters store equal tensors once.
    """
    with torch.no_grad():
        for each in module.parameters():
            if each.requires_grad and (each.dim() < 2 or bool((each == each.flatten()[:1]).all())):
                moves = 0.1 * torch.randn(each.shape, generator=rng)
                each.copy_(torch.where(each == 0, moves, each * (1 + moves)))
        for norm in module.modules():
            if isinstance(norm, _NormBase) and norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=rng))
                norm.running_var.copy_(0.5 + 1.5 * torch.rand(norm.running_var.shape, generator=rng))


def described(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """Its inputs and outputs as JSON, by the names that a file has for them."""
    return {
        "inputs": [_described(each, each.name) for each in graph.inputs],
        "outputs": [_described(each, name) for each, name in zip(graph.outputs, graph.names_out, strict=True)],
    }


def _described(field: Field, name: str) -> dict[str, Any]:
    return {"name": name, "kind": field.kind, "shape": list(field.shape), "dtype": field.dtype}
