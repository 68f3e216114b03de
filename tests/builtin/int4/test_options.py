"""Every way to round and to store: exactly what the file computes, and in the order of their errors."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import nn

from kdsearch.builtin.int4.blocks import fit, half_quadratic, plain
from kdsearch.builtin.int4.quantizer import Int4, Int4Options
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.audit import weight_share
from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.kinds import Field, Graph
from tests.deploy.nets import LOGITS, batch_of

EXPORTER = OnnxExporter(OnnxOptions(engine="torchscript"))


class Linears(nn.Module):
    """A Gemm with a bias, a MatMul of three axes with a bias apart, and one without; 40, 80, 48 are no multiples of 32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.mid, self.last = nn.Linear(40, 80), nn.Linear(80, 48), nn.Linear(48, 10, bias=False)

    def forward(self, x):
        return self.last(self.mid(torch.relu(self.first(x[:, 0]))[:, None])).sum(1)


X = torch.randn(64, 2, 40, generator=torch.Generator().manual_seed(0)) @ torch.randn(
    40, 40, generator=torch.Generator().manual_seed(1)
)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    file = tmp_path_factory.mktemp("linears") / "fp32.onnx"
    EXPORTER.write(Graph(Linears().eval(), (Field("x", "sequence", (2, 40)),), (LOGITS,)), batch_of(x=X[:2]), file)
    return file


def made(fp32, folder, **options):
    file = folder / f"{'-'.join(map(str, options.values()))}.onnx"
    shutil.copy(fp32, file)
    quantizer = Int4(Int4Options(min_elements=64, **options))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": X.numpy()}])
    return file


