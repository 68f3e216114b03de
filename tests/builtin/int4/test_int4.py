"""INT4 files compute with exactly the values that an independent unpacking of their bytes gives, and those are good values."""

import math
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdsearch.builtin.int4.blocks import fit
from kdsearch.builtin.int4.quantizer import Int4, Int4Options
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.audit import size_bytes, weight_share
from kdsearch.deploy.files import open_session, read_onnx, tuned_options
from kdsearch.kinds import Field, Graph
from kdsearch.kinds.options import declared_range, validate
from tests.deploy.nets import LOGITS, NETS, Lstm, Tokens, batch_of, digits

EXPORTER = OnnxExporter(OnnxOptions())


def accuracy(file):
    _, _, x, y = digits()
    return float((EXPORTER.load(file)(x)["logits"].argmax(1) == y).float().mean())


def quantise(file, **options):
    quantizer = Int4(Int4Options(**options))
    quantizer.rewrite(file, quantizer.plan(None), [])
    return file


def quantised(fp32, tmp_path, name, label="q", **options):
    shutil.copy(fp32 / f"{name}.onnx", tmp_path / f"{label}.onnx")
    return quantise(tmp_path / f"{label}.onnx", **options)


def nibbles(tensor):
    """Two values a byte, the first in the low half: unpacked here without onnx's help."""
    data = np.frombuffer(tensor.raw_data, np.uint8)
    values = np.stack([data & 15, data >> 4], 1).reshape(-1)[: math.prod(tensor.dims)].astype(np.int64)
    if tensor.data_type == onnx.TensorProto.INT4:
        values = np.where(values > 7, values - 16, values)
    return values.reshape(tensor.dims)


def integers(tensor):
    four = tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    return nibbles(tensor) if four else onnx.numpy_helper.to_array(tensor).astype(np.int64)


def unpacked(model):
    """Weight name -> float64 values, by the definition of blocked DequantizeLinear."""
    tensors = {each.name: each for each in model.graph.initializer}
    shapes = {
        n.input[0]: tensors[n.input[1]] for n in model.graph.node if n.op_type == "Reshape" and n.input[1] in tensors
    }
    out = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        options = {each.name: each.i for each in node.attribute}
        q, axis, block = integers(tensors[node.input[0]]), options["axis"], options["block_size"]
        scale = np.frombuffer(tensors[node.input[1]].raw_data, np.float32).reshape(tensors[node.input[1]].dims)
        zero = integers(tensors[node.input[2]]) if len(node.input) > 2 else np.zeros(scale.shape, np.int64)
        values = np.zeros(q.shape)
        for index in np.ndindex(*q.shape):
            at = tuple(i // block if dim == axis else i for dim, i in enumerate(index))
            values[index] = (q[index] - zero[at]) * float(scale[at])
        shape = onnx.numpy_helper.to_array(shapes[node.output[0]])
        out[node.input[0].rpartition(".int")[0]] = values.reshape(shape)
    return out


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", list(NETS))
def test_the_file_computes_with_its_unpacked_weights(name, symmetric, fp32, tmp_path):
    file, x = quantised(fp32, tmp_path, name, symmetric=symmetric, block=16, edges=8), digits()[2][:9]
    model = read_onnx(fp32 / f"{name}.onnx")
    values = unpacked(read_onnx(file))
    assert values
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name].astype(np.float32), tensor.name))
    expected = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"image": x.numpy()}
    )[0]
    assert np.abs(EXPORTER.load(file)(x)["logits"].numpy() - expected).max() < 1e-4
    # a reader without our loader computes the same: nothing was fused to an operator that rounds activations
    plain = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"image": x.numpy()})[0]
    assert np.abs(plain - expected).max() < 1e-4


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("name", ["residual", "mlp", "vit"])
def test_accuracy_holds_and_nine_tenths_are_four_bits(name, block, fp32, tmp_path):
    file, before = quantised(fp32, tmp_path, name, block=block), fp32 / f"{name}.onnx"
    assert accuracy(file) >= accuracy(before) - 0.01
    share = weight_share(file, before)
    assert share["4"] >= 0.9
    assert sum(share.values()) == pytest.approx(1, abs=1e-9)
    assert size_bytes(file) < 0.35 * size_bytes(before)


