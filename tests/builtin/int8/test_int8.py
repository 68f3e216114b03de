"""INT8 files: accuracy, determinism, what is stored, and that nobody is disturbed."""

import logging
import math
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from kdsearch.builtin.int8 import choices as of
from kdsearch.builtin.int8 import static
from kdsearch.builtin.int8.choices import relative_error
from kdsearch.builtin.int8.quantizer import Int8, Int8Options
from kdsearch.builtin.int8.ready import ready
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.audit import size_bytes, weight_share
from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.deploy.latency import Latency
from kdsearch.errors import RefusedError, UserError
from kdsearch.kinds import Field, Graph, Judge, Plan
from kdsearch.kinds.options import validate
from tests.deploy.nets import LOGITS, NETS, Lstm, batch_of, digits

EXPORTER = OnnxExporter(OnnxOptions())
TRACED = OnnxExporter(OnnxOptions(engine="torchscript"))  # a tenth of the time
FEEDS = [{"image": digits()[0][at : at + 30].numpy()} for at in range(0, 250, 30)]  # the last one is shorter


def accuracy(file):
    _, _, x, y = digits()
    return float((EXPORTER.load(file)(x)["logits"].argmax(1) == y).float().mean())


def quantised(fp32, tmp_path, name, label="q", feeds=FEEDS, **options):
    file = tmp_path / f"{label}.onnx"
    shutil.copy(fp32 / f"{name}.onnx", file)
    quantizer = Int8(Int8Options(**options))
    quantizer.rewrite(file, quantizer.plan(None), feeds)
    return file


@pytest.mark.parametrize("name", list(NETS))
def test_accuracy_holds_and_nearly_all_weights_are_int8(name, fp32, tmp_path):
    file, before = quantised(fp32, tmp_path, name), fp32 / f"{name}.onnx"
    assert accuracy(file) >= accuracy(before) - 0.015
    share = weight_share(file, before)
    assert share["8"] > 0.9  # of the transformer: biases, norms and the position table stay fp32
    assert sum(share.values()) == pytest.approx(1, abs=1e-9)
    assert size_bytes(file) < size_bytes(before)


def test_percentiles_take_uneven_feeds_and_give_other_ranges(fp32, tmp_path):
    file = quantised(fp32, tmp_path, "depthwise", calibration="percentile")
    assert accuracy(file) >= accuracy(fp32 / "depthwise.onnx") - 0.015
    assert file.read_bytes() != quantised(fp32, tmp_path, "depthwise", "minmax").read_bytes()


