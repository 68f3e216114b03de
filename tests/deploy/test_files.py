"""What onnxruntime refuses is said in a line, without the C++ around it."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdsearch.deploy.files import open_session, read_onnx, weights_in
from kdsearch.errors import ArtifactError


def written(file, operator="Relu", opset=21, ir=10):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"opset": 99}, r"operator set 99 is newer than \d+, the newest that it knows"),
        ({"ir": 99}, r"IR version 99 is newer than \d+, the newest that it knows"),
        ({"operator": "Frob"}, r"No Op registered for Frob"),
    ],
)
def test_what_onnxruntime_does_not_know(made, said, tmp_path):
    with pytest.raises(ArtifactError, match=said) as caught:
        open_session(written(tmp_path / "net.onnx", **made))
    assert f"refused by onnxruntime {ort.__version__}" in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)
    assert open_session(written(tmp_path / "net.onnx")).run(None, {"x": [-1.0]})[0].tolist() == [0.0]
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 21


def test_of_a_reason_within_a_reason_the_innermost_is_said(tmp_path):
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    weight = helper.make_sparse_tensor(values, helper.make_tensor("places", TensorProto.INT64, [1], [7]), [4])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], sparse_initializer=[weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"w index is out of bounds\. Got:7") as caught:
        open_session(tmp_path / "net.onnx")
    assert "onnxruntime_src" not in str(caught.value)


def test_weights_of_constant_nodes_are_counted():
    """As some converters write them; a single number is none."""
    w, half = (numpy_helper.from_array(each) for each in (np.ones((3, 4), np.float32), np.array(0.5, np.float32)))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    nodes = [helper.make_node("Constant", [], [name], value=each) for name, each in (("w", w), ("half", half))]
    nodes += [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Mul", ["z", "half"], ["y"])]
    assert weights_in(helper.make_model(helper.make_graph(nodes, "g", [x], [y]))) == 12


def test_a_call_that_fails_is_told_by_its_exception_alone(tmp_path, capfd):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [3])
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g", [x], [y], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    session = open_session(tmp_path / "net.onnx")
    assert session.run(None, {"x": [1.0, 2.0, 3.0]})[0].tolist() == [1, 2, 3]
    with pytest.raises(Exception, match="cannot be reshaped"):
        session.run(None, {"x": [1.0, 2.0]})
    assert capfd.readouterr() == ("", "")


def test_nobody_is_told_to_delete_a_file_of_their_own(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("data: digits")
    with pytest.raises(ArtifactError, match=r"is no ONNX model, or is cut off. Expected a whole ONNX file") as caught:
        read_onnx(file)
    assert caught.value.fix.startswith("Where kdsearch wrote it: delete it")
