"""A latency is taken once and then read; the key knows graphs, not weights or names."""

import json
import multiprocessing
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdsearch.deploy import latency
from kdsearch.deploy.canonical import graph_key
from kdsearch.deploy.latency import (
    LEAST_RUNS,
    LEAST_S,
    REPEATS,
    WARM_UP_S,
    Latency,
    latency_key,
    measure,
    measure_call,
    stored,
)
from kdsearch.errors import ArtifactError
from kdsearch.kit.onnx import save_onnx
from kdsearch.store.cache import cache_folder


class Clock:
    """Seconds that pass by `step` at every reading."""

    def __init__(self, step=0.01):
        self.now, self.step, self.readings = 0.0, step, 0

    def __call__(self):
        self.readings += 1
        self.now += self.step
        return self.now


def mlp(seed=0, width=6, prefix="", swapped=False, shape=(-1, 2, 3), alpha=0.1):
    """x -> Reshape -> two parallel Gemms -> Add -> LeakyRelu, as an ONNX model."""
    rng = np.random.default_rng(seed)
    p = prefix
    weights = {f"{p}a": rng.random((6, width)), f"{p}b": rng.random((6, width))}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.asarray(shape, np.int64), f"{p}shape"))
    tensors.append(numpy_helper.from_array(np.asarray([-1, 6], np.int64), f"{p}flat"))
    gemms = [
        helper.make_node("Gemm", [f"{p}t", f"{p}a"], [f"{p}l"], name=f"{p}left"),
        helper.make_node("MatMul", [f"{p}t", f"{p}b"], [f"{p}r"], name=f"{p}right"),
    ]
    nodes = [
        helper.make_node("Reshape", ["x", f"{p}shape"], [f"{p}s"]),
        helper.make_node("Reshape", [f"{p}s", f"{p}flat"], [f"{p}t"]),
        *(gemms[::-1] if swapped else gemms),
        helper.make_node("Add", [f"{p}l", f"{p}r"], [f"{p}sum"]),
        helper.make_node("LeakyRelu", [f"{p}sum"], ["y"], alpha=alpha, doc_string=prefix),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", k]) for n, k in (("x", 6), ("y", width))]
    graph = helper.make_graph(nodes, f"{p}graph", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDSEARCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _not_brief(monkeypatch):
    """Timed as users' files are, unlike those of other tests."""
    monkeypatch.setattr(latency, "WARM_UP_S", WARM_UP_S)
    monkeypatch.setattr(latency, "LEAST_S", LEAST_S)


@pytest.fixture
def write(tmp_path):
    def write(name="m", **kwargs):
        save_onnx(mlp(**kwargs), tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.onnx"

    return write


X = [np.ones((3, 6), np.float32)]


def test_key_ignores_weights_names_metadata_and_order(write):
    key = graph_key(write())
    assert graph_key(write("seed", seed=1)) == key
    assert graph_key(write("names", prefix="other_")) == key
    assert graph_key(write("order", swapped=True)) == key


def test_key_sees_shapes_attributes_and_reshapes(write, tmp_path):
    keys = {graph_key(write()), graph_key(write("w", width=7)), graph_key(write("a", alpha=0.2))}
    keys.add(graph_key(write("s", shape=(-1, 3, 2))))
    model = mlp()
    model.graph.node[-1].op_type = "Elu"
    save_onnx(model, tmp_path / "elu.onnx")
    half = mlp()
    half.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((6, 6), np.float64), "a"))
    save_onnx(half, tmp_path / "double.onnx")
    once = mlp()
    once.graph.node[4].input[1] = once.graph.node[4].input[0]  # the right branch is computed and not used
    save_onnx(once, tmp_path / "once.onnx")
    keys |= {graph_key(tmp_path / f"{name}.onnx") for name in ("elu", "double", "once")}
    assert len(keys) == 7


def graph_of(tmp_path, nodes, tensors, opset=21):
    """The key of a graph of images x (1, 1, 8, 8) and their weights."""
    made = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], made)
    save_onnx(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), tmp_path / "g.onnx"
    )
    return graph_key(tmp_path / "g.onnx")


def resized(scales, bias=0.0, as_node=False):
    """Resize by constant scales, then a sum with a constant: nodes and tensors."""
    scales = np.asarray([1, 1, *scales], np.float32)
    made = [helper.make_node("Constant", [], ["s"], value=numpy_helper.from_array(scales, "s"))] if as_node else []
    nodes = [helper.make_node("Resize", ["x", "", "s"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])]
    return [*made, *nodes], {"b": np.float32([bias]), **({} if as_node else {"s": scales})}