def test_depthwise_holds_with_zero_points(fp32, tmp_path):
    file = quantised(fp32, tmp_path, "depthwise", symmetric=False)
    assert accuracy(file) >= accuracy(fp32 / "depthwise.onnx") - 0.01
    assert weight_share(file, fp32 / "depthwise.onnx")["4"] >= 0.9


def test_smaller_blocks_are_nearer_and_larger(fp32, tmp_path):
    exact = {each.name: onnx.numpy_helper.to_array(each) for each in read_onnx(fp32 / "mlp.onnx").graph.initializer}
    errors, sizes = [], []
    for block in (16, 32, 64, 128):
        file = quantised(fp32, tmp_path, "mlp", block=block)
        values = unpacked(read_onnx(file))
        errors.append(sum(np.square(values[name] - exact[name]).sum() for name in values))
        sizes.append(size_bytes(file))
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)


def test_edges_skip_and_tiny_weights(fp32, tmp_path):
    before = fp32 / "residual.onnx"
    total = 16 * 9 + 16 + 2 * (2304 + 16) + 16 * 32 * 9 + 32 + 32 * 32 * 9 + 32 + 16 * 32 + 32 + 320 + 10
    edges = weight_share(quantised(fp32, tmp_path, "residual", edges=8), before)
    assert edges["8"] == pytest.approx((144 + 320) / total)
    skipped = weight_share(quantised(fp32, tmp_path, "residual", skip=("stages.0.*", "head.*")), before)
    assert skipped["4"] == pytest.approx((144 + 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) / total)
    tiny = weight_share(quantised(fp32, tmp_path, "residual", min_elements=321), before)
    assert tiny["4"] == pytest.approx((2 * 2304 + 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) / total)


@pytest.mark.parametrize(
    ("dtype", "n", "options", "said"),
    [
        (np.float16, 256, {}, "no operator reads a weight of fp32"),
        (np.float32, 4, {}, "its 1 weights of fp32 have fewer than 128 numbers"),
        (np.float32, 256, {"skip": ("w",)}, "or are skipped"),
    ],
)
def test_a_file_without_a_weight_to_take_stays_and_says_so(dtype, n, options, said, tmp_path):
    file = matrix_file(tmp_path, np.ones((n, 8), dtype), "MatMul")
    before, quantizer = file.read_bytes(), Int4(Int4Options(**options))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": np.ones((4, n), dtype)}])
    assert file.read_bytes() == before
    (note,) = quantizer.notes
    assert note.startswith("nothing is in 4 bits: ")
    assert said in note


def matrix_file(folder, values, kind):
    """One node of `kind` that reads x, or indices into it, and the matrix `w`."""
    w = onnx.numpy_helper.from_array(values, "w")
    element, inputs = (w.data_type, ["x", "w"]) if kind == "MatMul" else (onnx.TensorProto.INT64, ["w", "x"])
    given = onnx.helper.make_tensor_value_info("x", element, ["n", len(values)] if kind == "MatMul" else ["n"])
    answer = onnx.helper.make_tensor_value_info("y", w.data_type, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node(kind, inputs, ["y"])], "g", [given], [answer], [w])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "w.onnx")
    return folder / "w.onnx"


@pytest.mark.parametrize("edges", [4, 8])
def test_one_number_a_row_stays_as_it_is(edges, tmp_path):
    """4 bits and a scale of 32 are more than 32; two numbers a row are 5 bytes of 8, or 6."""
    values = np.random.default_rng(0).normal(size=(20000, 2)).astype(np.float32)
    for width, share in ((1, None), (2, 5 / 8 if edges == 4 else 6 / 8)):
        file = matrix_file(tmp_path, values[:, :width].copy(), "Gather")
        size = file.stat().st_size
        quantise(file, edges=edges)
        assert file.stat().st_size == (size if share is None else pytest.approx(share * size, abs=600))


@pytest.mark.parametrize("rounding", ["nearest", "hqq", "rtn", "calibrated"])
@pytest.mark.parametrize("value", [-np.inf, float(np.finfo(np.float32).min), np.nan])
def test_numbers_that_no_scale_holds_stay_as_they_are(value, rounding, tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32)
    values[3, 5:9] = value
    file = matrix_file(tmp_path, values, "Gather")
    quantizer = Int4(Int4Options(rounding=rounding))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": np.arange(20)}])
    assert np.array_equal(run(file, np.arange(20)), values, equal_nan=True)
    assert quantizer.notes[0] == "in fp32, since no scale holds their infinities or huge numbers: w"


