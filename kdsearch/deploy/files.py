"""ONNX files on disk: read with a named error, opened with onnxruntime."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdsearch.errors import ArtifactError

AGAIN = "Where kdsearch wrote it: delete it, and `run` or `export` writes it again."
LARGEST = 2**31 - 2**20  # bytes; a protobuf message, and so one file, ends at 2 GiB
INT4 = {21, 22}  # onnx.TensorProto.UINT4, INT4
# types of weights, and of their codes
WEIGHTS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT4", "UINT4")


def size_bytes(file: Path) -> int:
    """Size of the file on disk."""
    return file.stat().st_size


def read_onnx(file: Path, beside: bool = False) -> Any:
    """The `onnx.ModelProto` in `file`.

    Args:
        beside: with the weights that it keeps in further files, of the same folder or below it.

    Raises:
        ArtifactError: the file is missing, no ONNX model, or keeps weights in further files (which it could point anywhere) that
            are not asked for, or are not there, or are more than one file holds.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot be read ({error.strerror})", file=file, expected="an ONNX file") from error
    except DecodeError as error:
        raise _corrupt(file, "is no ONNX model, or is cut off") from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise _corrupt(file, "holds no graph")
    if elsewhere := [each.name for each in _tensors(model) if each.data_location == each.EXTERNAL]:
        if not beside:
            raise ArtifactError(
                f"keeps the weight '{elsewhere[0]}' in another file",
                file=file,
                expected="one self-contained ONNX file",
                fix="Whoever wrote it can write it in one piece: torch.onnx.export(..., external_data=False), or onnx.save.",
            )
        _take_in(model, file)
    return model


def _take_in(model: Any, file: Path) -> None:
    """Weights of further files into the model, in place."""
    from onnx.external_data_helper import load_external_data_for_model

    parts = external_files(file)
    if missing := [each.name for each in parts if not each.is_file()]:
        raise ArtifactError(f"its weights in '{missing[0]}' are not there", file=file, expected="that file beside it")
    if (size := sum(each.stat().st_size for each in parts)) > LARGEST:
        raise ArtifactError(f"holds {size:,} bytes of weights", file=file, expected="less than 2 GiB for one ONNX file")
    try:
        load_external_data_for_model(model, str(file.parent))
    except Exception as error:  # of onnx's C++, and whatever a wrong offset or length gives
        reason = str(error).splitlines()[0][:200]
        raise ArtifactError(f"its weights in another file cannot be read: {reason}", file=file) from error


def external_files(file: Path) -> tuple[Path, ...]:
    """The further files that hold weights of an ONNX file, each once; () where it is no ONNX model, which whoever opens it says.

    Raises:
        ArtifactError: one of them is named outside the file's own folder.
    """
    found = file.stat()
    return _external_files(file, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _external_files(file: Path, size: int, changed_ns: int) -> tuple[Path, ...]:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except DecodeError:
        return ()
    made: dict[Path, None] = {}
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            name = next((each.value for each in tensor.external_data if each.key == "location"), "")
            inside = Path(os.path.normpath(name))
            if not name or inside.is_absolute() or ".." in inside.parts:
                problem = f"keeps the weight '{tensor.name}' in '{name}'"
                raise ArtifactError(problem, file=file, expected="a file in the same folder or below it")
            made[file.parent / inside] = None
    return tuple(made)


def _tensors(model: Any) -> Iterator[Any]:
    """Every constant tensor of a model."""
    graphs = list(subgraphs(model.graph))
    for graph in graphs:
        yield from graph.initializer
        yield from (part for each in graph.sparse_initializer for part in (each.values, each.indices))
    nodes = [node for part in (*graphs, *model.functions) for node in part.node]
    for attribute in (each for node in nodes for each in node.attribute):
        yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else []))


def subgraphs(graph: Any) -> Iterator[Any]:
    """`graph` and every graph nested in its control-flow nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from subgraphs(inner)


def weights_in(model: Any) -> int:
    """How many numbers its weights are: those of branches and Constant nodes, too, and zeros that a sparse one leaves out."""
    from onnx import TensorProto

    kinds = set(map(TensorProto.DataType.Value, WEIGHTS))
    graphs = list(subgraphs(model.graph))
    stored = [(each.data_type, each.dims) for graph in graphs for each in graph.initializer]
    constants = (node for graph in graphs for node in graph.node if node.op_type == "Constant")
    stored += [(each.t.data_type, each.t.dims) for node in constants for each in node.attribute if each.HasField("t")]
    stored += [(each.values.data_type, each.dims) for graph in graphs for each in graph.sparse_initializer]
    return sum(math.prod(dims) for kind, dims in stored if kind in kinds and dims)


def stores_int4(model: Any) -> bool:
    """Whether any weight of the model is stored as INT4 or UINT4."""
    return any(tensor.data_type in INT4 for graph in subgraphs(model.graph) for tensor in graph.initializer)


def tuned_options(model: Any) -> dict[str, str]:
    """Session options by which onnxruntime may answer faster than in a session as anybody opens it; {} where none is known.

    INT4 weights are unpacked to fp32 once, at load: a plain session unpacks a convolution's at every call (2-10x slower).
    """
    return {"session.disable_quant_qdq": "1"} if stores_int4(model) else {}


def open_session(file: Path, threads: int = 1, model: Any = None, entries: Mapping[str, str] | None = None) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU: `threads` inside an operator, operators one after another.

    Args:
        model: what `read_onnx(file)` returned, where the caller has it already.
        entries: session options by name beside onnxruntime's defaults, such as `tuned_options` gives.

    Raises:
        ArtifactError: onnxruntime does not take the file.
    """
    import onnxruntime as ort

    if model is None:
        model = read_onnx(file)  # names what is wrong with the file
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # of what fails the exception says as much
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    try:
        # without the fallback, which prints and tries the same again
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], enable_fallback=False)
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise _corrupt(file, f"is refused by onnxruntime {ort.__version__}: {_reason(str(error), model)}") from error


def _reason(said: str, model: Any) -> str:
    """What onnxruntime says, without the C++ around it."""
    if newest := re.search(r"till opset (\d+)", said):
        asked = max(
            (
                each.version
                for each in (model.opset_import if model is not None else ())
                if each.domain in ("", "ai.onnx")
            ),
            default="?",
        )
        return f"operator set {asked} is newer than {newest[1]}, the newest that it knows"
    if version := re.search(r"model IR version: (\d+), max supported IR version: (\d+)", said):
        return f"IR version {version[1]} is newer than {version[2]}, the newest that it knows"
    whole = re.split(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", " ".join(said.split()))[-1]  # the innermost
    whole = re.sub(r"^Load model from .*? failed: ?", "", whole)
    last = whole.rpartition(", Error ")[2]  # behind the node and its types
    return (last or whole or "no reason given")[:200]


def _corrupt(file: Path, problem: str, expected: str = "a whole ONNX file") -> ArtifactError:
    return ArtifactError(problem, file=file, expected=expected, fix=AGAIN)
