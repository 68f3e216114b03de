"""ONNX files: written by torch's exporters, stripped of everything but the network, and opened with onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field as Option
from pydantic import model_validator
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from kdsearch.builtin.onnx_boxes import Corners, Places, Scores, Suppression
from kdsearch.builtin.onnx_ends import Asked, Input, Layout, Output, attach, ends_of
from kdsearch.errors import RefusedError, UserError
from kdsearch.kinds import Batch, Call, Ends, Exporter, Field, Graph, Options
from kdsearch.kit.folding import folded
from kdsearch.kit.networks import Tupled
from kdsearch.kit.onnx import LARGEST, anonymous, as_proto, open_session, read_onnx, save_onnx
from kdsearch.ops.attention import plain_attention
from kdsearch.ops.undisturbed import undisturbed

OPSET = 21  # the first with INT4; from 23 on onnxruntime's CPU refuses the broadcast masks of `Attention`
LEGACY_OPSET = 20  # the last that the TorchScript exporter knows

# What the exporters say on every call and nobody can act on. Everything else still comes through.
CHATTER = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r"You are using the legacy TorchScript-based ONNX export.*",
    r"The feature will be removed\. Please remove usage of this function",
    r"Exporting a model to ONNX with a batch_size other than 1.*",  # parity is checked at other batch sizes
    r"_check_is_size will be removed.*",  # of torch's own recurrent layers
    r"# The axis name: .* will not be used, since it shares the same shape constraints.*",
    r"The tensor attributes? .* (was|were) assigned during export",  # a cache: what the file answers is compared
)
REASONS = (
    (
        r"data.dependent|GuardOnDataDependent|Dynamic control flow|unbacked symint|u0",
        "what it computes depends on the values of its inputs: an `if`, a loop or a size that is read from a tensor",
        "Write it with torch.where or masks, or move it out of the network.",
    ),
    (
        r"Constraints violated|ConstraintViolation|specialized|mark_dynamic|user-specified ranges and inferred",
        "it works for the sizes of the example only: a batch or a length is a number in its code",
        "Take sizes from the inputs' shapes; `view(-1, ...)` and `flatten` rather than numbers.",
    ),
    (
        r"No ONNX function found|UnsupportedOperator|not supported|DispatchError|No decompositions",
        "it uses an operator that ONNX has no form of",
        "Write that operator with others (matrix products, gather, einsum), or take another `engine`.",
    ),
)  # found in torch's messages, reason, what to do


class OnnxOptions(Options):
    engine: Literal["auto", "dynamo", "torchscript"] = Option(
        "auto",
        description="torch's exporter: auto = torchscript for recurrent networks, else dynamo, and the other where it fails; "
        "torchscript is some 50 times faster and bakes lengths into attention",
    )
    input: Input = Option(
        "prepared",
        description="what a file of images reads: prepared = floats, as the network; pixels = uint8, 0..255, scaled and normalised "
        "in the file; any_size = such of any size: the shorter side is made the network's, bilinear, and the middle cut out",
    )
    layout: Layout = Option(
        "hwc", description="of pixels: hwc = (B, H, W, C), as images are stored; chw = (B, C, H, W)"
    )
    output: Output = Option(
        "raw",
        description="what a file answers: raw = what the network does; of one that scores classes, probabilities = their softmax, "
        "class = the index of the largest; of one that answers boxes (N, 4) and scores (N, C), or both as (N, 4 + C), boxes = "
        "those that non-maximum suppression leaves, (K, 6): x1, y1, x2, y2, score, class, the best first, filled up with rows of "
        "class -1",
    )
    boxes: Corners = Option(
        "corners",
        description="of boxes, how the network says them: corners = x1, y1, x2, y2; centre = x, y, width, height",
    )
    scores: Scores = Option(
        "given", description="of boxes, what becomes of the scores first: nothing, sigmoid or softmax"
    )
    iou: float = Option(
        0.5, ge=0, le=1, description="of boxes: of two of a class that overlap by more, the better one stays"
    )
    least: float = Option(0.05, ge=0, lt=1, description="of boxes: what does not score above is none")
    most: int = Option(100, ge=1, le=10_000, description="of boxes: so many a sample, the best")
    places: Places = Option(
        "auto", description="of boxes and scores in one output: which axis counts the places; auto = the longer one"
    )
    objectness: bool = Option(
        False,
        description="of boxes and scores in one output: whether the fifth column scores that there is anything; scores are "
        "multiplied by it",
    )

    @model_validator(mode="after")
    def _check_boxes(self) -> OnnxOptions:
        of_boxes = sorted(self.model_fields_set & {"boxes", "scores", "iou", "least", "most", "places", "objectness"})
        if of_boxes and self.output != "boxes":
            raise ValueError(f"'output: boxes' beside {', '.join(of_boxes)}, which nothing else heeds")
        if self.objectness and self.scores == "softmax":
            raise ValueError("'scores: given' or 'sigmoid' beside 'objectness: true'")
        return self


class OnnxExporter(Exporter[OnnxOptions]):
    """One fp32 file, opset 21, batch and every size that a field leaves open dynamic; names are the graph's field names.

    Branches that add up in training only are folded first, where the network says how (`kit.folding`).

    dynamo is right for masks and lengths but bakes the length into LSTM and GRU; the TorchScript exporter the other way round.
    """

    def write(self, graph: Graph, example: Batch, file: Path) -> None:
        """Raise UserError when the weights exceed what one file holds (2 GiB), RefusedError where torch cannot export them."""
        size = sum(each.numel() * each.element_size() for each in {*graph.module.parameters(), *graph.module.buffers()})
        if size > LARGEST:
            raise UserError(
                f"the network holds {size:,} bytes of weights", expected="less than 2 GiB for one ONNX file"
            )
        recurrent = any(isinstance(each, nn.RNNBase) for each in graph.module.modules())
        engines = ["torchscript", "dynamo"] if recurrent else ["dynamo", "torchscript"]  # the likelier one first
        if self.options.engine != "auto":
            engines = [self.options.engine]
        inputs = _examples(graph, example)
        with undisturbed(graph.module, train=False), plain_attention(), _quiet():
            model = _first_that_works(engines, graph, inputs)
        _tidy(model, graph)
        written = as_proto(model)
        anonymous(written)
        save_onnx(written, file)

    def ends(self, graph: Graph, preprocessing: Mapping[str, Any]) -> Ends | None:
        """Raise StudyError for pixels where the network reads no image or nobody knows how it is prepared, and without classes."""
        return ends_of(self._asked, graph, preprocessing)

    def finish(self, file: Path, ends: Ends) -> None:
        model = read_onnx(file)
        attach(model, self._asked, ends)
        save_onnx(model, file)

    @property
    def _asked(self) -> Asked:
        told = self.options
        suppression = Suppression(
            told.boxes, told.scores, told.iou, told.least, told.most, told.places, told.objectness
        )
        return Asked(told.input, told.layout, told.output, suppression)

    def label(self, file: Path, about: Mapping[str, str]) -> None:
        """As the model's metadata, which `session.get_modelmeta().custom_metadata_map` gives back; what else is there stays."""
        model = read_onnx(file)
        told = {**{each.key: each.value for each in model.metadata_props}, **about}
        del model.metadata_props[:]
        for name, text in sorted(told.items()):
            entry = model.metadata_props.add()
            entry.key, entry.value = name, text
        save_onnx(model, file)

    def load(self, file: Path, threads: int = 1) -> Call:
        """Raise ArtifactError when the file is missing, corrupt, or none that onnxruntime takes."""
        model = read_onnx(file)
        session = open_session(file, threads, model)
        names = [each.name for each in session.get_inputs()]
        outputs = [each.name for each in session.get_outputs()]

        def call(*inputs: Tensor) -> Mapping[str, Tensor]:
            feeds = {name: each.detach().cpu().contiguous().numpy() for name, each in zip(names, inputs, strict=True)}
            found = zip(outputs, session.run(None, feeds), strict=True)
            made = {name: torch.from_numpy(each) for name, each in found}
            renamed = {name: made[f"{name}_out"] for name in names if f"{name}_out" in made}  # see Graph.names_out
            return {**made, **renamed}

        return call