@pytest.mark.parametrize("as_node", [False, True])
def test_key_sees_the_scales_of_a_resize_and_no_other_small_constant(tmp_path, as_node):
    keys = {scale: graph_of(tmp_path, *resized((scale, scale), as_node=as_node)) for scale in (2, 4)}
    assert keys[2] != keys[4]
    assert graph_of(tmp_path, *resized((2, 2), bias=1.0, as_node=as_node)) == keys[2]


def test_key_sees_what_shapes_are_computed_from(tmp_path):
    """As older exporters write interpolation: a size is the input's, times a constant of floats."""
    nodes = [
        helper.make_node("Shape", ["bent"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "s"], ["times"]),
        helper.make_node("Cast", ["times"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Resize", ["bent", "", "", "sizes"], ["y"]),
    ]
    bent = helper.make_node("Mul", ["x", "w"], ["bent"])

    def key(scale, weight):
        return graph_of(tmp_path, [bent, *nodes], {"s": np.float32([1, 1, scale, scale]), "w": np.float32([weight])})

    assert key(2, 1) != key(3, 1)
    assert key(2, 1) == key(2, 5)  # what a shape is taken of does not matter


def test_key_sees_what_decides_in_nested_graphs(tmp_path):
    """A branch whose scales are of the graph around it, and of its own; a constant condition."""

    def key(outside, inside, taken, weight=1.0):
        scales = {"s": np.float32([1, 1, outside, outside]), "c": np.asarray(taken), "w": np.float32([weight])}
        own = numpy_helper.from_array(np.float32([1, 1, inside, inside]), "t")
        found = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
        then = helper.make_graph([helper.make_node("Resize", ["x", "", "s"], ["z"])], "then", [], [found])
        other = helper.make_graph([helper.make_node("Resize", ["x", "", "t"], ["z"])], "else", [], [found], [own])
        nodes = [
            helper.make_node("If", ["c"], ["chosen"], then_branch=then, else_branch=other),
            helper.make_node("Mul", ["chosen", "w"], ["y"]),
        ]
        return graph_of(tmp_path, nodes, scales)

    assert len({key(2, 2, True), key(3, 2, True), key(2, 3, True), key(2, 2, False)}) == 4
    assert key(2, 2, True) == key(2, 2, True, weight=5.0)


def test_key_sees_no_weights_that_a_condition_is_computed_from(tmp_path):
    """A slice that goes by the network's own answer: its end counts, the weights behind the answer are too many for that."""

    def key(weights, last):
        nodes = [
            helper.make_node("Reshape", ["x", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "w"], ["answer"]),
            helper.make_node("ArgMax", ["answer"], ["at"], axis=1, keepdims=0),
            helper.make_node("Cast", ["at"], ["start"], to=TensorProto.INT32),
            helper.make_node("Slice", ["row", "start", "end", "axis"], ["y"]),
        ]
        tensors = {"flat": np.int64([1, 64]), "w": np.full((64, 3), weights, np.float32)}
        return graph_of(tmp_path, nodes, {**tensors, "end": np.int32([last]), "axis": np.int32([1])})

    assert key(1, 9) == key(2, 9)
    assert key(1, 9) != key(1, 10)


def test_key_sees_equal_work_done_twice(tmp_path):
    once, twice = mlp(), mlp()
    for model in (once, twice):
        model.graph.node[3].CopyFrom(model.graph.node[2])
        model.graph.node[3].output[0] = "r"
    once.graph.node[4].input[1] = "l"
    del once.graph.node[3]
    save_onnx(once, tmp_path / "once.onnx")
    save_onnx(twice, tmp_path / "twice.onnx")
    assert graph_key(tmp_path / "once.onnx") != graph_key(tmp_path / "twice.onnx")


def test_the_stored_key_knows_sample_shape_threads_and_machine(write, monkeypatch):
    file = write()
    keys = {latency_key(file, X), latency_key(file, X, 2), latency_key(file, [np.ones((1, 6), np.float64)])}
    assert latency_key(file, [np.ones((9, 6), np.float32)]) in keys  # batch size is not part of it
    monkeypatch.setattr(latency, "machine", lambda: {"cpu": "another"})
    keys.add(latency_key(file, X))
    keys.add(latency_key(file, X, entries={"session.disable_prepacking": "1"}))
    assert len(keys) == 5


def test_min_and_median_are_those_of_the_clock(write):
    clock = Clock(0.002)
    found = measure(write(), X, clock=clock)
    assert found.min_ms == pytest.approx(2.0)
    assert found.median_ms == pytest.approx(2.0)
    assert found.spread_ms == pytest.approx(0.0)
    assert found.runs >= REPEATS * LEAST_RUNS
    assert found.runs * 2 * 0.002 >= REPEATS * 0.1 - 0.01  # two readings a run


def test_a_slow_file_is_not_run_fifty_times(write):
    assert 3 * REPEATS <= measure(write(), X, clock=Clock(2.0)).runs < REPEATS * LEAST_RUNS


def test_what_is_no_file_of_onnx_is_opened_anew_for_each_session():
    """As a file is: the sessions' medians, their spread; nothing is stored."""
    opened, step = [], [0.002, 0.004, 0.003]

    def open_one():
        clock.step = step[len(opened) % 3]
        opened.append(1)
        return lambda: None

    clock = Clock(0.002)
    found = measure_call(open_one, clock=clock)
    assert (len(opened), found.min_ms) == (3, pytest.approx(2.0))
    assert (found.median_ms, found.spread_ms) == (pytest.approx(3.0, abs=1.0), pytest.approx(2.0))
    measure_call(open_one, repeats=1, clock=clock)
    assert len(opened) == 4


def test_spread_is_of_the_sessions_medians(write):
    """By a clock that runs twice as fast in each further session the medians are 1, 2 and 4 ms."""
    clock, sessions = Clock(0.001), []
    real = latency.open_session

    def opened(*args, **kwargs):
        if sessions:
            clock.step *= 2
        sessions.append(kwargs["entries"])
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "open_session", opened)
        found = measure(write(), X, clock=clock, entries={"session.disable_prepacking": "1"})
    assert found.spread_ms == pytest.approx(3.0)
    assert found.min_ms == pytest.approx(1.0)
    assert sessions == [{"session.disable_prepacking": "1"}] * REPEATS


def test_measured_once_then_only_read(write):
    clock = Clock()
    first = measure(write(), X, clock=clock)
    taken = clock.readings
    assert taken > LEAST_RUNS
    assert measure(write("other weights", seed=5, prefix="q"), X, clock=clock) == first
    assert clock.readings == taken
    assert stored(latency_key(write(), X)) == first
    measure(write("wider", width=9), X, clock=clock)
    assert clock.readings > taken


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", '{"format": 2}',
     '{"format": 2, "min_ms": "x", "median_ms": 1, "spread_ms": 0, "runs": 1}',
     '{"format": 2, "min_ms": NaN, "median_ms": NaN, "spread_ms": 0, "runs": 5}',
     '{"format": 2, "min_ms": 3, "median_ms": 2, "spread_ms": 0, "runs": 5}',
     '{"format": 2, "min_ms": 1, "median_ms": 2, "spread_ms": NaN, "runs": 5}',
     '{"format": 2, "min_ms": 1, "median_ms": 2, "runs": 5}',
     '{"format": 9, "min_ms": 1, "median_ms": 2, "spread_ms": 0, "runs": 5}'],
)  # fmt: skip
def test_a_damaged_entry_is_measured_again(write, damage):
    first = measure(write(), X, clock=Clock())
    [entry] = (cache_folder() / "latency").glob("*.json")
    entry.write_text(damage)
    clock = Clock()
    assert measure(write(), X, clock=clock) == first
    assert clock.readings > LEAST_RUNS
    assert json.loads(entry.read_text())["runs"] == first.runs


