"""Older ONNX files are brought to the operator set that a quantizer needs, and are quantised then."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdsearch.builtin.int4.quantizer import Int4, Int4Options
from kdsearch.builtin.int8.quantizer import Int8, Int8Options
from kdsearch.errors import RefusedError
from kdsearch.kit.onnx import edited, open_session, raise_opset

W = np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(64, 12)).astype(np.float32)


def model_of(nodes, opset, lists_weights=False):
    """Nodes from x (N, 12) to y (N, 32) that read w and b, perhaps as inputs, too, as files before IR version 4 have them."""
    shapes = {"x": ["n", 12], "w": [32, 12], "b": [32], "y": ["n", 32]}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    inputs = [infos[name] for name in ("x", "w", "b")[: 3 if lists_weights else 1]]
    tensors = [numpy_helper.from_array(W, "w"), numpy_helper.from_array(np.zeros(32, np.float32), "b")]
    graph = helper.make_graph(nodes, "g", inputs, [infos["y"]], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


GEMM = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]


@pytest.mark.parametrize(("quantizer", "near"), [(Int8(Int8Options(samples=64)), 0.02), (Int4(Int4Options()), 0.15)])
@pytest.mark.parametrize(("opset", "lists_weights"), [(9, False), (12, True)])
def test_an_old_file_is_quantised(opset, lists_weights, quantizer, near, tmp_path):
    """Of a time when no scale had an axis; against the product of the matrices."""
    onnx.save(model_of(GEMM, opset, lists_weights), tmp_path / "f.onnx")
    quantizer.rewrite(tmp_path / "f.onnx", quantizer.plan(None), [{"x": X}])
    got, exact = open_session(tmp_path / "f.onnx").run(None, {"x": X})[0], X @ W.T
    assert np.linalg.norm(got - exact) < near * np.linalg.norm(exact)
    model = onnx.load(tmp_path / "f.onnx")
    assert [each.name for each in model.graph.input] == ["x"]
    assert {each.data_type for each in model.graph.initializer} & {TensorProto.INT8, TensorProto.INT4}


def test_what_has_no_newer_form_is_refused():
    model = model_of([helper.make_node("Resize", ["x", "w"], ["y"])], 9)  # there is none before 10
    with pytest.raises(RefusedError, match="operator set 9 cannot be raised to 21, which it takes: "):
        raise_opset(model, 21)


def test_a_newer_file_stays_as_it_is():
    model = model_of(GEMM, 22)
    whole = model.SerializeToString()
    raise_opset(model, 13)
    assert model.SerializeToString() == whole


def sparse_model(axes, in_a_node):
    """x (N, 12) times a matrix (12, 32) of which one number in four is not 0, stored with its places only."""
    dense = W.T * (np.random.default_rng(2).random((12, 32)) < 0.25)
    flat = np.flatnonzero(dense)
    places = np.stack(np.nonzero(dense), 1) if axes else flat
    values = numpy_helper.from_array(dense.reshape(-1)[flat], "w")
    stored = helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64), "at"), dense.shape)
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    nodes = [helper.make_node("Constant", [], ["w"], sparse_value=stored), product] if in_a_node else [product]
    infos = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", size]) for n, size in (("x", 12), ("y", 32)))
    x, y = infos
    graph = helper.make_graph(nodes, "g", [x], [y], sparse_initializer=[] if in_a_node else [stored])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), dense


@pytest.mark.parametrize("in_a_node", [False, True])
@pytest.mark.parametrize("axes", [False, True])
def test_a_sparse_weight_is_quantised_as_what_it_stands_for(axes, in_a_node, tmp_path):
    model, dense = sparse_model(axes, in_a_node)
    onnx.checker.check_model(model)
    for quantizer, near in ((Int8(Int8Options(samples=64)), 0.02), (Int4(Int4Options(min_elements=2)), 0.2)):
        file = tmp_path / "f.onnx"
        onnx.save(model, file)
        quantizer.rewrite(file, quantizer.plan(None), [{"x": X}])
        (got,) = open_session(file).run(None, {"x": X})
        assert 0 < np.linalg.norm(got - X @ dense) < near * np.linalg.norm(X @ dense)


def test_of_a_sparse_model_nothing_is_lost_where_it_is_edited():
    model, dense = sparse_model(True, False)
    with edited(model) as made:
        assert np.array_equal(made.graph.initializers["w"].const_value.numpy(), dense)
    assert np.array_equal(numpy_helper.to_array(model.graph.initializer[0]), dense)


@pytest.mark.parametrize("quantizer", [Int8(Int8Options(samples=64)), Int4(Int4Options())])
def test_weights_that_a_function_reads_are_quantised(quantizer, tmp_path):
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("ours", 1)]
    inside = [helper.make_node("Gemm", ["a", "b", "c"], ["d"], transB=1)]
    function = helper.make_function("ours", "Layer", ["a", "b", "c"], ["d"], inside, sets[:1])
    call = model_of([helper.make_node("Layer", ["x", "w", "b"], ["y"], domain="ours")], 21)
    model = helper.make_model(call.graph, opset_imports=sets, functions=[function], ir_version=10)
    onnx.save(model, tmp_path / "f.onnx")
    quantizer.rewrite(tmp_path / "f.onnx", quantizer.plan(None), [{"x": X}])
    stored = onnx.load(tmp_path / "f.onnx")
    assert {each.data_type for each in stored.graph.initializer} & {TensorProto.INT8, TensorProto.INT4}
    (got,) = open_session(tmp_path / "f.onnx").run(None, {"x": X})
    assert 0 < np.linalg.norm(got - X @ W.T) < 0.15 * np.linalg.norm(X @ W.T)