def _first_that_works(engines: Sequence[str], graph: Graph, inputs: tuple[Tensor, ...]) -> Any:
    """The model as the first engine writes it that does. Raise RefusedError with the reason of the first one."""
    failed: list[tuple[str, Exception]] = []
    module = folded(graph.module, inputs)
    for engine in engines:
        export = _dynamo if engine == "dynamo" else _torchscript
        try:
            return export(Tupled(module, [each.name for each in graph.outputs]).eval(), graph, inputs)
        except Exception as error:  # torch's exporters raise whatever their parts do
            failed.append((engine, error))
    engine, first = failed[0]
    reason, fix = why_not(first)
    tried = f" (nor can {failed[1][0]})" if len(failed) > 1 else ""
    raise RefusedError(f"torch's exporter {engine} cannot write the network{tried}: {reason}", fix=fix) from first


def why_not(error: BaseException) -> tuple[str, str]:
    """What an exporter of torch failed of, in a line, and what can be done about it."""
    texts = list[str]()
    seen: BaseException | None = error
    while seen is not None and len(texts) < 10:  # the cause is the last of a chain, behind pages of advice
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    for text in texts:
        for words, reason, fix in REASONS:
            if re.search(words, text, re.IGNORECASE):
                named = re.search(r"(?:operator |OpOverload\(op=)'([\w:.]+)'", text)
                return (f"{reason}, {named[1]}" if named else reason), fix
    lines = [line.strip() for line in texts[-1].splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200], ""


