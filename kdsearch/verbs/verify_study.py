"""A file's quality on the test split of a study: that which it is of, or another whose samples and answers are alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.engine.measured import values_of
from kdsearch.errors import DataError, RefusedError, StudyError, UserError
from kdsearch.kinds import Call, Ends, Exporter, Graph, Product

if TYPE_CHECKING:
    from kdsearch.training.materials import Materials

Tensors = Mapping[str, tuple[str, list[int | None]]]  # name -> type and sizes without B, None where one is open


def of_study(
    file: Path,
    card: Mapping[str, Any],
    data: Path,
    allow_code: tuple[str, ...],
    exporter: Exporter[Any] | None,
    stated: str | None,
) -> tuple[str, float, int | None]:
    """What the card states of the file's quality, or else the study's objective, on the study's test split.

    How the file reads and answers is the card's to say: the study may have been changed since.

    Raises:
        UserError: the study's samples are not what the file reads, its answers are others, or nothing there measures `stated`.
    """
    import torch
    from torch import nn

    from kdsearch.engine.setup import Evaluator
    from kdsearch.host import Host
    from kdsearch.kinds import Batch, Model
    from kdsearch.stages.ends import around, decides_alone
    from kdsearch.study.reading import load_study
    from kdsearch.training.materials import open_materials
    from kdsearch.verbs.finished import study_of

    host = Host.load()
    study = study_of(data, host, allow_code) if os.path.isdir(data) else load_study(data, host, allow_code)
    materials = open_materials(study, host)
    role = next(iter(materials.study.students))
    names, read = tuple(each.name for each in materials.io.inputs), tuple(_stated(card, "inputs"))
    try:
        model = Model(nn.Identity(), read if read and {*read} <= {*names} else names, name=role)
        product = materials.task.product(model, materials.io)
    except Exception as error:  # a task that takes the network apart needs the network
        raise RefusedError("this task's answers need several graphs together") from error
    if len(product.graphs) != 1:
        raise RefusedError(f"an answer takes {len(product.graphs)} graphs together")
    ends = _inside(materials, product, card)
    product = around(product, ends)
    _check_fits(product, card)
    name = stated or materials.objective
    metric = materials.reported.get(name)
    if metric is None:
        problem = f"the card states {name}, and the study measures {', '.join(materials.reported)}"
        raise UserError(problem, path="--data", expected=f"a study that measures {name}")
    if decides_alone(ends) and metric.reads_scores:
        problem = f"a file that answers the class alone has no {name}"
        raise UserError(problem, path="--data", expected="a study whose objective is decided, such as accuracy")
    (graph,) = product.graphs.values()
    opened = _session_call(file, graph) if exporter is None else exporter.load(file)
    calls = dict.fromkeys(product.graphs, _naming_the_file(opened, file))

    def predict(batch: Batch) -> Mapping[str, Any]:
        return product.call(calls, batch)

    services = Evaluator(
        seed=materials.seed,
        base=materials.study.folder,
        task=materials.task,
        data=materials.data,
        io=materials.io,
        metrics=materials.metrics,
        device=torch.device("cpu"),
    )
    values = values_of(name, metric, predict, materials.data, "test", services)
    return name, float(values[name]), int(values["n"]) if "n" in values else None


def _inside(materials: Materials, product: Product, card: Mapping[str, Any]) -> dict[str, Ends]:
    """What the file does before and after its network. Raise UserError where the study's networks cannot be used so."""
    from kdsearch.stages.ends import ends_of
    from kdsearch.study.schema import Use

    if not (inside := (card.get("use") or {}).get("inside")):
        return {}
    writer = card.get("exporter") or materials.study.config.export.exporter.use
    try:
        made = materials.make("exporter", Use(use=str(writer), options=dict(inside)), "export.exporter")
        return ends_of(made, product, materials.data.facts)
    except StudyError as error:
        said = ", ".join(f"{name} {value}" for name, value in inside.items())
        problem = f"the file is of {said}, which does not fit the study: {error.problem}"
        raise UserError(problem, path="--data", expected=error.expected) from error


def _stated(card: Mapping[str, Any], side: str) -> Tensors:
    """Inputs or outputs as the card has them."""
    told = (card.get("use") or {}).get(side) or ()
    sizes = {each["name"]: [size if isinstance(size, int) else None for size in each["shape"][1:]] for each in told}
    return {each["name"]: (str(each.get("dtype", "float32")), sizes[each["name"]]) for each in told}


def _check_fits(product: Product, card: Mapping[str, Any]) -> None:
    """Raise UserError where a file of the study would read or answer something else. A size that either leaves open fits."""
    (graph,) = product.graphs.values()
    own = {
        "inputs": {each.name: (each.dtype, [*each.shape]) for each in graph.inputs},
        "outputs": {
            name: (each.dtype, [*each.shape]) for name, each in zip(graph.names_out, graph.outputs, strict=True)
        },
    }
    for side, verb in (("inputs", "reads"), ("outputs", "answers")):
        told = _stated(card, side)
        if {*told} != {*own[side]} or any(not _alike(told[name], own[side][name]) for name in told):
            raise UserError(
                f"a file of the study {verb} {_in_words(own[side])}, and this one {_in_words(told)}",
                path="--data",
                expected="the study that the file is of, or one whose samples and answers are alike",
            )


def _alike(one: tuple[str, list[int | None]], other: tuple[str, list[int | None]]) -> bool:
    sizes = one[1], other[1]
    return (
        one[0] == other[0]
        and len(sizes[0]) == len(sizes[1])
        and all(a == b or None in (a, b) for a, b in zip(*sizes, strict=True))
    )


def _in_words(tensors: Tensors) -> str:
    return ", ".join(
        f"{name} ({' x '.join(['any' if size is None else str(size) for size in sizes]) or 'one number'}, {dtype})"
        for name, (dtype, sizes) in tensors.items()
    )


def _session_call(file: Path, graph: Graph) -> Call:
    """The file in onnxruntime, answering by the names of the graph's outputs."""
    import torch

    session = open_session(file, 1, read_onnx(file))
    inputs = [each.name for each in graph.inputs]
    outputs = [each.name for each in session.get_outputs()]
    named = dict(zip(graph.names_out, (each.name for each in graph.outputs), strict=True))

    def call(*tensors: Any) -> dict[str, Any]:
        feeds = {name: each.numpy() for name, each in zip(inputs, tensors, strict=True)}
        found = zip(outputs, session.run(None, feeds), strict=True)
        return {named.get(name, name): torch.from_numpy(each) for name, each in found}

    return call


def _naming_the_file(call: Call, file: Path) -> Call:
    """Raise DataError where the file fails."""

    def answer(*tensors: Any) -> Mapping[str, Any]:
        try:
            return call(*tensors)
        except Exception as error:  # whatever a runtime raises at a shape
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            problem = f"the file fails at the study's samples: {reason}"
            raise DataError(problem, file=file) from error

    return answer
