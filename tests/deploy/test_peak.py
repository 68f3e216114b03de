"""Memory of one call, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from torch import nn

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.peak import peak_bytes
from kdsearch.errors import ArtifactError
from kdsearch.kinds import Batch, Field, Graph


def written(
    file: Path, nodes: list[Any], inputs: dict[str, list[int]], outputs: dict[str, list[int]], weights: Any = ()
) -> Path:
    def values(each: dict[str, list[int]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, T.FLOAT, shape) for name, shape in each.items()]

    kept = [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in dict(weights).items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    return file


def test_a_value_lives_from_its_node_to_its_last_reader(tmp_path):
    """x of 400 bytes is read by Sin and by Concat, whose 800 are the third at that time."""
    nodes = [
        helper.make_node("Sin", ["x"], ["a"]),
        helper.make_node("Concat", ["x", "a"], ["b"], axis=0),
        helper.make_node("ReduceSum", ["b"], ["c"], keepdims=0),
    ]
    file = written(tmp_path / "a.onnx", nodes, {"x": [100]}, {"c": []})
    assert peak_bytes(file, [torch.zeros(100)]) == 400 + 400 + 800


def test_a_chain_needs_two_at_a_time_and_outputs_stay(tmp_path):
    nodes = [
        helper.make_node("Sin", ["x"], ["a"]),
        helper.make_node("Cos", ["a"], ["b"]),
        helper.make_node("Atan", ["b"], ["c"]),
    ]
    chain = written(tmp_path / "a.onnx", nodes, {"x": [100]}, {"c": [100]})
    assert peak_bytes(chain, [torch.zeros(100)]) == 800
    kept = written(tmp_path / "b.onnx", nodes, {"x": [100]}, {"a": [100], "c": [100]})
    assert peak_bytes(kept, [torch.zeros(100)]) == 1200, "a is an output, too: a, b and c at the end"


def test_weights_and_what_follows_from_them_count_nothing(tmp_path):
    nodes = [helper.make_node("Sin", ["w"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])]
    file = written(tmp_path / "a.onnx", nodes, {"x": [1, 100]}, {"y": [1, 5]}, {"w": np.zeros((100, 5))})
    assert peak_bytes(file, [torch.zeros(1, 100)]) == 400 + 20


def test_what_a_branch_reads_lives_until_then(tmp_path):
    def branch(op: str, out: str) -> Any:
        return helper.make_graph(
            [helper.make_node(op, ["a"], [out])], op, [], [helper.make_tensor_value_info(out, T.FLOAT, [100])]
        )

    nodes = [
        helper.make_node("Sin", ["x"], ["a"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch("Cos", "t"), else_branch=branch("Atan", "e")),
    ]
    file = written(tmp_path / "a.onnx", nodes, {"x": [100]}, {"y": [100]}, {"zero": 0.0})
    assert peak_bytes(file, [torch.zeros(100)]) == 400 + 400 + 4, "x, a and s; then a, the bool and y"


def test_sizes_are_those_of_the_inputs(tmp_path):
    nodes = [helper.make_node("Sin", ["x"], ["y"])]
    file = written(tmp_path / "a.onnx", nodes, {"x": [None]}, {"y": [None]})  # type: ignore[list-item]
    assert [peak_bytes(file, [torch.zeros(n)]) for n in (1, 10)] == [8, 80]


class Block(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = image + self.two(self.one(image).relu())
        return out


def test_a_residual_block_holds_its_input_and_both_sides_of_a_convolution(tmp_path):
    """Activations are fused into convolutions, and the addition into the second one: no third map of 4 channels."""
    field = Field("image", "image", (4, 8, 8))
    graph = Graph(Block().eval(), (field,), (Field("out", "map", (4, 8, 8)),))
    file = tmp_path / "block.onnx"
    OnnxExporter(OnnxOptions(engine="torchscript")).write(
        graph, Batch(("a", "b"), {"image": torch.zeros(2, 4, 8, 8)}), file
    )
    small, wide = 4 * 8 * 8 * 4, 16 * 8 * 8 * 4
    assert peak_bytes(file, [torch.zeros(1, 4, 8, 8)]) == small + wide + small


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"a\.onnx"):
        peak_bytes(tmp_path / "a.onnx", [])