def _examples(graph: Graph, example: Batch) -> tuple[Tensor, ...]:
    """Two rows of every input, on the network's device: a size of 1 would be taken for a constant."""
    first = next(graph.module.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    rows = torch.arange(2) % len(example)
    return tuple(_two(example[each.name][rows], each).to(device) for each in graph.inputs)


def _two(tensor: Tensor, field: Field) -> Tensor:
    for axis, size in enumerate(field.shape, start=1):
        if size is None and tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], axis)
    return tensor


def _axes(field: Field) -> dict[int, str]:
    return {0: "batch", **{at: f"{field.name}_{at}" for at, size in enumerate(field.shape, start=1) if size is None}}


def _dynamo(module: nn.Module, graph: Graph, inputs: tuple[Tensor, ...]) -> Any:
    with _without_stderr():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=[each.name for each in graph.inputs],
            dynamic_shapes=(tuple(_axes(each) for each in graph.inputs),),
        )
    assert program is not None
    return program.model


def _torchscript(module: nn.Module, graph: Graph, inputs: tuple[Tensor, ...]) -> Any:
    import onnx
    import onnx_ir as ir
    from onnx import version_converter

    buffer = io.BytesIO()
    outputs = [f"kdsearch_output_{i}" for i in range(len(graph.outputs))]  # a layer may be called as an output is
    torch.onnx.export(
        module,
        inputs,
        buffer,  # type: ignore[arg-type]  # this exporter takes files, its signature does not say so
        dynamo=False,
        opset_version=LEGACY_OPSET,
        verbose=False,
        input_names=[each.name for each in graph.inputs],
        output_names=outputs,
        dynamic_axes={each.name: _axes(each) for each in graph.inputs}
        | {name: _axes(each) for name, each in zip(outputs, graph.outputs, strict=True)},
    )
    model = version_converter.convert_version(onnx.load_model_from_string(buffer.getvalue()), OPSET)
    model.ir_version = 10
    return ir.from_proto(model)


def _tidy(model: Any, graph: Graph) -> None:
    """Names are the network's and the graph's, and every input stands in its place."""
    import onnx_ir as ir

    _rename(model, graph.names_out)
    present = {each.name: each for each in model.graph.inputs}
    for field in graph.inputs:  # the exporter drops what the network does not read; callers still hand it in
        if field.name not in present:
            element = ir.DataType.from_numpy(torch.empty(0, dtype=field.torch_dtype).numpy().dtype)
            axes = _axes(field)
            shape = ir.Shape([axes.get(at, size) for at, size in enumerate((None, *field.shape))])
            present[field.name] = ir.Value(name=field.name, type=ir.TensorType(element), shape=shape)
    model.graph.inputs[:] = [present[field.name] for field in graph.inputs]


def _rename(model: Any, outputs: Sequence[str]) -> None:
    """Values and nodes are called as in the network, outputs as asked; inputs keep their names. Who wants a name that another has
    gets a number.
    """
    graphs = [model.graph, *model.graph.subgraphs()]
    weights = [list(graph.initializers.values()) for graph in graphs]
    values = [*chain(*weights), *chain(*(graph.inputs for graph in graphs[1:]))]
    values += [value for node in model.graph.all_nodes() for value in node.outputs if value.name]
    for graph in graphs:
        graph.initializers.clear()  # as long as they are there, no two may have one name
    taken, called = {*outputs, *(each.name for each in model.graph.inputs)}, set[str]()
    for value in values:
        value.name = _free(_within(value.name), taken)
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    for node in model.graph.all_nodes():
        node.name = _free(_within(node.name), called) if node.name else None
    for graph, own in zip(graphs, weights, strict=True):
        for value in own:
            graph.initializers.add(value)


def _within(name: str) -> str:
    """What is called so in the wrapped network is called in it."""
    return name.lstrip("/").replace("/", ".").removeprefix("module.")


def _free(name: str, taken: set[str]) -> str:
    """The name, or with a number where it is taken; now it is."""
    numbers = (f"{name}_{index}" for index in count(1))
    found = next(each for each in chain([name], numbers) if each not in taken)
    taken.add(found)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters log and warn of on every call, and the pages that they log of a network that they cannot write."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _without_graphs():
        for message in CHATTER:
            warnings.filterwarnings("ignore", message=message)
        # torch's recurrent layers, assertions and texts read sizes in Python while they are traced, which changes no answer; a
        # network's own branches still warn
        warnings.filterwarnings("ignore", category=TracerWarning, module=r"torch(\.(?!jit)|\Z)")
        try:
            yield
        finally:
            logging.disable(disabled)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Of a network that it cannot follow torch.export prints the graph as far as it came. Warnings are given once all went well."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(record=True) as given:
        yield
    for each in given:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


@contextlib.contextmanager
def _without_graphs() -> Iterator[None]:
    """No graph of a network that torchscript cannot write on the process's own stdout, where a result may be read as JSON.

    torch's switch for this log does not turn it off: its exporter tests the function that tells, not what it answers.
    """
    log = getattr(torch._C, "_jit_onnx_log", None)
    if log is None:  # a torch without this exporter
        yield
        return
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
