"""INT8 by calibration: onnxruntime's static quantisation to QDQ, unsigned activations, signed weights."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Option

from kdsearch.errors import UserError
from kdsearch.kinds import Compressor, Options, Plan, Subject, searched
from kdsearch.kit.onnx import anonymous, read_onnx, save_onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Int8Options(Options):
    calibration: Literal["minmax", "percentile"] = Option(
        "minmax", description="activation ranges from all values, or without the outermost 0.1 %"
    )  # no entropy: as onnxruntime 1.32 calls it, with 128 bins for 128 levels, it returns minmax's ranges
    samples: Annotated[int, searched(64, 128, 256, 512)] = Option(
        256, ge=1, description="training samples to calibrate with"
    )
    operators: Literal["auto", "all", "layers"] = Option(
        "auto",
        description="all = also additions and activations between layers; layers = convolutions and matmuls only; "
        "auto = layers in transformers, else all",
    )
    per_channel: bool = Option(True, description="a scale for every output channel of a weight, not one for all")
    reduce_range: bool = Option(
        True,
        description="weights in 7 bits: x86 processors without VNNI add products of 8-bit weights in 16 bits, which overflow; "
        "false = 8 bits, right on processors with VNNI and on ARM alone",
    )
    keep_first: bool = Option(False, description="leave the first layer, and embeddings of tokens, in fp32")
    keep_last: bool = Option(False, description="leave the last layer in fp32")


class Int8(Compressor[Int8Options]):
    """Convolutions, matmuls and LSTM compute in INT8, embeddings of tokens are stored in it; GRU stays fp32.

    What an LSTM reads is quantised as it comes (onnxruntime's DynamicQuantizeLSTM), so that its ranges need no calibration.

    U8 activations, not onnxruntime's default S8: with those a residual network's convolutions do not fuse and run slower
    than in fp32 (1.77 against 0.54 ms). Weights are in [-64, 64], so that a pair of products, at most 255 (64 + 64) = 32,640, fits
    the 16 bits in which onnxruntime's kernels for AVX2 and AVX-512 without VNNI add them (VPMADDUBSW saturates). Unsigned weights
    need no such care, but take 0.030 where these take 0.022 ms. The 8th bit is worth little: on three networks of digits the
    logits' relative error is 0.020 with 7 bits and 0.015 with 8, the accuracy within one of 597 images.
    """

    side = "file"

    def plan(self, subject: Subject) -> Plan:
        """The settings; calibration itself runs in `rewrite`, on the feeds of a file that does not exist yet."""
        chosen = self.options.model_dump()
        how = "per channel" if self.options.per_channel else "per tensor"
        log = f"INT8 {how}, U8 activations by {self.options.calibration} over {self.options.samples} training samples"
        safe = "weights in 7 bits: no sum overflows 16 bits, so that every processor gives the same answers"
        bold = "weights in 8 bits: on x86 processors without VNNI sums may overflow 16 bits, and answers be wrong"
        return Plan(chosen, log=(log, safe if self.options.reduce_range else bold))

    def rewrite(self, file: Path, plan: Plan, feeds: Iterable[Mapping[str, Any]]) -> None:
        """Raise UserError when there is nothing to calibrate with."""
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_dynamic,
            quantize_static,
        )

        rows = _rows(feeds, plan.edits["samples"])
        is_percentile = plan.edits["calibration"] == "percentile"
        with quiet(), tempfile.TemporaryDirectory(prefix=f".{file.stem}-", dir=file.parent) as folder:
            ready, made = Path(folder) / "ready.onnx", Path(folder) / "made.onnx"
            model = _prepared(file, ready)
            _name_nodes(model)
            layers_only = _layers_only(model, plan.edits["operators"])
            layers = [node.name for node in model.graph.node if _is_layer(node, model)]
            weights = {each.name for each in model.graph.initializer}
            tables = [node.name for node in model.graph.node if node.op_type == "Gather" and node.input[0] in weights]
            kept = tables + layers[:1] * plan.edits["keep_first"] + layers[-1:] * plan.edits["keep_last"]
            save_onnx(model, ready)
            quantize_static(
                str(ready),
                str(made),
                _Reader(rows, read_inputs(model)),
                quant_format=QuantFormat.QDQ,
                per_channel=plan.edits["per_channel"],
                reduce_range=plan.edits["reduce_range"],
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.Percentile if is_percentile else CalibrationMethod.MinMax,
                op_types_to_quantize=list(WEIGHTED) if layers_only else None,
                nodes_to_exclude=kept,
                # a range a shape: by its name the stride is of minimum and maximum alone, in fact it is of any method
                extra_options={"CalibPercentile": 99.9, "CalibStridedMinMax": 1} if is_percentile else {},
            )
            if any(node.op_type == "LSTM" for node in model.graph.node):
                quantize_dynamic(
                    str(made),
                    str(ready),
                    op_types_to_quantize=["LSTM"],
                    per_channel=plan.edits["per_channel"],
                    reduce_range=plan.edits["reduce_range"],
                    weight_type=QuantType.QInt8,
                )
                made = ready
            model = read_onnx(made)
        if not plan.edits["keep_first"]:
            _quantize_embeddings(model, plan.edits["per_channel"])
        anonymous(model)
        del model.graph.value_info[:]
        save_onnx(model, file)


def _quantize_embeddings(model: Any, per_channel: bool) -> None:
    """Tables that rows are taken from, in 8 bits: what is taken becomes float again, by a scale for each column.

    They are most of a small text network's bytes. onnxruntime's static quantisation leaves them as they are, or takes a range of 0
    for them (1.32), so that every row reads 0: its calibration sees no weights.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tables = {each.name: each for each in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for name, table in tables.items():
        nodes = readers.get(name, [])
        if (
            table.data_type != 1
            or len(table.dims) != 2
            or not nodes
            or not all(_takes_rows(each, name) for each in nodes)
        ):
            continue
        values = numpy_helper.to_array(table)
        largest = np.abs(values).max(0 if per_channel else None)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        table.CopyFrom(numpy_helper.from_array(whole, name))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        for node in nodes:
            taken = f"{node.output[0]}_quantized"
            made = helper.make_node(
                "DequantizeLinear", [taken, f"{name}_scale"], [node.output[0]], f"{node.name}_dequantize"
            )
            made.attribute.extend([helper.make_attribute("axis", -1)] if per_channel else [])
            node.output[0] = taken
            graph.node.insert(list(graph.node).index(node) + 1, made)


def _takes_rows(node: Any, table: str) -> bool:
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[0] == table and node.input[1] != table and axis == 0


def _prepared(file: Path, made: Path) -> Any:
    """The model with batch norms folded and every shape known that can be: a tensor of unknown type stays float."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    read_onnx(file)  # names what is wrong with it
    source, target = str(file.resolve()), str(made.resolve())
    with contextlib.chdir(made.parent):  # where it gives up it leaves what it has in the folder that the process is in
        try:
            quant_pre_process(source, target)
        except Exception:  # the symbolic inference raises bare Exceptions at operators it has no rule for
            quant_pre_process(source, target, skip_symbolic_shape=True)
    return read_onnx(made)


class _Reader:
    """What onnxruntime pulls calibration samples from; `rewind` because a reader ends after one pass.

    Samples of one shape are together: onnxruntime's histograms stack what they are given at once, and take it range by range
    (`set_range`, of `len` ranges).
    """

    def __init__(self, rows: list[dict[str, Any]], names: list[str]) -> None:
        by_shape: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            by_shape.setdefault(tuple(row[name].shape for name in names), []).append(row)
        self.groups, self.names = list(by_shape.values()), names
        self.rewind()

    def __len__(self) -> int:
        return len(self.groups)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = (row for group in self.groups[start_index:end_index] for row in group)

    def rewind(self) -> None:
        self.set_range(0, len(self.groups))

    def get_next(self) -> dict[str, Any] | None:
        row = next(self.left, None)
        return None if row is None else {name: row[name] for name in self.names}


def _rows(feeds: Iterable[Mapping[str, Any]], samples: int) -> list[dict[str, Any]]:
    """One sample a feed, at most `samples`."""
    rows = []
    for feed in feeds:
        for at in range(len(next(iter(feed.values()), ()))):
            rows.append({name: np.ascontiguousarray(value[at : at + 1]) for name, value in feed.items()})
            if len(rows) == samples:
                return rows
    if not rows:
        raise UserError("no calibration samples", expected="at least one training sample to calibrate INT8 with")
    return rows


def read_inputs(model: Any) -> list[str]:
    """Names of the graph's inputs that are no weights."""
    weights = {each.name for each in model.graph.initializer}
    return [each.name for each in model.graph.input if each.name not in weights]


def _layers_only(model: Any, operators: str) -> bool:
    """A transformer's residual stream does not fit 8 bits: ViT-tiny 0.70 relative error with it, 0.06 without, equally fast."""
    kinds = {node.op_type for node in model.graph.node}
    return operators == "layers" or (operators == "auto" and bool(kinds & {"LayerNormalization", "Softmax"}))


def _is_layer(node: Any, model: Any) -> bool:
    weights = {each.name for each in model.graph.initializer}
    return node.op_type in WEIGHTED and any(name in weights for name in node.input)


def _name_nodes(model: Any) -> None:
    """Every node gets a name: the ones to leave out are named to onnxruntime."""
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"


@contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's quantisation tools print, set the root logger's level and log advice to it: none is the user's business."""
    root = logging.getLogger()
    level, disabled = root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