def test_activations_are_unsigned_and_weights_signed_per_channel(fp32, tmp_path):
    model = read_onnx(quantised(fp32, tmp_path, "residual"))
    tensors = {each.name: each for each in model.graph.initializer}
    zeros = [tensors[node.input[2]].data_type for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert set(zeros) == {2}  # UINT8
    kernels = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    kernels = [node for node in kernels if len(tensors[node.input[0]].dims) == 4]
    assert len(kernels) == 6
    assert {tensors[node.input[0]].data_type for node in kernels} == {3}  # INT8
    assert [list(tensors[node.input[1]].dims) for node in kernels] == [
        [tensors[node.input[0]].dims[0]] for node in kernels
    ]


def test_one_scale_a_tensor_when_asked(fp32, tmp_path):
    model = read_onnx(quantised(fp32, tmp_path, "residual", per_channel=False))
    tensors = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            assert math.prod(tensors[node.input[1]].dims) == 1


class Ones(nn.Module):
    """All weights 1: every product is the largest that there is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        nn.init.ones_(self.linear.weight)

    def forward(self, image):
        return self.linear(image)


def added_in_16_bits(x, weights):
    """x (N, K) U8 times weights (K, M) I8 as VPMADDUBSW and VPMADDWD do it: pairs of products, saturated to 16 bits, then added."""
    products = x.astype(np.int64)[:, :, None] * weights.astype(np.int64)[None]
    pairs = products[:, 0::2] + products[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(1)


@pytest.mark.parametrize("reduce_range", [True, False])
def test_sums_fit_the_16_bits_of_processors_without_vnni(reduce_range, tmp_path):
    x = torch.rand(40, 64, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.8
    file = tmp_path / "ones.onnx"
    TRACED.write(Graph(Ones(), (Field("image", "vector", (64,)),), (LOGITS,)), batch_of(image=x[:2]), file)
    quantizer = Int8(Int8Options(reduce_range=reduce_range))
    plan = quantizer.plan(None)
    quantizer.rewrite(file, plan, [{"image": x.numpy()}])
    model = read_onnx(file)
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    scale, zero = next(
        (tensors[node.input[1]], tensors[node.input[2]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == "image"
    )
    weights = next(each for each in tensors.values() if each.dtype == np.int8 and each.size == 640)
    weights = weights if weights.shape[0] == 64 else weights.T
    given = np.clip(np.rint(x.numpy() / scale) + zero, 0, 255)
    exact = given.astype(np.int64) @ weights.astype(np.int64)
    assert np.array_equal(added_in_16_bits(given, weights), exact) == reduce_range
    assert ("7 bits" in plan.log[1]) == reduce_range


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", list(NETS))
def test_no_two_products_overflow_16_bits(name, per_channel, fp32, tmp_path):
    model = read_onnx(quantised(fp32, tmp_path, name, per_channel=per_channel))
    weights = [numpy_helper.to_array(each) for each in model.graph.initializer if each.data_type == 3 and each.dims]
    assert max(np.abs(each.astype(np.int64)).max() for each in weights) * 2 * 255 < 2**15


def rounded(file):
    """Kinds of operators whose result is rounded to 8 bits at once."""
    model = read_onnx(file)
    taken = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return {node.op_type for node in model.graph.node if taken & set(node.output)}


def test_a_transformer_keeps_its_residual_stream_and_a_cnn_does_not(fp32, tmp_path):
    assert "MatMul" in rounded(quantised(fp32, tmp_path, "vit", mode="static"))
    assert "Add" not in rounded(quantised(fp32, tmp_path, "vit", mode="static"))
    assert "Add" in rounded(quantised(fp32, tmp_path, "vit", mode="static", operators="all"))
    assert "Add" in rounded(quantised(fp32, tmp_path, "residual"))
    assert "Add" not in rounded(quantised(fp32, tmp_path, "residual", operators="layers"))


def test_first_and_last_layer_stay_when_asked(fp32, tmp_path):
    file = quantised(fp32, tmp_path, "residual", keep_first=True, keep_last=True)
    total = 16 * 9 + 16 + 2 * (2304 + 16) + 16 * 32 * 9 + 32 + 32 * 32 * 9 + 32 + 16 * 32 + 32 + 320 + 10
    inner = 2 * 2304 + 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32
    assert weight_share(file, fp32 / "residual.onnx")["8"] == pytest.approx(inner / total)


def test_only_the_planned_number_of_samples_is_drawn(fp32, tmp_path):
    drawn = []

    def feeds():
        for each in FEEDS:
            drawn.append(len(each["image"]))
            yield each

    few = quantised(fp32, tmp_path, "mlp", "few", feeds(), samples=40)
    assert sum(drawn) == 60
    same = quantised(fp32, tmp_path, "mlp", "same", [{"image": digits()[0][:40].numpy()}], samples=400)
    assert few.read_bytes() == same.read_bytes()


def test_equal_bytes_twice_without_paths_and_without_left_overs(fp32, tmp_path):
    first, second = (quantised(fp32, tmp_path, "residual", label) for label in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_the_plan_not_the_object_decides(fp32, tmp_path):
    plan = Int8(Int8Options(per_channel=False)).plan(None)
    plan = Plan(dict(plan.edits))
    file = tmp_path / "p.onnx"
    shutil.copy(fp32 / "mlp.onnx", file)
    Int8(Int8Options()).rewrite(file, plan, FEEDS)
    assert file.read_bytes() == quantised(fp32, tmp_path, "mlp", per_channel=False).read_bytes()


def test_root_logging_and_stdout_are_left_alone(fp32, tmp_path, capsys):
    level, disabled = logging.getLogger().level, logging.root.manager.disable
    quantised(fp32, tmp_path, "mlp", calibration="percentile")
    assert (logging.getLogger().level, logging.root.manager.disable) == (level, disabled)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", ["auto", "static", "dynamic"])
def test_layers_in_float16_stay_so(mode, tmp_path):
    """onnxruntime computes them in fp32 behind casts: weights would be rounded at each call, and none be stored in 8 bits."""
    given, answered = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, ["n", 4]) for name in "xy")
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float16), "w")
    body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", [given], [answered], [weight])
    file = tmp_path / "net.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file)
    quantizer, feeds = Int8(Int8Options(mode=mode)), [{"x": np.ones((8, 4), np.float16)}]
    with pytest.raises(RefusedError, match="its layers are in float16: INT8 is made of a network in fp32"):
        quantizer.rewrite(file, quantizer.plan(None), feeds)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_where_nothing_is_quantised_that_is_said(mode, tmp_path):
    """Of weights in float64, which onnxruntime's quantiser passes over."""
    given, answered = (helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, ["n", 4]) for name in "xy")
    weight = numpy_helper.from_array(np.eye(4), "w")
    body = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", [given], [answered], [weight])
    file = tmp_path / "net.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), file)
    quantizer = Int8(Int8Options(mode=mode))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": np.ones((8, 4))}])
    assert any(each.startswith("nothing is in 8 bits") for each in quantizer.notes)


def test_nothing_to_calibrate_with(fp32, tmp_path):
    before = (fp32 / "mlp.onnx").read_bytes()
    with pytest.raises(UserError, match="no calibration samples"):
        quantised(fp32, tmp_path, "mlp", feeds=[])
    assert (tmp_path / "q.onnx").read_bytes() == before