@pytest.mark.parametrize("linear", ["dequantize", "packed"])
def test_names_that_are_taken_are_left_to_who_has_them(linear, tmp_path):
    """A file may have `w.scale`, and nodes by whatever names."""
    rng = np.random.default_rng(0)
    w, scale = rng.normal(size=(64, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    x = rng.normal(size=(8, 64)).astype(np.float32)
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 64])
    answer = onnx.helper.make_tensor_value_info("w.flat", onnx.TensorProto.FLOAT, None)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["w.shape"], name="w.dequantize"),
        onnx.helper.make_node("Mul", ["w.shape", "w.scale"], ["w.flat"], name="w.dequantize.packed"),
    ]
    tensors = [onnx.numpy_helper.from_array(each, name) for name, each in {"w": w, "w.scale": scale}.items()]
    graph = onnx.helper.make_graph(nodes, "g", [given], [answer], tensors)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f"
    )
    quantise(tmp_path / "f", linear=linear)
    exact = (x @ w) * scale
    assert np.linalg.norm(run(tmp_path / "f", x) - exact) < 0.15 * np.linalg.norm(exact)


def test_files_open_as_anybody_opens_them(fp32, tmp_path):
    """No hidden setting; INT4 files alone have one that is worth trying: an INT8 file would lose its integer kernels."""
    entry = "session.disable_quant_qdq"
    four = quantised(fp32, tmp_path, "mlp")
    for file in (four, fp32 / "mlp.onnx"):
        with pytest.raises(RuntimeError, match=entry):
            open_session(file).get_session_options().get_session_config_entry(entry)
    assert tuned_options(read_onnx(fp32 / "mlp.onnx")) == {}
    options = tuned_options(read_onnx(four))
    assert open_session(four, entries=options).get_session_options().get_session_config_entry(entry) == "1"


def test_equal_bytes_twice(fp32, tmp_path):
    first, second = (quantised(fp32, tmp_path, "residual", label).read_bytes() for label in "ab")
    assert first == second


class Odd(nn.Module):
    """Transposed convolution, a matrix on the left, a bare matrix on the right, an odd number of weights in each block."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(5, 7, 3, 2)
        self.left, self.right = nn.Parameter(torch.randn(11, 17)), nn.Parameter(torch.randn(17, 10) / 17)
        self.conv = nn.Conv2d(7, 9, (3, 1), groups=1)

    def forward(self, x):
        return (self.left @ self.conv(self.up(x)).mean(1) @ self.right).mean(1)


def test_every_layout_runs_and_is_near(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 9, 8)
    graph = Graph(Odd(), (Field("x", "map", (5, 9, 8)),), (LOGITS,))  # up: 19 x 17, conv: 17 x 17
    EXPORTER.write(graph, batch_of(x=x), tmp_path / "odd.onnx")
    expected = EXPORTER.load(tmp_path / "odd.onnx")(x)["logits"]
    shutil.copy(tmp_path / "odd.onnx", tmp_path / "q.onnx")
    for symmetric in (True, False):
        file = quantise(tmp_path / "q.onnx", block=16, symmetric=symmetric)
        got = EXPORTER.load(file)(x)["logits"]
        assert (got - expected).norm() < 0.25 * expected.norm()
        shutil.copy(tmp_path / "odd.onnx", tmp_path / "q.onnx")
    share = weight_share(quantise(tmp_path / "q.onnx"), tmp_path / "odd.onnx")
    weights = 5 * 7 * 9 + 11 * 17 + 17 * 10 + 7 * 9 * 3
    assert share["4"] == pytest.approx(weights / (weights + 7 + 9))


def test_embeddings_and_recurrent_weights(tmp_path):
    ids = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0))
    inputs = (Field("ids", "tokens", (None,), "int64"), Field("mask", "vector", (None,)))
    tokens = Graph(Tokens(), inputs, (Field("logits", "logits", (None, 20)), Field("pooled", "vector", (16,))))
    lstm = Graph(Lstm(), (Field("x", "sequence", (None, 8)),), (LOGITS,))
    cases = {
        "tokens": (tokens, batch_of(ids=ids, mask=torch.ones(2, 6))),
        "lstm": (lstm, batch_of(x=torch.ones(2, 5, 8))),
    }
    for name, (graph, example) in cases.items():
        file = tmp_path / f"{name}.onnx"
        EXPORTER.write(graph, example, file)
        shutil.copy(file, tmp_path / "fp32.onnx")
        expected = EXPORTER.load(file)(*example.tensors.values())
        got = EXPORTER.load(quantise(file))(*example.tensors.values())
        assert weight_share(file, tmp_path / "fp32.onnx")["4"] > 0.9
        assert (got["logits"] - expected["logits"]).norm() < 0.3 * expected["logits"].norm()


def seen(n=128):
    """Feeds as the export stage gives them: training images, 32 a batch."""
    return [{"image": digits()[0][at : at + 32].numpy()} for at in range(0, n, 32)]


def logits(file):
    return EXPORTER.load(file)(digits()[2])["logits"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", list(NETS))
def test_calibrated_outputs_are_nearer(name, symmetric, fp32, tmp_path):
    """Squared distance to fp32's logits on images that calibration never saw, seven times less and more in a trial."""
    exact, error = logits(fp32 / f"{name}.onnx"), {}
    for rounding in ("nearest", "calibrated"):
        shutil.copy(fp32 / f"{name}.onnx", tmp_path / "q.onnx")
        quantizer = Int4(Int4Options(rounding=rounding, symmetric=symmetric))
        quantizer.rewrite(tmp_path / "q.onnx", quantizer.plan(None), seen())
        error[rounding] = float((logits(tmp_path / "q.onnx") - exact).square().mean())
        assert weight_share(tmp_path / "q.onnx", fp32 / f"{name}.onnx")["4"] >= 0.9
    assert error["calibrated"] < 0.5 * error["nearest"]
    assert accuracy(tmp_path / "q.onnx") >= accuracy(fp32 / f"{name}.onnx") - 0.005


