"""OpenVINO IR: converted from torch, each input and output by its field's name, and run by OpenVINO on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from kdsearch.errors import RefusedError
from kdsearch.kinds import Batch, Call, Exporter, Field, Graph, Options
from kdsearch.kit.folding import folded
from kdsearch.kit.networks import Tupled
from kdsearch.ops.attention import plain_attention
from kdsearch.ops.undisturbed import undisturbed
from kdsearch_plugins.openvino_exporter.runtime import (
    FP32,
    NO_TELEMETRY,
    WEIGHTS,
    compiled,
    labels_of,
    openvino,
    read_ir,
    save_ir,
)

# What torch says at every conversion and nobody can act on. A network's own branches on values still warn.
CHATTER = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r"`torch\.jit\.\w+` is deprecated.*",
    r"The tensor attributes? .* (was|were) assigned during export",
)


class OpenVinoOptions(Options):
    engine: Literal["auto", "export", "trace"] = Option(
        "auto",
        description="how torch hands the network over: export = torch.export; trace = torch.jit.trace, for recurrent networks; "
        "auto = the likelier one, and the other where it fails",
    )


class OpenVinoExporter(Exporter[OpenVinoOptions]):
    """An .xml with the graph and a .bin with the weights, in fp32; batch and every size that a field leaves open are dynamic.

    The .xml holds the digest of its .bin; nodes are renamed, so that equal weights give equal bytes.
    """

    suffix = ".xml"
    companions = (WEIGHTS,)
    runtime = "OpenVINO"

    def write(self, graph: Graph, example: Batch, file: Path) -> None:
        """Raise RefusedError where OpenVINO cannot convert the network."""
        inputs = tuple(_two(example[each.name], each) for each in graph.inputs)
        recurrent = any(isinstance(each, nn.RNNBase) for each in graph.module.modules())
        engines = ["trace", "export"] if recurrent else ["export", "trace"]  # torch.export writes loops out
        if self.options.engine != "auto":
            engines = [self.options.engine]
        with undisturbed(graph.module, train=False), plain_attention(), _quiet(), torch.no_grad():
            model = _first_that_works(engines, graph, inputs)
        _name(model, graph)
        save_ir(model, file, {})

    def label(self, file: Path, about: Mapping[str, str]) -> None:
        """Below `kdsearch` in rt_info, which `model.get_rt_info(["kdsearch", "labels"])` gives back."""
        save_ir(read_ir(file), file, about)

    def labels(self, file: Path) -> Mapping[str, str]:
        return labels_of(read_ir(file))

    def load(self, file: Path, threads: int = 1) -> Call:
        """Raise ArtifactError where one of both files is missing, damaged, or not the other's."""
        model = compiled(read_ir(file), threads)
        request = model.create_infer_request()
        read = [each.get_node().get_friendly_name() for each in model.inputs]
        renamed = {f"{name}_out": name for name in read}  # see Graph.names_out
        names = [each.get_node().get_friendly_name() for each in model.outputs]
        names = [renamed.get(name, name) for name in names]

        def call(*inputs: Tensor) -> Mapping[str, Tensor]:
            arrays = [each.detach().cpu().contiguous().numpy() for each in inputs]
            found = request.infer(dict(enumerate(arrays)), share_inputs=True)  # what it answers is copied
            return {name: torch.from_numpy(found[at]) for at, name in enumerate(names)}

        return call

    def usage(self, file: str) -> Sequence[str]:
        sizes = "[size.get_length() if size.is_static else 1 for size in each.partial_shape]"
        return (
            "import sys",
            f"sys.modules[{NO_TELEMETRY!r}] = None  # OpenVINO would report to its maker",
            "import numpy as np",
            "import openvino as ov",
            f"model = ov.Core().compile_model({file!r}, 'CPU', {FP32!r})  # else some CPUs round to bfloat16",
            "feeds = {}  # replace the zeros by a prepared sample",
            "for each in model.inputs:",
            f"    feeds[each.any_name] = np.zeros({sizes}, each.element_type.to_dtype())",
            "outputs = {each.any_name: value for each, value in model(feeds).items()}",
        )


def _first_that_works(engines: Sequence[str], graph: Graph, inputs: tuple[Tensor, ...]) -> Any:
    """Raise RefusedError with the reason of the first one."""
    failed: list[tuple[str, Exception]] = []
    module = Tupled(folded(graph.module, inputs), [each.name for each in graph.outputs]).eval()
    for engine in engines:
        try:
            return (_exported if engine == "export" else _traced)(module, graph, inputs)
        except Exception as error:  # torch and OpenVINO raise whatever their parts do
            failed.append((engine, error))
    engine, first = failed[0]
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    raise RefusedError(
        f"OpenVINO cannot convert the network (engine {engine}): {(lines or [type(first).__name__])[0][:200]}",
        fix="Take sizes from the inputs' shapes, and write what OpenVINO lacks with other operators.",
    ) from first


def _exported(module: nn.Module, graph: Graph, inputs: tuple[Tensor, ...]) -> Any:
    sizes = tuple(dict.fromkeys(_open(each), torch.export.Dim.DYNAMIC) for each in graph.inputs)
    return openvino().convert_model(torch.export.export(module, inputs, dynamic_shapes=(sizes,)))


def _traced(module: nn.Module, graph: Graph, inputs: tuple[Tensor, ...]) -> Any:
    return openvino().convert_model(module, example_input=inputs)


def _open(field: Field) -> list[int]:
    """Axes of a batch whose size is not fixed."""
    return [0, *(at for at, size in enumerate(field.shape, start=1) if size is None)]


def _two(tensor: Tensor, field: Field) -> Tensor:
    """Two rows, and two places where a length is open: torch takes a size of 1 for a constant."""
    tensor = tensor[torch.arange(2) % len(tensor)]
    for axis in _open(field)[1:]:
        if tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], axis)
    return tensor.cpu()


def _name(model: Any, graph: Graph) -> None:
    """Inputs and outputs are called as the fields are, and have their sizes."""
    if len(model.inputs) != len(graph.inputs) or len(model.outputs) != len(graph.outputs):
        found = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise RefusedError(
            f"OpenVINO's conversion has {found}", expected=f"{len(graph.inputs)} and {len(graph.outputs)}"
        )
    sizes = {}
    for node, field in zip(model.inputs, graph.inputs, strict=True):
        node.get_tensor().set_names({field.name})
        node.get_node().set_friendly_name(field.name)
        sizes[node] = openvino().PartialShape([-1, *(-1 if size is None else size for size in field.shape)])
    model.reshape(sizes)
    read = {each.name for each in graph.inputs}
    for node in model.outputs:  # one that is an input, handed on, is called as that too
        if not node.get_tensor().get_names() & read:
            node.get_tensor().set_names(set())
    for node, name in zip(model.outputs, graph.names_out, strict=True):
        node.get_tensor().add_names({name})
        node.get_node().set_friendly_name(name)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in CHATTER:
            warnings.filterwarnings("ignore", message=message)
        # torch's recurrent layers, assertions and texts read sizes in Python while they are traced, which changes no answer
        warnings.filterwarnings("ignore", category=TracerWarning, module=r"torch(\.(?!jit)|\Z)")
        yield