def test_a_recurrent_network_still_runs(tmp_path):
    x = torch.randn(20, 6, 8, generator=torch.Generator().manual_seed(0))
    graph = Graph(Lstm(), (Field("x", "sequence", (None, 8)),), (LOGITS,))
    file = tmp_path / "lstm.onnx"
    EXPORTER.write(graph, batch_of(x=x[:2]), file)
    expected = EXPORTER.load(file)(x)["logits"]
    quantizer = Int8(Int8Options())
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x.numpy()}])
    got = EXPORTER.load(file)(x)["logits"]
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()
    assert EXPORTER.load(file)(x[:1, :3])["logits"].shape == (1, 10)


class Again(nn.Module):
    """An LSTM, and a layer that is run twice behind it."""

    def __init__(self):
        super().__init__()
        self.lstm, self.layer, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.lstm(x)[0][:, -1]
        return self.head(self.layer(self.layer(x).relu()))


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_layer_that_is_run_twice_behind_an_lstm(mode, tmp_path):
    torch.manual_seed(0)
    x, graph = torch.randn(20, 6, 8), Graph(Again().eval(), (Field("x", "sequence", (6, 8)),), (LOGITS,))
    file = tmp_path / "again.onnx"
    TRACED.write(graph, batch_of(x=x[:2]), file)
    quantizer = Int8(Int8Options(mode=mode))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x.numpy()}])
    expected = graph.module(x).detach()
    assert (TRACED.load(file)(x)["logits"] - expected).norm() < 0.05 * expected.norm()


def file_of(file, nodes, shape, out, tensors, kind=1):
    """Nodes from x (N, *shape) to y (N, *out)."""
    infos = [
        helper.make_tensor_value_info("x", kind, ["n", *shape]),
        helper.make_tensor_value_info("y", 1, ["n", *out]),
    ]
    kept = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    return file


def answers(file, x, **options):
    """What the quantised file says of the samples that it was calibrated on."""
    quantizer = Int8(Int8Options(samples=len(x), **options))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    return open_session(file).run(None, {"x": x})[0]


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shared", [False, True])
def test_a_sum_that_is_scaled_is_no_other(shared, tmp_path):
    """alpha x w + beta b; b may be added as it is elsewhere."""
    w, b, x = drawn(64, 24), drawn(24), drawn(32, 64)
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["g"], alpha=0.5, beta=3.0)
    last = helper.make_node("Add", ["g", "b"], ["y"]) if shared else helper.make_node("Identity", ["g"], ["y"])
    got = answers(file_of(tmp_path / "f.onnx", [gemm, last], [64], [24], {"w": w, "b": b}), x)
    exact = 0.5 * x @ w + (4 if shared else 3) * b
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_products_with_several_matrices_run(mode, tmp_path):
    w, x = drawn(4, 64, 24), drawn(32, 4, 5, 64)
    file = file_of(
        tmp_path / "f.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], [4, 5, 64], [4, 5, 24], {"w": w}
    )
    got, exact = answers(file, x, mode=mode), x @ w
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_table_whose_rows_a_product_reads(mode, tmp_path):
    """Both are quantised, and each calls what it makes by a name of its own."""
    table, w = drawn(50, 32), drawn(32, 16)
    x = np.random.default_rng(0).integers(0, 50, (32, 5))
    nodes = [helper.make_node("Gather", ["t", "x"], ["e"]), helper.make_node("MatMul", ["e", "w"], ["y"])]
    file = file_of(tmp_path / "f.onnx", nodes, [5], [5, 16], {"t": table, "w": w}, kind=7)
    got, exact = answers(file, x, mode=mode), table[x] @ w
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("shape", [(1, 24), (1,), ()])
def test_a_bias_may_have_any_shape_that_is_added_to_each_sample(shape, tmp_path):
    w, b, x = drawn(64, 24), drawn(*shape), drawn(32, 64)
    file = file_of(
        tmp_path / "f.onnx", [helper.make_node("Gemm", ["x", "w", "b"], ["y"])], [64], [24], {"w": w, "b": b}
    )
    got, exact = answers(file, x), x @ w + b
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)


def conv(kind, name, x, y):
    return helper.make_node(kind, [x, name], [y], pads=[1, 1, 1, 1])


