"""How many layers stay fp32: as few, by twos, as keep the bound; where none does, what loses least."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdsearch.builtin.int8 import choices as of
from kdsearch.builtin.int8.choices import Layers, mixed, relative_error
from kdsearch.builtin.int8.quantizer import Int8, Int8Options
from kdsearch.deploy.latency import Latency
from kdsearch.errors import RefusedError
from kdsearch.kinds import Judge


def doubling():
    """x -> 2x, whatever is asked."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "model", [value], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def answering(file, *values):
    """A file that answers these arrays, whatever x is."""
    nodes, outputs, tensors = [], [], []
    for at, value in enumerate(values):
        tensors.append(numpy_helper.from_array(value, f"v{at}"))
        nodes.append(helper.make_node("Identity", [f"v{at}"], [f"y{at}"]))
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        outputs.append(helper.make_tensor_value_info(f"y{at}", kind, value.shape))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph(nodes, "model", [x], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    return file


def test_the_error_of_truth_values_and_of_what_is_not_finite(tmp_path):
    """Hand-made: one of four is another truth value, root (1 / 3); of finite numbers root (1 + 4) / 5."""
    fp32 = answering(
        tmp_path / "a.onnx",
        np.array([True, True, True, False]),
        np.array([-np.inf, 3, 4], np.float32),
        np.array([1, 2]),
    )
    file = answering(
        tmp_path / "b.onnx", np.array([True, False, True, False]), np.array([-7, 2, 6], np.float32), np.array([1, 2])
    )
    rows = [{"x": np.zeros((1, 1), np.float32)}] * 2
    assert relative_error(fp32, file, rows) == pytest.approx((1 / 3) ** 0.5)
    assert relative_error(
        answering(fp32, np.array([-np.inf, 3, 4])), answering(file, np.array([-7.0, 2, 6])), rows
    ) == (pytest.approx(5**0.5 / 5))
    assert relative_error(fp32, answering(file, np.array([-np.inf, np.nan, 4])), rows) == np.inf


def test_a_file_that_fails_at_a_sample_is_refused(tmp_path):
    model = doubling()
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(RefusedError, match="what was quantised fails at a sample: "):
        relative_error(tmp_path / "a.onnx", tmp_path / "a.onnx", [{"x": np.zeros((1, 3), np.float32)}])


@pytest.mark.parametrize(
    ("losses", "n"),
    [
        ([0.01], 0),  # it holds as it is
        ([0.9, 0.6, 0.05], 2),
        ([0.9, 0.6, 0.5, 0.05], 4),
        ([0.9, 0.2, 0.5, 0.3], 1),  # none holds
        ([0.3, 0.6, 0.5, 0.4], 0),
    ],
)
def test_layers_stay_in_fp32_by_twos(losses, n, tmp_path, monkeypatch):
    names, model, kept = list("abcdefgh"), doubling(), []
    monkeypatch.setattr(of, "relative_error", lambda fp32, file, rows: float(names.index(current[-1])))
    monkeypatch.setattr(of, "measure", lambda file, inputs: Latency(1.0, 1.0, 0.0, 3))
    current: list[str] = []

    def alone(name):
        current.append(name)
        return model

    def but(some):
        kept.append(list(some))
        made = onnx.ModelProto.FromString(model.SerializeToString())
        made.doc_string = str(len(some))
        return made

    left = iter(losses)
    quantizer = Int8(Int8Options())
    found = mixed(
        Layers(model, names, alone, but), [{"x": np.ones((1, 1), np.float32)}], tmp_path, quantizer,
        Judge(lambda file: next(left), 0.1, 0.0),
    )  # fmt: skip
    assert found.doc_string == str(n)
    assert next(left, None) is None, "nothing is judged after what holds"
    assert kept == [[], ["h"], ["h", "g"], ["h", "g", "f", "e"]][: len(losses)], (
        "what moves the outputs most goes first"
    )
    assert len(quantizer.notes) == (len(losses) > 1)
    assert all(f"{n} of 8 layers in fp32" in said for said in quantizer.notes)