def test_binary_damage_too(write):
    measure(write(), X, clock=Clock())
    [entry] = (cache_folder() / "latency").glob("*.json")
    entry.write_bytes(b"\xff\xfe\x00")
    assert stored(entry.stem) is None


def take(file, results):
    clock = Clock()
    results.put((measure(file, X, clock=clock), clock.readings))


def test_of_two_processes_one_measures(write):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=take, args=(write(), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    (first, a), (second, b) = (results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert first == second
    assert min(a, b) == 0 < max(a, b)


def test_a_corrupt_file_is_no_measurement(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtifactError):
        measure(tmp_path / "bad.onnx", X)
    assert not cache_folder().exists()


def test_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("KDSEARCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "kdsearch"


def test_a_real_clock_gives_a_plausible_latency(write):
    found = measure(write(), X)
    assert isinstance(found, Latency)
    assert 0 < found.min_ms <= found.median_ms < 1000


def test_control_flow_counts(tmp_path):
    def model(op):
        info = helper.make_tensor_value_info
        branch = [
            helper.make_graph([helper.make_node(kind, ["x"], ["z"])], "b", [], [info("z", TensorProto.FLOAT, ["n"])])
            for kind in ("Relu", op)
        ]
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])
        inputs = [info("x", TensorProto.FLOAT, ["n"]), info("c", TensorProto.BOOL, [])]
        graph = helper.make_graph([node], "g", inputs, [info("y", TensorProto.FLOAT, ["n"])])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
        onnx.checker.check_model(made)
        save_onnx(made, tmp_path / f"{op}.onnx")
        return graph_key(tmp_path / f"{op}.onnx")

    assert model("Neg") != model("Abs")