def answers(file):
    return open_session(file).run(None, {"x": X.numpy()})[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block", [16, 32])
def test_packed_products_are_the_unpacked_ones(symmetric, block, fp32, tmp_path):
    """The same integers and scales, in fp32 arithmetic: equal but for the order of sums."""
    asked = {"block": block, "symmetric": symmetric, "rounding": "nearest"}
    packed, plainly = made(fp32, tmp_path, linear="packed", **asked), made(fp32, tmp_path, linear="dequantize", **asked)
    assert np.abs(answers(packed) - answers(plainly)).max() < 1e-4 * np.abs(answers(plainly)).max()
    kinds = [node.op_type for node in read_onnx(packed).graph.node]
    assert kinds.count("MatMulNBits") == 3
    assert not {"DequantizeLinear", "Gemm", "MatMul"} & {*kinds}
    assert weight_share(packed, fp32)["4"] == pytest.approx(weight_share(plainly, fp32)["4"])
    assert packed.stat().st_size < 1.2 * plainly.stat().st_size  # whole blocks: 40 is stored as 64
    assert made(fp32, tmp_path, linear="packed", **asked).read_bytes() == packed.read_bytes()


def branch(weight, out):
    """h times the weight."""
    made = helper.make_tensor_value_info(out, 1, None)
    return helper.make_graph([helper.make_node("MatMul", ["h", weight], [out])], out, [], [made])


TRANSPOSED = helper.make_node("Gemm", ["x", "v"], ["h"], transB=1)
HARD = {
    "read as it is and transposed": ([TRANSPOSED, helper.make_node("MatMul", ["h", "v"], ["y"])], 0),
    "read in a branch, too": (
        [TRANSPOSED, helper.make_node("Gemm", ["h", "w"], ["k"]),
         helper.make_node("If", ["yes"], ["z"], then_branch=branch("w", "a"), else_branch=branch("v", "b")),
         helper.make_node("Add", ["k", "z"], ["y"])], 0),
    "nodes without names": ([TRANSPOSED, helper.make_node("Gemm", ["h", "w", "c"], ["y"])], 2),
    "answered, too": ([TRANSPOSED, helper.make_node("Gemm", ["h", "w"], ["y"])], 1),
}  # fmt: skip


@pytest.mark.parametrize("rounding", ["nearest", "calibrated"])
@pytest.mark.parametrize("case", list(HARD))
def test_a_weight_is_packed_where_all_read_the_same_rows(case, rounding, tmp_path):
    """Answers are those of the same rounding unpacked by standard operators, and near the network's."""
    nodes, n = HARD[case]
    rng = np.random.default_rng(0)
    x, v, w = (rng.normal(size=(rows, 64)).astype(np.float32) for rows in (16, 64, 64))
    tensors = {"v": v, "w": w, "c": np.ones(64, np.float32), "yes": np.asarray(True)}
    kept = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    infos = [helper.make_tensor_value_info(name, 1, ["n", 64]) for name in "xy"]
    answers_w = [helper.make_tensor_value_info("w", 1, [64, 64])] if case == "answered, too" else []
    graph = helper.make_graph(nodes, "g", infos[:1], [infos[1], *answers_w], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "f.onnx")
    found = {}
    for linear in ("dequantize", "packed"):
        shutil.copy(tmp_path / "f.onnx", file := tmp_path / f"{linear}.onnx")
        quantizer = Int4(Int4Options(rounding=rounding, linear=linear))
        quantizer.rewrite(file, quantizer.plan(None), [{"x": x}])
        found[linear], *others = open_session(file).run(None, {"x": x})
        assert all(np.linalg.norm(each - w) < 0.2 * np.linalg.norm(w) for each in others)
    h = x @ v.T
    exact = {
        "read as it is and transposed": h @ v,
        "read in a branch, too": 2 * h @ w,
        "nodes without names": h @ w + 1,
        "answered, too": h @ w,
    }
    assert np.abs(found["packed"] - found["dequantize"]).max() < 1e-4 * np.abs(found["dequantize"]).max()
    assert np.linalg.norm(found["packed"] - exact[case]) < 0.2 * np.linalg.norm(exact[case])
    names = [node.name for node in read_onnx(tmp_path / "packed.onnx").graph.node if node.op_type == "MatMulNBits"]
    assert len(names) == len({*names}) == n


def test_errors_fall_with_what_the_rounding_knows(fp32, tmp_path):
    whole = answers(fp32)
    ways = ["rtn", "nearest", "gptq", "calibrated"]
    error = {each: float(np.square(answers(made(fp32, tmp_path, rounding=each)) - whole).mean()) for each in ways}
    assert error["calibrated"] < error["gptq"] < error["nearest"] < error["rtn"]


@settings(max_examples=30)
@given(
    rows=st.integers(1, 5), length=st.integers(1, 70), bits=st.sampled_from([4, 8]), symmetric=st.booleans(),
    how=st.sampled_from([plain, half_quadratic]), seed=st.integers(0, 999),
)  # fmt: skip
def test_integers_in_range_and_rows_independent(rows, length, bits, symmetric, how, seed):
    w = np.random.default_rng(seed).standard_normal((rows, length)).astype(np.float32)
    made = how(w, 16, bits, symmetric)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert low <= made.q.min()
    assert made.q.max() <= high
    assert np.isfinite(made.scale).all()
    last = how(w[-1:], 16, bits, symmetric)
    assert (last.q == made.q[-1:]).all()
    blocks = -(-length // 16)
    assert made.scale.shape == (rows, blocks)
    step = np.abs(made.scale).max()
    assert np.abs(made.values() - w).max() <= 20 * step


def test_plain_rounding_is_its_formula():
    w = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    scale = np.abs(w.reshape(4, 2, 16)).max(2) / 7
    expected = np.clip(np.round(w.reshape(4, 2, 16) / scale[..., None]), -8, 7) * scale[..., None]
    assert np.allclose(plain(w, 16).values(), expected.reshape(4, 32), atol=1e-6)


def test_half_quadratic_is_nearer_in_its_own_norm():
    """Sum |e|^0.7, of weights with outliers: below the scale of least squares, where it starts, and below plain rounding."""
    rng = np.random.default_rng(3)
    w = (rng.standard_t(2.5, (64, 64))).astype(np.float32)

    def norm(blocks):
        return float((np.abs(blocks.values() - w) ** 0.7).sum())

    for symmetric in (True, False):
        found = norm(half_quadratic(w, 32, 4, symmetric))
        assert found < 0.99 * norm(fit(w, 32, 4, symmetric))
        assert found < 0.97 * norm(plain(w, 32, 4, symmetric))