READ_TWICE = {
    "as it is and transposed": ((16, 64), [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1),
                                           helper.make_node("MatMul", ["h", "w"], ["y"])], (64, 64)),
    "forward and back": ((4, 8, 9, 9), [conv("Conv", "w", "x", "h"), conv("ConvTranspose", "w", "h", "y")], (8, 8, 3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("how", list(READ_TWICE))
def test_a_weight_whose_outputs_lie_along_two_axes(how, per_channel, tmp_path):
    """Rows of very different sizes: scales along the other axis would be far off. Beside torch's answers in float."""
    shape, nodes, weight = READ_TWICE[how]
    x, w = drawn(*shape), drawn(*weight) * np.exp(0.5 * drawn(weight[0], *[1] * (len(weight) - 1)))
    file = file_of(tmp_path / "f.onnx", nodes, shape[1:], shape[1:], {"w": w.astype(np.float32)})
    a, b = torch.from_numpy(x), torch.from_numpy(w)
    if len(weight) == 2:
        exact = (a @ b.T @ b).numpy()
    else:
        exact = torch.conv_transpose2d(torch.conv2d(a, b, padding=1), b, padding=1).numpy()
    got = answers(file, x, per_channel=per_channel)
    assert np.linalg.norm(got - exact) < (0.03 if per_channel else 0.08) * np.linalg.norm(exact)


@pytest.mark.parametrize("by", ["a product", "a branch"])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_table_that_others_read_too(mode, by, tmp_path):
    table, x = drawn(32, 32), np.arange(32)
    nodes = [helper.make_node("Gather", ["t", "x"], ["e"]), helper.make_node("MatMul", ["e", "t"], ["y"])]
    if by == "a branch":
        branches = {
            which: helper.make_graph(
                [helper.make_node("MatMul", ["e", "t"], [which])],
                "g",
                [],
                [helper.make_tensor_value_info(which, 1, None)],
            )
            for which in ("then_branch", "else_branch")
        }
        nodes[1:] = [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "two"], ["yes"]),
            helper.make_node("If", ["yes"], ["y"], **branches),
        ]
    file = file_of(tmp_path / "f.onnx", nodes, [], [32], {"t": table, "two": np.asarray(2)}, kind=7)
    got, exact = answers(file, x, mode=mode), table[x] @ table
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)


def test_what_onnxruntime_cannot_quantise_is_refused(tmp_path):
    """A bias of another row for each sample of two."""
    nodes, tensors = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": drawn(64, 24), "b": drawn(2, 24)}
    file = file_of(tmp_path / "f.onnx", nodes, [64], [24], tensors)
    with pytest.raises(RefusedError, match="onnxruntime's quantiser fails: "):
        answers(file, drawn(32, 64))


@pytest.mark.parametrize("op", ["Relu", "Clip"])
@pytest.mark.parametrize("calibration", ["minmax", "percentile"])
def test_an_output_that_a_relu_reads_keeps_its_negative_values(calibration, op, tmp_path):
    """An answer before the activation, and one behind it: each by its own range."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(32, 12)).astype(np.float32), rng.normal(size=(64, 12)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1),
        helper.make_node(op, ["y"] if op == "Relu" else ["y", "zero"], ["z"]),
    ]
    sizes = {"x": 12, "y": 32, "z": 32}
    infos = [helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in sizes.items()]
    tensors = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.zeros(32, np.float32), "b")]
    tensors += [numpy_helper.from_array(np.float32(0), "zero")] if op == "Clip" else []
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, file := tmp_path / "f.onnx")
    quantizer = Int8(Int8Options(samples=64, calibration=calibration))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    before, behind = open_session(file).run(["y", "z"], {"x": x})
    exact = x @ w.T
    assert np.linalg.norm(before - exact) < 0.035 * np.linalg.norm(exact)  # the outermost are clipped
    assert np.linalg.norm(behind - np.maximum(exact, 0)) < 0.035 * np.linalg.norm(exact)  # the outermost are clipped


def test_options_are_checked():
    assert validate(Int8Options, {"samples": 64}).samples == 64
    with pytest.raises(Exception, match="calibration"):
        validate(Int8Options, {"calibration": "guess"})
    assert np.isfinite(FEEDS[0]["image"]).all()


class Texts(nn.Module):
    """A table of 300 rows, an LSTM where asked, a linear layer; answers of any length."""

    def __init__(self, recurrent):
        super().__init__()
        self.table, self.head = nn.Embedding(300, 16), nn.Linear(16, 4)
        self.lstm = nn.LSTM(16, 16, batch_first=True) if recurrent else None

    def forward(self, tokens):
        found = self.table(tokens)
        return self.head((found if self.lstm is None else self.lstm(found)[0]).mean(1))


TOKENS = Field("tokens", "tokens", (None,), "int64", n_values=300)


def ragged(n=24):
    rng = torch.Generator().manual_seed(0)
    return [
        {"tokens": torch.randint(300, (3, int(length)), generator=rng).numpy()}
        for length in torch.randint(2, 20, (n // 3,), generator=rng)
    ]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Whether it is recurrent -> a network's graph and its file."""
    found, folder = {}, tmp_path_factory.mktemp("texts")
    samples = batch_of(tokens=torch.from_numpy(ragged()[0]["tokens"]))
    for recurrent in (False, True):
        torch.manual_seed(0)
        graph = Graph(Texts(recurrent).eval(), (TOKENS,), (Field("logits", "logits", (4,)),))
        found[recurrent] = graph, folder / f"{recurrent}.onnx"
        EXPORTER.write(graph, samples, found[recurrent][1])
    return found


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("options", [{}, {"calibration": "percentile"}, {"per_channel": False}], ids=str)
def test_texts_of_several_lengths_calibrate_and_their_table_is_stored_in_8_bits(recurrent, options, texts, tmp_path):
    graph, whole = texts[recurrent]
    file = tmp_path / "q.onnx"
    shutil.copy(whole, file)
    quantizer = Int8(Int8Options(samples=24, **options))
    quantizer.rewrite(file, quantizer.plan(None), ragged())
    share = weight_share(file, whole)
    assert share["8"] > 0.95
    call = EXPORTER.load(file)
    for length in (6, 12, 31):  # means over fewer tokens than any that was calibrated with are larger
        tokens = torch.randint(300, (5, length), generator=torch.Generator().manual_seed(length))
        expected = graph.module(tokens).detach()
        assert (call(tokens)["logits"] - expected).norm() < 0.1 * expected.norm()
    kinds = {node.op_type for node in read_onnx(file).graph.node}
    assert ("DynamicQuantizeLSTM" in kinds) == recurrent
    assert "LSTM" not in kinds


