"""Dynamic quantisation: weights in INT8, activations quantised at each call by the range that they have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdsearch.builtin.int8.choices import Layers
from kdsearch.builtin.int8.options import Int8Options, ends_kept
from kdsearch.builtin.int8.ready import finished, is_layer, theirs
from kdsearch.kit.onnx import read_onnx, save_onnx

DYNAMIC = ("MatMul", "Gemm", "LSTM", "Attention")  # what onnxruntime computes in INT8 with ranges taken at each call


def dynamic(model: Any, asked: Int8Options, work: Path, kept: Sequence[str] = ()) -> Any:
    """The file's model, without the layers in `kept`."""
    return finished(quantized(model, asked, work, DYNAMIC, kept), asked.per_channel, asked.keep_first)


def layers(model: Any, asked: Int8Options, work: Path) -> Layers:
    """Those that may be quantised so."""
    names = [node.name for node in model.graph.node if is_layer(node, model)]
    ends = ends_kept(names, asked)
    names = [each.name for each in model.graph.node if each.name in {*names} - {*ends} and each.op_type in DYNAMIC]

    def but(some: Sequence[str]) -> Any:
        return dynamic(model, asked, work, some)

    return Layers(model, names, lambda name: but([each for each in names if each != name]), but)


def quantized(
    model: Any, asked: Int8Options, work: Path, operators: Sequence[str] = DYNAMIC, kept: Sequence[str] = ()
) -> Any:
    """Operators of these kinds quantised; embeddings are as they were."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, made = work / "dynamic-in.onnx", work / "dynamic.onnx"
    model = type(model).FromString(model.SerializeToString())
    _own_matrices(model)
    save_onnx(model, source)
    ends = ends_kept([node.name for node in model.graph.node if is_layer(node, model)], asked)
    fp32 = [*ends, *kept]
    with theirs():
        quantize_dynamic(
            str(source),
            str(made),
            op_types_to_quantize=list(operators),
            per_channel=asked.per_channel,
            reduce_range=asked.reduce_range,
            weight_type=QuantType.QInt8,
            # a Gemm becomes a product and a sum first, by such a name
            nodes_to_exclude=[*fp32, *(f"{name}_MatMul" for name in fp32), *_stacked(model)],
            extra_options={"MatMulConstBOnly": True},
        )
    return read_onnx(made)


def _own_matrices(model: Any) -> None:
    """A matrix that is computed is so for each Gemm that reads it: onnxruntime transposes it for each, always by one name."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    nodes, read = [], set[str]()
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "Gemm" else ""
        if name in read:
            again = type(node)()
            again.CopyFrom(makers[name])
            again.name = f"{again.name}.{node.name}"
            again.output[:] = [each and f"{each}.{node.name}" for each in again.output]
            node.input[1] = f"{name}.{node.name}"
            nodes.append(again)
        elif name in makers:
            read.add(name)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _stacked(model: Any) -> list[str]:
    """Products with several matrices at once, which onnxruntime writes no dynamic form of that runs."""
    many = {each.name for each in model.graph.initializer if len(each.dims) > 2}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and many & {*node.input}]
