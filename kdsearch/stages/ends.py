"""A product whose files hold more than its networks: the same product, as its files read and answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from kdsearch.deploy.parity import module_call
from kdsearch.errors import StudyError
from kdsearch.kinds import Batch, Call, Ends, Exporter, Model, Product
from kdsearch.stages.products import Shipped, has_own_product
from kdsearch.training.materials import Materials, placing


def ends_of(exporter: Exporter[Any], product: Product, facts: Mapping[str, Any]) -> dict[str, Ends]:
    """Graph -> what its file does before and after it; empty where files hold the networks alone.

    facts: the data's. Raise StudyError where the exporter's options do not fit.
    """
    told = facts.get("preprocessing") or {}
    found = {name: exporter.ends(graph, told) for name, graph in product.graphs.items()}
    if any(each is not None and each.own is None for each in found.values()):
        raise StudyError(
            "no metric of a study judges what such files answer",
            path="export.exporter.options.output",
            expected="raw; kdsearch compress writes files of boxes",
        )
    return {name: each for name, each in found.items() if each is not None}


def decides_alone(ends: Mapping[str, Ends]) -> bool:
    """Whether files answer a class in the place of its scores: what reads scores has no value of such files."""
    return any(each.is_class for end in ends.values() for each in end.graph.outputs)


def check_ends(materials: Materials) -> None:
    """Raise StudyError where the exporter cannot put into files what its options ask for: before any work, not after it."""
    exporter: Exporter[Any] = materials.make("exporter", materials.study.config.export.exporter, "export.exporter")
    if type(exporter).ends is Exporter.ends or has_own_product(materials):
        return
    names = tuple(each.name for each in materials.io.inputs)
    try:
        product = materials.task.product(Model(nn.Identity(), names, name="student"), materials.io)
    except Exception:  # a task that takes the network apart needs the network
        return
    with placing(materials.study, "export.exporter.options"):
        ends = ends_of(exporter, product, materials.data.facts)
        if decides_alone(ends) and materials.metrics[materials.objective].reads_scores:
            raise StudyError(
                f"files that answer the class alone have no {materials.objective}, which is the objective",
                path="export.exporter.options.output",
                expected="raw or probabilities, or an objective of what is decided, such as accuracy",
            )


def around(product: Product, ends: Mapping[str, Ends]) -> Product:
    """The product with the whole graphs: answered by calls of those, from what is prepared for the networks."""
    graphs = {name: ends[name].graph if name in ends else graph for name, graph in product.graphs.items()}

    def call(calls: Mapping[str, Call], batch: Batch) -> Mapping[str, Any]:
        inner = {name: ends[name].within(each) if name in ends else each for name, each in calls.items()}
        return product.call(inner, batch)

    return replace(product, graphs=graphs, call=call)


def shipped_with(part: Shipped, ends: Mapping[str, Ends]) -> Shipped:
    """What ships, as its files read and answer."""
    product = around(part.product, ends)
    calls = {name: module_call(graph) for name, graph in product.graphs.items()}
    return replace(part, product=product, calls=calls)