def test_a_table_is_as_near_as_its_column_s_scale(tmp_path):
    torch.manual_seed(0)
    net = Texts(False).eval()
    with torch.no_grad():
        net.table.weight[:, 3] *= 100
        net.head.weight.copy_(torch.eye(4, 16))
    graph = Graph(net.table, (TOKENS,), (Field("found", "vector", (None, 16)),))
    file = tmp_path / "q.onnx"
    TRACED.write(graph, batch_of(tokens=torch.arange(6).view(2, 3)), file)
    quantizer = Int8(Int8Options(samples=3))
    quantizer.rewrite(file, quantizer.plan(None), ragged(3))
    found = EXPORTER.load(file)(torch.arange(300)[None])["found"][0]
    scale = net.table.weight.detach().abs().amax(0) / 127
    assert bool(((found - net.table.weight.detach()).abs() <= 0.5001 * scale).all())
    kept = tmp_path / "kept.onnx"
    TRACED.write(graph, batch_of(tokens=torch.arange(6).view(2, 3)), kept)
    quantizer = Int8(Int8Options(samples=3, keep_first=True))
    quantizer.rewrite(kept, quantizer.plan(None), ragged(3))
    assert torch.equal(EXPORTER.load(kept)(torch.arange(300)[None])["found"][0], net.table.weight.detach())


@pytest.mark.parametrize("calibration", ["entropy", "mse"])
def test_other_ranges_keep_the_accuracy(calibration, fp32, tmp_path):
    file = quantised(fp32, tmp_path, "residual", calibration, calibration=calibration)
    other = quantised(fp32, tmp_path, "residual", "minmax")
    assert accuracy(file) >= accuracy(fp32 / "residual.onnx") - 0.02
    assert scales_of(file) != scales_of(other)
    assert len(scales_of(file)) == len(scales_of(other))
    assert all(a <= b * 1.001 for a, b in zip(scales_of(file), scales_of(other), strict=True)), "no range is wider"


def scales_of(file):
    """Of activations, sorted by name."""
    model = read_onnx(file)
    tensors = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes = sorted(
        (node for node in model.graph.node if node.op_type == "QuantizeLinear"), key=lambda node: node.input[0]
    )
    return [float(tensors[node.input[1]]) for node in nodes if tensors[node.input[1]].ndim == 0]


def test_the_most_sensitive_layers_stay(fp32, tmp_path):
    """Nearer to fp32 than the whole at INT8; the file's own words say which."""
    whole = quantised(fp32, tmp_path, "depthwise", "whole")
    quantizer = Int8(Int8Options(samples=64, keep_sensitive=1))
    file = tmp_path / "kept.onnx"
    shutil.copy(fp32 / "depthwise.onnx", file)
    quantizer.rewrite(file, quantizer.plan(None), FEEDS)
    rows = [{"image": FEEDS[0]["image"][i : i + 1]} for i in range(32)]
    errors = [relative_error(fp32 / "depthwise.onnx", each, rows) for each in (file, whole)]
    assert errors[0] < errors[1]
    (said,) = quantizer.notes
    assert said.startswith("in fp32, as the most sensitive: ")
    name = said.rpartition(" ")[2]
    node = next(node for node in read_onnx(file).graph.node if node.name == name)
    produced = {
        name for each in read_onnx(file).graph.node if each.op_type == "DequantizeLinear" for name in each.output
    }
    assert node.input[1] not in produced, "its weight is as it was"


def test_layers_go_back_to_fp32_until_the_bound_holds(fp32, tmp_path):
    """As few, by twos, as keep what may be lost; none where the file keeps it as it is, and none without a judge."""
    source = fp32 / "depthwise.onnx"
    rows = [{"image": FEEDS[0]["image"][i : i + 1]} for i in range(16)]

    def lost(file):
        return relative_error(source, file, rows)

    def made(allowed, **options):
        file, quantizer = tmp_path / "q.onnx", Int8(Int8Options(samples=32, **options))
        quantizer.judge = None if allowed is None else Judge(lost, allowed, 0.0)
        shutil.copy(source, file)
        quantizer.rewrite(file, quantizer.plan(None), FEEDS)
        return file.read_bytes(), lost(file), quantizer.notes

    plain, whole, notes = made(None)
    assert notes == ()
    assert made(whole + 1e-9) == (plain, whole, ())
    assert made(0.5 * whole, mixed=False)[0] == plain
    _, now, (said,) = made(0.8 * whole)
    assert now <= 0.8 * whole
    n = int(said.partition(" ")[0])
    assert n in (1, 2, 4, 8)
    losses = [
        float(each.partition(": ")[2]) for each in said.partition("so many lose ")[2].split(", and ")[0].split(", ")
    ]
    assert all(each > 0.8 * whole for each in losses[:-1]), "with fewer it broke"
    assert losses[-1] == pytest.approx(now, rel=1e-3)
    _, best, (said,) = made(0.0)
    assert best < 0.8 * whole, "where nothing holds, what loses least"
    assert "0 may be lost" in said