def test_nearest_is_asked_for_or_all_that_can_be_done(fp32, tmp_path):
    """Without samples calibrated rounding is the nearest, byte for byte; with the option `nearest` samples change nothing."""
    files = {}
    for label, rounding, feeds in (("a", "nearest", seen()), ("b", "calibrated", []), ("c", "calibrated", seen())):
        files[label] = tmp_path / f"{label}.onnx"
        shutil.copy(fp32 / "residual.onnx", files[label])
        quantizer = Int4(Int4Options(rounding=rounding))
        quantizer.rewrite(files[label], quantizer.plan(None), feeds)
    a, b, c = (files[label].read_bytes() for label in "abc")
    assert a == b != c
    assert [each.data_type for each in read_onnx(files["a"]).graph.initializer] == [
        each.data_type for each in read_onnx(files["c"]).graph.initializer
    ]


def test_calibration_twice_gives_equal_bytes(fp32, tmp_path):
    made = []
    for label in "ab":
        file = tmp_path / f"{label}.onnx"
        shutil.copy(fp32 / "residual.onnx", file)
        quantizer = Int4(Int4Options())
        quantizer.rewrite(file, quantizer.plan(None), iter(seen()))
        made.append(file.read_bytes())
    assert made[0] == made[1]


def one_layer(node, w, bias=None, extra=(), k=12, out=("n", 16)):
    """A file of one weighted node `y = f(x, w[, b])`, and what `extra` nodes make of y."""
    tensors = [onnx.numpy_helper.from_array(w, "w")]
    tensors += [] if bias is None else [onnx.numpy_helper.from_array(bias, "b")]
    last = extra[-1].output[0] if extra else "y"
    graph = onnx.helper.make_graph(
        [node, *extra],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", k])],
        [onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, list(out))],
        tensors,
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def run(file, x):
    return ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("kind", ["gemm", "gemm_scaled", "matmul_add"])
