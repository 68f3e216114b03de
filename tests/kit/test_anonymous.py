"""Nothing of who made a file, and where, is left in it; what it computes is."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import StringStringEntryProto, TensorProto, helper, numpy_helper

from kdsearch.kit.onnx import anonymous

SECRET = "/home/someone/project.py"


def told(part):
    """The part, with the secret wherever it has room for one."""
    if hasattr(part, "doc_string"):
        part.doc_string = SECRET
    part.metadata_props.append(StringStringEntryProto(key="trace", value=SECRET))
    return part


def value(name, shape=(2,)):
    return told(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def node(*args, **kwargs):
    return told(helper.make_node(*args, **kwargs))


def branch(kind, made):
    weight = told(numpy_helper.from_array(np.float32([1, 2]), f"w.{kind}"))
    graph = helper.make_graph([node(kind, ["x", f"w.{kind}"], [made])], SECRET, [], [value(made)], [weight])
    return told(graph)


def empty(name):
    """A branch without a node: what is outside is its answer."""
    weight = told(numpy_helper.from_array(np.float32([5, 6]), name))
    return told(helper.make_graph([], SECRET, [], [value(name)], [weight]))


def whole():
    inner = node("If", ["flag"], ["b"], then_branch=branch("Mul", "t"), else_branch=branch("Add", "e"))
    outer = node("If", ["flag"], ["c"], then_branch=empty("t1"), else_branch=empty("e1"))
    call = node("Twice", ["b"], ["d"], domain="ours")
    add = node("Add", ["c", "d"], ["y"])
    twice = helper.make_function(
        "ours", "Twice", ["v"], ["o"], [node("Add", ["v", "v"], ["o"])], [helper.make_opsetid("", 21)]
    )
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, ())
    graph = helper.make_graph(
        [inner, outer, call, add], SECRET, [value("x"), told(flag)], [value("y")], value_info=[value("b"), value("c")]
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("ours", 1)]
    model = helper.make_model(told(graph), opset_imports=sets, functions=[told(twice)], ir_version=10)
    model.producer_name, model.producer_version = SECRET, SECRET
    return told(model)


def test_nothing_tells_about_the_run_and_the_answers_are_equal():
    model = whole()
    assert model.SerializeToString().count(SECRET.encode()) > 50
    before = onnx.ModelProto.FromString(model.SerializeToString())
    anonymous(model)
    assert SECRET.encode() not in model.SerializeToString()
    assert b"trace" not in model.SerializeToString()
    assert (model.producer_name, model.producer_version) == ("kdsearch", "")
    onnx.checker.check_model(model, full_check=True)
    from onnx.reference import ReferenceEvaluator

    x = np.float32([3, -4])
    for flag in (True, False):
        feeds = {"x": x, "flag": np.asarray(flag)}
        (got,) = ReferenceEvaluator(model).run(None, feeds)
        (was,) = ReferenceEvaluator(before).run(None, feeds)
        hand = np.float32([5, 6]) + 2 * (x * np.float32([1, 2]) if flag else x + np.float32([1, 2]))
        assert np.array_equal(got, was)
        assert np.array_equal(got, hand)
