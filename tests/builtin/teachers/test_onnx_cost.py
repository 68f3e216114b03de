"""What an ONNX file costs equals what the network that it was written from costs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from kdsearch.builtin.teachers.onnx_cost import cost_of_file
from kdsearch.deploy.cost import count_module
from kdsearch.kinds import Cost

NETS = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=4),
            nn.ConvTranspose2d(8, 4, 2, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        ),
        (3, 16, 16),
    ),
    "products": (lambda: nn.Sequential(nn.Linear(12, 6), nn.GELU(), nn.Linear(6, 3, bias=False)), (7, 12)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rows", [0, 4], ids=["dynamic batch", "batch of 4"])
def test_weights_and_macs_are_the_networks(name: str, rows: int, tmp_path: Path) -> None:
    build, shape = NETS[name]
    net = build().eval()
    axes = {"input": {0: "batch"}} if rows == 0 else None
    file = tmp_path / "net.onnx"
    torch.onnx.export(
        net, (torch.zeros(rows or 2, *shape),), str(file), input_names=["input"], dynamic_axes=axes, dynamo=False
    )
    expected = count_module(net, [torch.zeros(1, *shape)])
    found = cost_of_file(file)
    assert expected.macs > 0
    assert (found.params, found.macs) == (expected.params, expected.macs)


def test_a_sparse_weight_costs_what_it_stands_for(tmp_path: Path) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    weight = helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [2], [3, 17]), [6, 4])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 6), ("y", 4)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], sparse_initializer=[weight])
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    assert cost_of_file(tmp_path / "net.onnx") == Cost(24, 24)


def test_weights_of_branches_count(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [1.0] * 16)
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [2], [1, 4])  # no weight
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inside = [
        helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "a", [], [y], [weight, sizes]),
        helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "b", [], [y]),
    ]
    branch = helper.make_node("If", ["is"], ["z"], then_branch=inside[0], else_branch=inside[1])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])]
    inputs += [helper.make_tensor_value_info("is", TensorProto.BOOL, [])]
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph([branch], "g", inputs, [z])), tmp_path / "net.onnx")
    assert cost_of_file(tmp_path / "net.onnx").params == 16
