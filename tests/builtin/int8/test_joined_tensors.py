"""What stands behind the last layers stays fp32 where tensors of other scales are joined there, and nowhere else."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from kdsearch.builtin.int8.quantizer import Int8, Int8Options
from kdsearch.builtin.int8.static import _joined_behind
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.kinds import Batch, Field, Graph

EXPORTER = OnnxExporter(OnnxOptions(engine="torchscript"))


class Yolo(nn.Module):
    """Boxes in pixels and scores of 0..1 in one output; `last` makes a layer of what follows."""

    def __init__(self, last=False, joined=True):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.box, self.cls, self.joined = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 3, 1), joined
        self.last = nn.Conv1d(7, 5, 1) if last else nn.Identity()

    def forward(self, x):
        seen = self.body(x)
        box, score = self.box(seen).flatten(2).sigmoid() * 640, self.cls(seen).flatten(2).sigmoid()
        return self.last(torch.cat([box, score], 1)) if self.joined else box.mean(2) + score.mean((1, 2))[:, None]


def written(tmp_path, net):
    torch.manual_seed(0)
    graph = Graph(net.eval(), (Field("x", "image", (3, 32, 32)),), (Field("y", "sequence", (7, 64)),))
    file = tmp_path / "net.onnx"
    EXPORTER.write(graph, Batch(("a", "b"), {"x": torch.randn(2, 3, 32, 32)}), file)
    return file


def layers(model):
    return {node.name for node in model.graph.node if node.op_type == "Conv"}


def test_scores_beside_boxes_keep_their_scale(tmp_path):
    file = written(tmp_path, Yolo())
    x = np.random.default_rng(0).normal(size=(40, 3, 32, 32)).astype(np.float32)
    whole = open_session(file).run(None, {"x": x})[0]
    quantizer = Int8(Int8Options())
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    found = open_session(file).run(None, {"x": x})[0]
    boxes, scores = np.abs(found - whole)[:, :4], np.abs(found - whole)[:, 4:]
    spread = whole[:, 4:].std()
    assert scores.max() < 0.3 * spread, "one scale for both has a step of 2.5, and no score is above 1"
    assert boxes.max() < 0.1 * whole[:, :4].std()
    assert any("one scale does not fit all that is joined behind" in each for each in quantizer.notes)
    ends = read_onnx(file)
    assert {node.op_type for node in ends.graph.node if ends.graph.output[0].name in node.output} == {"Concat"}
    assert sum(node.op_type == "DequantizeLinear" for node in ends.graph.node) > 4, "the layers are quantised"
    file = written(tmp_path, Yolo())
    quantizer = Int8(Int8Options(operators="layers"))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    assert not any("one scale" in each for each in quantizer.notes), "nothing but layers is in 8 bits there"


@pytest.mark.parametrize(
    ("net", "kinds"),
    [
        (Yolo(), {"Concat", "Sigmoid", "Mul"}),
        (Yolo(last=True), set()),  # a layer reads what is joined
        (Yolo(joined=False), set()),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), set()),
    ],
)
def test_what_is_behind_the_last_layers(net, kinds, tmp_path):
    model = onnx.shape_inference.infer_shapes(read_onnx(written(tmp_path, net)))
    kept = _joined_behind(model, [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")])
    found = {node.op_type for node in model.graph.node if node.name in kept}
    assert kinds <= found
    assert bool(found) == bool(kinds)
    assert not {*kept} & layers(model)


@pytest.mark.parametrize("joins", [("seen", "known"), ("known", "seen"), ("seen", "x"), ("seen",)])
def test_one_computed_tensor_has_a_scale_of_its_own(joins):
    """Beside a constant or an input nothing is joined that another scale is computed for."""
    known = [numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "known")]
    known.append(numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"))
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None, 8, 8]) for name in "xy")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["seen"], "layer"),
        helper.make_node("Concat", joins, ["y"], "join", axis=1),
    ]
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [y], known))
    assert _joined_behind(model, ["layer"]) == []


def test_what_follows_stays_and_what_shares_a_constant_or_a_layer_does_not():
    shape = [1, 3, 8, 8]
    x, y, z = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, each)
        for name, each in zip("xyz", (shape, None, None), strict=True)
    )
    typed = [helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1, 6, 8, 8])]
    known = [
        numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w"),
        numpy_helper.from_array(np.float32(9), "k"),
    ]
    nodes = [
        helper.make_node(kind, read.split(), [made], made, **more)
        for kind, read, made, more in (
            ("Relu", "x", "before", {}), ("Conv", "before w", "one", {}), ("Conv", "before w", "other", {}),
            ("Sigmoid", "one", "a", {}), ("Mul", "one k", "b", {}), ("Concat", "a b k", "c", {"axis": 1}),
            ("ReduceSum", "c", "d", {}), ("Mul", "d other", "y", {}), ("Mul", "other k", "z", {}),
        )
    ]  # fmt: skip
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [y, z], known, value_info=typed))
    assert _joined_behind(model, ["one", "other"]) == ["a", "b", "c", "d", "y"]


def test_sizes_that_are_joined_are_no_answers(tmp_path):
    """A shape that is put together of numbers is no tensor that has a scale."""

    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = self.layer(x)
            return y.reshape(y.shape[0], y.shape[1] * 2, -1)

    model = onnx.shape_inference.infer_shapes(read_onnx(written(tmp_path, Shaped())))
    assert "Concat" in {node.op_type for node in model.graph.node}
    assert _joined_behind(model, [*layers(model)]) == []