def test_the_bias_takes_the_mean_error(kind, tmp_path):
    """Outputs averaged over the samples of calibration are fp32's, because the layer's own bias makes up for the mean error."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(16, 12)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    x = (rng.normal(size=(64, 12)) + 2).astype(np.float32)
    node, extra = {
        "gemm": (onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), ()),
        "gemm_scaled": (onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=3.0, beta=0.5), ()),
        "matmul_add": (
            onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
            (onnx.helper.make_node("Add", ["b", "y"], ["z"]),),
        ),
    }[kind]
    model = one_layer(node, np.ascontiguousarray(w.T) if kind == "matmul_add" else w, b, extra)
    onnx.save(model, tmp_path / "f.onnx")
    exact = run(tmp_path / "f.onnx", x)
    quantizer = Int4(Int4Options())
    quantizer.rewrite(tmp_path / "f.onnx", quantizer.plan(None), [{"x": x}])
    got = run(tmp_path / "f.onnx", x)
    assert np.abs(got - exact).max() > 1e-3
    assert got.mean(0) == pytest.approx(exact.mean(0), abs=2e-5)


def gemm(file):
    """A file of one matrix product of x (N, 48)."""
    rng = np.random.default_rng(0)
    node = onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    w, b = rng.normal(size=(16, 48)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    onnx.save(one_layer(node, w, b, k=48), file)
    return file


@pytest.mark.parametrize(("asked", "given", "used"), [(40, 128, 40), (64, 64, 64), (128, 50, 50), (5, 128, 5)])
def test_so_many_samples_as_are_asked_for_calibrate(asked, given, used, tmp_path):
    """The first ones, however they come; the file is that of a caller who has no others."""
    x, files = np.random.default_rng(1).normal(size=(given, 48)).astype(np.float32), []
    for label, rows in (("all", x), ("used", x[:used])):
        files.append(gemm(tmp_path / f"{label}.onnx"))
        quantizer = Int4(Int4Options(samples=asked))
        feeds = ({"x": rows[at : at + 32]} for at in range(0, len(rows), 32))
        quantizer.rewrite(files[-1], quantizer.plan(None), feeds)
        assert quantizer.notes == (f"calibrated on {used} samples",)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_samples_nothing_is_said_to_be_calibrated(tmp_path):
    for rounding, said in (("calibrated", ("rounded to the nearest: there are no samples",)), ("nearest", ())):
        quantizer = Int4(Int4Options(rounding=rounding))
        quantizer.rewrite(gemm(tmp_path / "q.onnx"), quantizer.plan(None), [])
        assert quantizer.notes == said


RNG = np.random.default_rng(7)
AT_EDGES = {
    "one sample": RNG.normal(size=(1, 48)),
    "equal samples": np.repeat(RNG.normal(size=(1, 48)), 64, 0),
    "equal and large": np.repeat(RNG.normal(size=(1, 48)) + 1e4, 64, 0),
    "large mean": RNG.normal(size=(64, 48)) + 1e4,
}


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("case", list(AT_EDGES))
def test_samples_that_hardly_vary_calibrate_too(case, has_bias, tmp_path):
    """A hundredth of the squared error of the nearest values at most, on the samples themselves."""
    rng, x = np.random.default_rng(0), AT_EDGES[case].astype(np.float32)
    w, b = rng.normal(size=(16, 48)).astype(np.float32), rng.normal(size=16).astype(np.float32) if has_bias else None
    node = onnx.helper.make_node("Gemm", ["x", "w", *(["b"] if has_bias else [])], ["y"], transB=1)
    file, error = tmp_path / "f.onnx", {}
    for rounding in ("nearest", "calibrated"):
        onnx.save(one_layer(node, w, b, k=48), file)
        exact = run(file, x)
        quantizer = Int4(Int4Options(rounding=rounding))
        quantizer.rewrite(file, quantizer.plan(None), [{"x": each} for each in np.array_split(x, -(-len(x) // 32))])
        error[rounding] = float(np.square(run(file, x) - exact).mean())
    assert error["calibrated"] < 0.01 * error["nearest"]


@pytest.mark.parametrize("value", [np.inf, 1e30])
def test_a_layer_whose_inputs_have_no_squares_is_rounded_to_the_nearest(value, tmp_path):
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(16, 12)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    onnx.save(
        one_layer(onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), w, b), file := tmp_path / "f.onnx"
    )
    x = rng.normal(size=(8, 12)).astype(np.float32)
    x[3, 4] = value
    quantizer = Int4(Int4Options())
    quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
    model = read_onnx(file)
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    assert np.array_equal(stored["b"], b)
    assert np.array_equal(unpacked(model)["w"].astype(np.float32), fit(w, 32).values())


@pytest.mark.parametrize("reader", ["two_adds", "bias_is_output", "weight_read_elsewhere"])
def test_what_others_read_too_is_left_alone(reader, tmp_path):
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(16, 12)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    x = (rng.normal(size=(64, 12)) + 2).astype(np.float32)
    node = onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    extra = {
        "two_adds": (onnx.helper.make_node("Add", ["y", "b"], ["z"]),),
        "bias_is_output": (onnx.helper.make_node("Identity", ["y"], ["z"]),),
        "weight_read_elsewhere": (
            onnx.helper.make_node("ReduceMax", ["w"], ["m"], keepdims=0),
            onnx.helper.make_node("Add", ["y", "m"], ["z"]),
        ),
    }[reader]
    model = one_layer(node, w, b, extra)
    if reader == "bias_is_output":
        model.graph.output.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [16]))
    onnx.save(model, tmp_path / "f.onnx")
    quantizer = Int4(Int4Options())
    quantizer.rewrite(tmp_path / "f.onnx", quantizer.plan(None), [{"x": x}])
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in read_onnx(tmp_path / "f.onnx").graph.initializer}
    assert np.array_equal(stored["b"], b)
    assert run(tmp_path / "f.onnx", x).shape == (64, 16)
    if reader == "weight_read_elsewhere":  # nearest: what another node makes of the weight was not looked at
        assert np.array_equal(unpacked(read_onnx(tmp_path / "f.onnx"))["w"].astype(np.float32), fit(w, 32).values())


def reference_error(w, block, bits, symmetric, candidates):
    """Least squared error of a float64 search over explicit scales, block by block."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    total = 0.0
    for row in w.astype(np.float64):
        for start in range(0, len(row), block):
            x, best = row[start : start + block], np.inf
            for scale in candidates(x, low, high):
                best = min(best, np.square(x - np.clip(np.rint(x / scale), low, high) * scale).sum())
            total += best
    return total