class Words(nn.Module):
    """An LSTM over tokens, with a linear layer that takes one feature from a far larger range than the others'."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.lstm, self.head = nn.Embedding(50, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, tokens):
        return self.head(self.lstm(self.table(tokens))[0].mean(1))


@pytest.mark.parametrize(("mixed", "losses"), [(0.2, "static"), (0.4, "dynamic"), (None, "dynamic")])
def test_a_dynamic_file_that_loses_too_much_gives_way_to_layers_in_fp32(mixed, losses, tmp_path, monkeypatch):
    net = Words()
    net.head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4))
    graph, file = Graph(net.eval(), (TOKENS,), (Field("logits", "logits", (4,)),)), tmp_path / "q.onnx"
    EXPORTER.write(graph, batch_of(tokens=torch.arange(12).view(2, 6)), file)
    monkeypatch.setattr(of, "measure", lambda file, row: Latency(0.0, 1.0, 0.0, 3))
    quantizer = Int8(Int8Options(samples=8, mixed=mixed is not None))
    lost = {"dynamic": 0.3, "static": 0.5, "mixed": mixed}
    quantizer.judge = Judge(lambda file: lost[file.stem.partition("-")[0]], 0.1, 0.005)
    quantizer.rewrite(file, quantizer.plan(None), [{"tokens": torch.arange(48).view(8, 6).numpy()}])
    assert quantizer.notes[0] == "dynamic: on validation static loses 0.5, dynamic loses 0.3"
    assert len(quantizer.notes) == {0.2: 2, 0.4: 3, None: 1}[mixed]
    assert quantizer.notes[2:] == (("dynamic all the same: it loses 0.3",) if mixed == 0.4 else ())
    kinds = {node.op_type for node in read_onnx(file).graph.node}
    assert ("QuantizeLinear" in kinds) == (losses == "static")


def test_a_recurrent_network_takes_what_measures_better(tmp_path, monkeypatch):
    """By error first, then latency, then bytes, of both files; and what is chosen is said."""
    graph = Graph(Words().eval(), (TOKENS,), (Field("logits", "logits", (4,)),))
    whole = tmp_path / "fp32.onnx"
    EXPORTER.write(graph, batch_of(tokens=torch.arange(12).view(2, 6)), whole)
    feeds = [{"tokens": torch.randint(50, (16, 6), generator=torch.Generator().manual_seed(0)).numpy()}]

    def made(errors, latencies, mode="auto", judge=None):
        file = tmp_path / "q.onnx"
        shutil.copy(whole, file)
        monkeypatch.setattr(of, "relative_error", lambda _, file, rows: errors[file.stem.partition("-")[0]])
        monkeypatch.setattr(
            of, "measure", lambda file, row: Latency(0.0, latencies[file.stem.partition("-")[0]], 0.0, 3)
        )
        quantizer = Int8(Int8Options(samples=16, mode=mode))
        quantizer.judge = judge
        quantizer.rewrite(file, quantizer.plan(None), feeds)
        return file, quantizer.notes

    def validation(static, dynamic):
        losses = {"static": static, "dynamic": dynamic}
        return Judge(lambda file: losses.get(file.stem.partition("-")[0], 0.0), 0.1, 0.005)

    equal = {"static": 1.0, "dynamic": 1.0}
    _, (said,) = made({"static": 0.01, "dynamic": 0.02}, equal)
    assert said.startswith("static, by 16 samples (static: error 0.01, ")
    _, (said,) = made({"static": 0.01, "dynamic": 0.011}, {"static": 1.0, "dynamic": 0.6})
    assert said.startswith("dynamic")
    _, (said,) = made({"static": 0.01, "dynamic": 0.011}, {"static": 0.6, "dynamic": 1.0})
    assert said.startswith("static")
    errors = {"static": 0.01, "dynamic": 0.5}
    _, (said,) = made(errors, equal, judge=validation(0.03, 0.0))
    assert said == "dynamic: on validation static loses 0.03, dynamic loses 0", "validation before training samples"
    _, (said,) = made(errors, {"static": 1.0, "dynamic": 0.6}, judge=validation(0.002, 0.0))
    assert said.startswith("dynamic, by latency: on validation both are as good")
    _, (said,) = made(errors, equal, judge=validation(0.0, 0.002))
    assert said.startswith("static, by latency"), "as good and as fast: the nearer"
    file, notes = made(equal, equal, "dynamic")
    assert notes == ()
    kinds = {node.op_type for node in read_onnx(file).graph.node}
    assert kinds & {"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    assert "DynamicQuantizeLSTM" in kinds
    assert weight_share(file, whole)["8"] > 0.9


def three_layers(file):
    """Two matrix products after a Gemm and a Relu."""
    nodes = [
        helper.make_node("Gemm", ["x", "a", "c"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["k"]),
        helper.make_node("MatMul", ["k", "b"], ["y"]),
    ]
    return file_of(file, nodes, [16], [24], {"a": drawn(16, 24), "b": drawn(24, 24), "c": drawn(24)})


def test_ranges_are_taken_once_for_all_layers_that_are_quantised_alone(tmp_path, monkeypatch):
    """Each such file is, byte for byte, what a pass of its own over the samples makes."""
    drawn_rows, get_next = [0], static._Reader.get_next

    def counted(self):
        row = get_next(self)
        drawn_rows[0] += row is not None
        return row

    monkeypatch.setattr(static._Reader, "get_next", counted)
    rows = [{"x": each[None]} for each in drawn(20, 16)]
    told = Int8(Int8Options())
    model = ready(three_layers(tmp_path / "f.onnx"), tmp_path / "ready.onnx", True)
    setting = static.calibrated(model, Int8Options(), rows, tmp_path, told)
    assert drawn_rows[0] == 20
    layers = static.layers_of(setting)
    alone = {name: layers.alone(name).SerializeToString(deterministic=True) for name in layers.names}
    assert drawn_rows[0] == 20 + 20 + len(alone) == 43
    for name, made in alone.items():
        assert made == static._quantized(setting, (), [name]).SerializeToString(deterministic=True)


@pytest.mark.parametrize("options", [{"keep_sensitive": 1}, {"keep_first": True}], ids=str)
def test_layers_that_stay_in_fp32_stay_so_in_a_dynamic_file(options, tmp_path, monkeypatch):
    """A Gemm, which onnxruntime takes apart first, and products; the one that is named, and no other."""
    file = three_layers(tmp_path / "f.onnx")
    quantizer = Int8(Int8Options(mode="dynamic", equalize=True, **options))
    monkeypatch.setattr(
        of, "relative_error", lambda fp32, file, rows: float("Gemm_0" not in str(read_onnx(file).graph))
    )
    quantizer.rewrite(file, quantizer.plan(None), [{"x": drawn(8, 16)}])
    nodes = read_onnx(file).graph.node
    kept = [node.op_type for node in nodes if node.op_type in ("Gemm", "MatMul")]
    assert len(kept) == 1
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 2
    assert quantizer.notes[-1].startswith("no channels equalised, no biases corrected: a dynamic file")
    assert len(quantizer.notes) == len(options) + int("keep_sensitive" in options)


@pytest.mark.parametrize(("dynamic", "stays"), [(0.0, "dynamic"), (0.5, "static")])
def test_what_is_said_of_static_files_is_said_of_no_dynamic_one(dynamic, stays, tmp_path, monkeypatch):
    graph, file = Graph(Words().eval(), (TOKENS,), (Field("logits", "logits", (4,)),)), tmp_path / "q.onnx"
    EXPORTER.write(graph, batch_of(tokens=torch.arange(12).view(2, 6)), file)
    monkeypatch.setattr(of, "measure", lambda file, row: Latency(0.0, 1.0, 0.0, 3))
    quantizer = Int8(Int8Options(samples=8, equalize=True, mixed=False))
    losses = {"static": 0.3, "dynamic": dynamic}
    quantizer.judge = Judge(lambda file: losses[file.stem.partition("-")[0]], 1.0, 0.005)
    quantizer.rewrite(file, quantizer.plan(None), [{"tokens": torch.arange(48).view(8, 6).numpy()}])
    why, said = quantizer.notes
    assert why.startswith(stays)
    assert said.startswith("no channels equalised" if stays == "dynamic" else "0 pairs of convolutions equalised")


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_transposed_convolution_in_groups_stays_in_fp32(mode, tmp_path):
    """With a bias and several outputs a group; another layer is quantised, and the card says which is not."""
    w, v, b, x = drawn(8, 4, 4, 4), drawn(8, 8, 3, 3), drawn(8), drawn(6, 8, 5, 5)
    nodes = [
        conv("Conv", "v", "x", "h"),
        helper.make_node("ConvTranspose", ["h", "w", "b"], ["y"], "up", group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    file = file_of(tmp_path / "f.onnx", nodes, [8, 5, 5], [8, 10, 10], {"w": w, "v": v, "b": b})
    quantizer = Int8(Int8Options(mode=mode))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    got = open_session(file).run(None, {"x": x})[0]
    a, c, d, e = (torch.from_numpy(each) for each in (x, v, w, b))
    exact = torch.conv_transpose2d(torch.conv2d(a, c, padding=1), d, e, 2, 1, groups=2).numpy()
    assert np.linalg.norm(got - exact) < 0.03 * np.linalg.norm(exact)
    said = "in fp32, since onnxruntime has no such layer with a scale a channel: up"
    nothing = "nothing is in 8 bits: no operator reads a weight of fp32 that 8 bits hold"  # dynamic ones are of products alone
    assert quantizer.notes == (said if mode == "static" else nothing,)


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy", "mse"])
def test_infinities_stay_in_fp32(calibration, tmp_path):
    """A causal mask of -inf, added to what a softmax reads, where all operators are quantised."""
    q, k, v, x = drawn(16, 17), drawn(16, 17), drawn(16, 12), drawn(24, 6, 16)
    q, k = q[:, :16], k[:, :16]
    mask = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    nodes = [
        *(helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in "qkv"),
        helper.make_node("Transpose", ["xk"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["xq", "kt"], ["products"]),
        helper.make_node("Mul", ["products", "factor"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "xv"], ["y"]),
    ]
    tensors = {"q": q, "k": k, "v": v, "mask": mask, "factor": np.asarray(0.05, np.float32)}
    file = file_of(tmp_path / "f.onnx", nodes, [6, 16], [6, 12], tensors)
    quantizer = Int8(Int8Options(mode="static", operators="all", calibration=calibration, samples=24))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    got = open_session(file).run(None, {"x": x})[0]
    a = [torch.from_numpy(x) @ torch.from_numpy(each) for each in (q, k, v)]
    scores = 0.05 * a[0] @ a[1].transpose(1, 2) + torch.from_numpy(mask)
    exact = (scores.softmax(-1) @ a[2]).numpy()
    assert np.linalg.norm(got - exact) < 0.1 * np.linalg.norm(exact)
    assert quantizer.notes == (
        "in fp32, since they make or read infinities, or numbers far beyond all others: Add_6, Softmax_7",
    )


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("mask", [-np.inf, float(np.finfo(np.float32).min), -1e4])
def test_a_table_of_masks_hides_no_scores(mask, mode, tmp_path):
    """Scores of 12 classes, of which the group that a sample is of forbids most: a table, read by the group's number."""
    w, v, table = drawn(16, 12), drawn(16, 4), np.full((4, 12), mask, np.float32)
    for group in range(4):
        table[group, 3 * group : 3 * group + 3] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("MatMul", ["x", "v"], ["groups"]),
        helper.make_node("ArgMax", ["groups"], ["group"], axis=1, keepdims=0),
        helper.make_node("Gather", ["table", "group"], ["forbidden"]),
        helper.make_node("Add", ["scores", "forbidden"], ["y"]),
    ]
    x = drawn(64, 16)
    file = file_of(tmp_path / "f.onnx", nodes, [16], [12], {"w": w, "v": v, "table": table})
    exact = open_session(file).run(None, {"x": x})[0]
    quantizer = Int8(Int8Options(mode=mode, operators="all", samples=64))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    got = open_session(file).run(None, {"x": x})[0]
    assert not np.isnan(got).any()
    assert (got.argmax(1) == exact.argmax(1)).mean() > 0.8  # a group may be another one
    allowed = (exact > -100) & (got > -100)
    assert allowed.sum() > 2 * len(x)
    assert np.abs(got[allowed] - exact[allowed]).max() < 0.5


