"""What a call needs of memory beside the weights: the most that its values take up at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kdsearch.deploy.files import open_session, read_onnx, subgraphs


def peak_bytes(file: Path, inputs: Sequence[Tensor]) -> int:
    """The most bytes that inputs, intermediate values and outputs of one call take up at once.

    Of the graph as onnxruntime runs it (fused, without layouts of a certain processor), its nodes in order, each value from its
    node to the last one that reads it; inputs from the start, outputs to the end. Weights, and what follows from them alone, count
    nothing, nor does what a kernel takes for itself. A runtime that reuses memory needs this much; one that overwrites a node's
    input may need less. The sizes are those of a run, so they are of these inputs.

    Raises:
        ArtifactError: the file is none that onnxruntime runs.
    """
    model = _as_run(file)
    graph = model.graph
    fixed = _fixed(graph)
    made = [name for node in graph.node for name in node.output if name and name not in fixed]
    sizes = _sizes(model, [each for each in made if each not in _names(graph.output)], inputs)
    ends = _ends(graph, made)
    alive = {name for name in _names(graph.input) if name in sizes}
    now = most = sum(sizes[name] for name in alive)
    for at, node in enumerate(graph.node):
        born = {name for name in node.output if name in sizes}
        alive |= born
        now += sum(sizes[name] for name in born)
        most = max(most, now)
        dead = {name for name in alive if ends.get(name, 0) <= at}
        alive -= dead
        now -= sum(sizes[name] for name in dead)
    return most


def _as_run(file: Path) -> Any:
    """The graph after onnxruntime's optimisations that hold on every machine."""
    import onnxruntime as ort

    open_session(file)  # says what is wrong with it
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "as-run.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return read_onnx(target)


def _sizes(model: Any, inner: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, int]:
    """Name -> bytes of inputs, of outputs and of these inner values, by a run that gives all of them."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    weights = {each.name for each in model.graph.initializer}  # which older files list among the inputs
    read = [each.name for each in model.graph.input if each.name not in weights]
    fed = dict(zip(read, (each.detach().cpu().numpy() for each in inputs), strict=True))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, fed), strict=True))
    return {name: int(value.nbytes) for name, value in {**fed, **found}.items() if isinstance(value, np.ndarray)}


def _fixed(graph: Any) -> set[str]:
    """Weights, and values that follow from them alone: a runtime computes them once."""
    known = {each.name for each in graph.initializer}
    for node in graph.node:
        read = [name for name in (*node.input, *_read_inside(node)) if name]
        if node.op_type == "Constant" or (read and all(name in known for name in read)):
            known |= {*node.output}
    return known


def _ends(graph: Any, made: Sequence[str]) -> Mapping[str, int]:
    """Name -> the number of the last node that reads it; outputs outlive all. What nothing reads ends where it is made."""
    found = {name: at for at, node in enumerate(graph.node) for name in node.output}
    for at, node in enumerate(graph.node):
        for name in (*node.input, *_read_inside(node)):
            found[name] = at
    return found | dict.fromkeys(_names(graph.output), len(graph.node))


def _read_inside(node: Any) -> Iterator[str]:
    """Names that the graphs inside a node read."""
    for attribute in node.attribute:
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            for graph in subgraphs(inner):
                for each in graph.node:
                    yield from each.input


def _names(values: Sequence[Any]) -> list[str]:
    return [each.name for each in values]
