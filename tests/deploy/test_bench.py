"""Files are measured in turns, by a clock that the test winds."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdsearch.cli import main
from kdsearch.deploy import bench as of
from kdsearch.deploy.bench import bench, feeds_of, pinned
from kdsearch.deploy.files import open_session
from kdsearch.errors import StudyError


def written(file, shape, element=TensorProto.FLOAT):
    x, y = (helper.make_tensor_value_info(name, element, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    file.write_bytes(model.SerializeToString())
    return file


def test_rounds_interleave_and_figures_are_of_the_calls(tmp_path, monkeypatch):
    files = [written(tmp_path / f"{name}.onnx", ["batch", 3]) for name in "ab"]
    order = []
    real = of._round
    took = {"a.onnx": itertools.count(1), "b.onnx": itertools.count(100)}

    def taken(session, feeds, clock):
        name = next(file.name for file in files if session is sessions[file])
        order.append(name)
        return [float(next(took[name])) for _ in range(3)]

    sessions = {}
    opened = of.open_session
    monkeypatch.setattr(of, "open_session", lambda file, *more: sessions.setdefault(file, opened(file, *more)))
    monkeypatch.setattr(of, "_round", taken)
    monkeypatch.setattr(of, "_memory", lambda *_: 7)
    a, b = bench(files, batch=4, rounds=3)
    assert order == ["a.onnx", "b.onnx", "b.onnx", "a.onnx", "a.onnx", "b.onnx"]
    assert (a.min_ms, a.median_ms, a.p95_ms, a.calls, a.spread_ms) == (1, 5, 9, 9, 6)
    assert a.samples_per_s == pytest.approx(1e3 * 4 / 5)
    assert (b.median_ms, b.memory_bytes, b.bytes) == (104, 7, files[1].stat().st_size)
    ticks = itertools.count(0, 0.02)
    assert real(sessions[files[0]], feeds_of(sessions[files[0]], 1, {}), lambda: next(ticks)) == pytest.approx(
        [20.0] * 3
    )


def test_a_file_with_a_batch_of_its_own_answers_as_many(tmp_path, monkeypatch):
    monkeypatch.setattr(of, "_round", lambda *_: [5.0])
    monkeypatch.setattr(of, "_memory", lambda *_: 7)
    (found,) = bench([written(tmp_path / "a.onnx", [64, 3])], batch=1, rounds=2)
    assert found.samples_per_s == pytest.approx(1e3 * 64 / 5)


def test_inputs_are_what_the_file_takes(tmp_path):
    session = open_session(written(tmp_path / "open.onnx", ["batch", "length", 3], TensorProto.INT64))
    assert feeds_of(session, 5, {})["x"].shape == (5, of.OPEN, 3)
    assert feeds_of(session, 5, {"x": (7, 3)})["x"].shape == (5, 7, 3)
    assert feeds_of(session, 1, {})["x"].dtype == "int64"
    with pytest.raises(StudyError, match="no input 'y'"):
        feeds_of(session, 1, {"y": (1,)})
    with pytest.raises(StudyError, match=r"\[7, 4\] for 'x'"):
        feeds_of(session, 1, {"x": (7, 4)})
    fixed = open_session(written(tmp_path / "fixed.onnx", [2, 3]))
    assert feeds_of(fixed, 5, {})["x"].shape == (2, 3)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no such thing here")
def test_the_process_is_held_on_so_many_processors():
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_the_verb(tmp_path, capsys):
    """The memory is that of the weights at least: 8 MB here."""
    file = written(tmp_path / "net.onnx", ["batch", 3])
    model = onnx.load(file)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 700_000), np.float32), "w"))
    model.graph.node[0].CopyFrom(helper.make_node("MatMul", ["x", "w"], ["y"]))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 700_000
    file.write_bytes(model.SerializeToString())
    assert main(["bench", "onnx", str(file), "--rounds", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert 8e6 < row["memory_bytes"] < 2e8
    assert main(["bench", "onnx", str(file), "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert "onnxruntime" in out
    assert "net.onnx" in out
    assert main(["bench", "onnx", str(file), "--size", "x=0"]) == 2
    assert "NAME=3,224,224" in capsys.readouterr().err
    assert main(["bench", "onnx", str(tmp_path / "none.onnx")]) == 2