def test_an_lstm_of_which_one_output_is_read_is_quantised(tmp_path):
    """What it does not give has no name: it is not what another node reads."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["xt", "w", "r", "b"], ["", "h"], hidden_size=6),
        helper.make_node("Squeeze", ["h", "at"], ["last"]),
        helper.make_node("MatMul", ["last", "v"], ["product"]),
        helper.make_node("Add", ["product", "c"], ["y"]),
    ]
    tensors = {"w": drawn(1, 24, 5), "r": drawn(1, 24, 6), "b": drawn(1, 48), "v": drawn(6, 3), "c": drawn(3)}
    tensors["at"] = np.array([0], np.int64)
    x = drawn(20, 7, 5)
    file = file_of(tmp_path / "f.onnx", nodes, [7, 5], [3], tensors)
    exact = open_session(file).run(None, {"x": x})[0]
    quantizer = Int8(Int8Options(mode="dynamic"))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    got = open_session(file).run(None, {"x": x})[0]
    assert np.linalg.norm(got - exact) < 0.1 * np.linalg.norm(exact)


class Between(nn.Module):
    """Convolutions, and a norm as in a transformer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Conv2d(3, 16, 3), nn.LayerNorm(16), nn.Conv2d(16, 64, 3)

    def forward(self, x):
        x = self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(x).mean((2, 3))


def test_convolutions_between_norms_are_not_left_in_fp32(tmp_path):
    """Dynamic quantisation leaves them: however near such a file is, it is none in INT8."""
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = Graph(Between().eval(), (Field("x", "image", (3, 8, 8)),), (Field("logits", "logits", (64,)),))
    file, whole = tmp_path / "q.onnx", tmp_path / "fp32.onnx"
    EXPORTER.write(graph, batch_of(x=x[:2]), whole)
    shutil.copy(whole, file)
    quantizer = Int8(Int8Options(samples=16))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x.numpy()}])
    assert quantizer.notes[0].startswith("static: dynamic takes ")
    assert weight_share(file, whole)["8"] > 0.9