def test_the_search_beats_the_full_range_by_a_margin():
    """Against max/7, the usual choice, and -max/8 with its sign, onnxruntime's."""
    w = np.random.default_rng(0).standard_normal((32, 96)).astype(np.float32)
    for block in (16, 32):
        ours = np.square(w - fit(w, block).values()).sum()
        naive = reference_error(w, block, 4, True, lambda x, low, high: [np.abs(x).max() / high])
        signed = reference_error(w, block, 4, True, lambda x, low, high: [x[np.abs(x).argmax()] / low])
        assert ours < 0.72 * naive
        assert ours < 0.9 * signed
        # a dense search of 2 x 400 scales finds hardly more
        dense = reference_error(
            w, block, 4, True,
            lambda x, low, high: [s * f * np.abs(x).max() / 8 for s in (1, -1) for f in np.linspace(0.4, 1.3, 400)],
        )  # fmt: skip
        assert ours < 1.02 * dense
        assert np.square(w - fit(w, block, symmetric=False).values()).sum() < ours


def test_edge_values_of_the_search():
    zeros = fit(np.zeros((2, 5), np.float32), 16)
    assert np.array_equal(zeros.values(), np.zeros((2, 5)))
    for symmetric in (True, False):
        one = np.full((1, 20), 3.0, np.float32)
        assert np.allclose(fit(one, 16, symmetric=symmetric).values(), one, rtol=1e-6)
        grid = (np.arange(-8, 8, dtype=np.float32) * 0.25)[None]
        assert np.allclose(fit(grid, 16, symmetric=symmetric).values(), grid, atol=1e-6)
    tiny = np.full((1, 4), 1e-38, np.float32)
    assert np.isfinite(fit(tiny, 16).values()).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 50), st.sampled_from([4, 8]), st.booleans(), st.integers(0, 10**6))
def test_integers_in_range_zeros_kept_rows_independent(rows, length, bits, symmetric, seed):
    w = np.random.default_rng(seed).standard_normal((rows, length)).astype(np.float32)
    w[:, ::3] = 0
    made = fit(w, 16, bits, symmetric)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert low <= made.q.min() <= made.q.max() <= high
    assert (made.values()[w == 0] == 0).all()
    assert np.array_equal(fit(w[:1], 16, bits, symmetric).values(), made.values()[:1])
    assert np.allclose(fit(w * 4, 16, bits, symmetric).values(), made.values() * 4, rtol=1e-6)


def test_options_are_checked():
    assert declared_range(Int4Options, "block").choices == (16, 32, 64, 128)
    assert validate(Int4Options, {"block": 64, "skip": ["head*"]}).skip == ("head*",)
    with pytest.raises(Exception, match="block"):
        validate(Int4Options, {"block": 17})
