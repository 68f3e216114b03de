"""ONNX files: read with a named error, stripped of what tells about the run, written whole, opened with onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdsearch.deploy.audit import is_quantised
from kdsearch.deploy.files import LARGEST, external_files, open_session, read_onnx, subgraphs, weights_in
from kdsearch.errors import RefusedError
from kdsearch.store.files import storing, write_bytes

HUGE = 1e18  # of a weight

__all__ = [
    "LARGEST",
    "anonymous",
    "as_proto",
    "edited",
    "external_files",
    "is_plain",
    "is_quantised",
    "open_model",
    "open_session",
    "raise_opset",
    "read_onnx",
    "save_onnx",
    "subgraphs",
    "weights_in",
]


def is_plain(values: Any) -> bool:
    """Whether a scale of few bits holds these numbers: they are finite, and so are their squares in fp32."""
    import numpy as np

    return bool(np.abs(values).max(initial=0) < HUGE)


def open_model(model: Any, outputs: Sequence[str] = ()) -> Any:
    """A session of a model in memory that also answers with these values of its own; one thread: sums in a fixed order."""
    import onnxruntime as ort
    from onnx import ValueInfoProto

    copy = type(model).FromString(model.SerializeToString())
    there = {each.name for each in copy.graph.output}
    copy.graph.output.extend(ValueInfoProto(name=name) for name in outputs if name not in there)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])


@contextmanager
def edited(model: Any) -> Iterator[Any]:
    """The model as `onnx_ir.Model`, whose values know who reads them; what is changed there is so in the model afterwards."""
    import onnx_ir as ir

    _make_dense(model)
    made = ir.from_proto(model)
    yield made
    model.CopyFrom(as_proto(made))


def as_proto(model: Any) -> Any:
    """`onnx.ModelProto` of an `onnx_ir.Model`, without shapes of what is between: onnxruntime infers them."""
    import onnx_ir as ir

    found = ir.to_proto(model)
    for graph in subgraphs(found.graph):
        del graph.value_info[:]
    return found


def raise_opset(model: Any, least: int) -> None:
    """Convert in place to the operator set that is needed, where the model's is older; afterwards weights are dense and no inputs,
    and nodes stand where functions were called.

    Raises:
        RefusedError: an operator has no newer form.
    """
    from onnx import inliner, version_converter

    if model.functions:
        model.CopyFrom(inliner.inline_local_functions(model))
    version = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), least)
    if version < least:
        try:
            model.CopyFrom(version_converter.convert_version(model, least))
        except Exception as error:  # of onnx's C++, which has no type for it
            reason = str(error).splitlines()[0][-200:]
            raise RefusedError(
                f"operator set {version} cannot be raised to {least}, which it takes: {reason}"
            ) from error
    _make_dense(model)
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]  # older files list weights there, too
    if len(inputs) < len(model.graph.input):
        copies = [type(each).FromString(each.SerializeToString()) for each in inputs]
        del model.graph.input[:]
        model.graph.input.extend(copies)


def _make_dense(model: Any) -> None:
    """Write what is stored as a sparse tensor with its zeros: neither onnx-ir nor a quantizer reads such."""
    for graph in subgraphs(model.graph):
        graph.initializer.extend(map(_dense, graph.sparse_initializer))
        del graph.sparse_initializer[:]
        for node in graph.node:
            for each in node.attribute:
                if each.HasField("sparse_tensor"):
                    each.name, each.type = "value", each.TENSOR
                    each.t.CopyFrom(_dense(each.sparse_tensor))
                    each.ClearField("sparse_tensor")


def _dense(tensor: Any) -> Any:
    """(values (N,), their places (N,) in the flat tensor or (N, axes) in it) -> the whole of it, of the same name."""
    import numpy as np
    from onnx import numpy_helper

    values, places = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
    whole = np.zeros(tuple(tensor.dims), values.dtype)
    whole[tuple(places.T) if places.ndim > 1 else np.unravel_index(places, whole.shape)] = values
    return numpy_helper.from_array(whole, tensor.values.name)


def save_onnx(model: Any, file: Path) -> None:
    """Write the model in one piece, the same bytes for an equal model; it imports the operator sets that it uses and no other.

    Raises:
        StorageError: the disk is full.
    """
    _import_used(model)
    with storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, model.SerializeToString(deterministic=True))


def _import_used(model: Any) -> None:
    """Drop operator sets that no node is of: some runtimes refuse a file for a set that they do not know."""
    used = {node.domain for graph in subgraphs(model.graph) for node in graph.node}
    used |= {node.domain for function in model.functions for node in function.node}
    used |= {function.domain for function in model.functions} | {""}
    for each in [each for each in model.opset_import if ("" if each.domain == "ai.onnx" else each.domain) not in used]:
        model.opset_import.remove(each)


def anonymous(model: Any) -> None:
    """Strip in place what tells about the machine or the run: stack traces, metadata, doc strings, shapes of what is between, the
    producer's version.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with edited(model) as made:
        ClearMetadataAndDocStringPass()(made)
        made.producer_name, made.producer_version, made.doc_string = "kdsearch", None, None
        made.metadata_props.clear()
    for graph in subgraphs(model.graph):  # what the pass leaves: names, and all that is no node
        graph.name = "model"
        for part in (graph, *graph.initializer, *graph.input, *graph.output):
            del part.metadata_props[:]
            part.doc_string = ""
