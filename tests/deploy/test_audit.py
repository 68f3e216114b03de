"""Shares counted by hand on hand-made graphs."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdsearch.deploy.audit import size_bytes, weight_share
from kdsearch.errors import ArtifactError
from kdsearch.kit.onnx import save_onnx


def tensor(name, shape, dtype=np.float32):
    return numpy_helper.from_array(np.zeros(shape, dtype), name)


def save(path, nodes, tensors, domains=("",)):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, ["b", 8])], [info("y", 1, ["b", 4])], tensors)
    opsets = [helper.make_opsetid(name, 1 if name else 21) for name in domains]
    save_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


MLP = [
    helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
    helper.make_node("Clip", ["h", "low", "high"], ["c"]),
    helper.make_node("MatMul", ["c", "w2"], ["m"]),
    helper.make_node("Constant", [], ["b2"], value=tensor("", (4,))),
    helper.make_node("Add", ["m", "b2"], ["a"]),
    helper.make_node("Reshape", ["a", "shape"], ["y"]),
]
SHAPE = numpy_helper.from_array(np.asarray([-1, 4], np.int64), "shape")
SCALARS = [tensor("low", ()), tensor("high", (1,)), SHAPE]  # one element and integers: no weights


@pytest.fixture
def fp32(tmp_path):
    """8x16 + 16 + 16x4 + 4 = 212 weights."""
    return save(
        tmp_path / "fp32.onnx", MLP, [tensor("w1", (8, 16)), tensor("b1", (16,)), tensor("w2", (16, 4)), *SCALARS]
    )


def test_all_of_an_fp32_file_is_fp32(fp32):
    assert weight_share(fp32, fp32) == {"4": 0.0, "8": 0.0, "16": 0.0, "32": 1.0}
    assert size_bytes(fp32) == len(fp32.read_bytes())


def test_int4_int8_fp16_and_integer_biases(fp32, tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["q1", "s1", "z1"], ["w1"], axis=1, block_size=8),
        helper.make_node("DequantizeLinear", ["q2", "s2", "z2"], ["w2"], axis=1),
        helper.make_node("DequantizeLinear", ["qb", "sb"], ["b1"]),
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        *MLP[:3],
        helper.make_node("Constant", [], ["h2"], value=tensor("", (4,), np.float16)),
        helper.make_node("Cast", ["h2"], ["b2"], to=TensorProto.FLOAT),
        *MLP[4:],
    ]
    tensors = [
        tensor("q1", (8, 16), ml_dtypes.uint4), tensor("s1", (8, 2)), tensor("z1", (8, 2), ml_dtypes.uint4),
        tensor("q2", (16, 4), np.int8), tensor("s2", (4,)), tensor("z2", (4,), np.int8),
        tensor("qb", (16,), np.int32), tensor("sb", (16,)),
        tensor("sx", (2,)), tensor("zx", (2,), np.uint8), *SCALARS,
    ]  # fmt: skip
    share = weight_share(save(tmp_path / "q.onnx", nodes, tensors), fp32)
    assert share == pytest.approx({"4": 128 / 212, "8": 64 / 212, "16": 4 / 212, "32": 16 / 212}, abs=1e-12)
    assert sum(share.values()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("bits", "width"), [(4, "4"), (8, "8")])
def test_matmul_nbits_counts_k_times_n_not_its_packed_bytes(fp32, tmp_path, bits, width):
    packed = helper.make_node(
        "MatMulNBits", ["c", "w2q", "w2s"], ["m"], domain="com.microsoft", K=16, N=4, bits=bits, block_size=16
    )
    tensors = [
        tensor("w1", (8, 16)),
        tensor("b1", (16,)),
        tensor("w2q", (4, 1, 16 * bits // 8), np.uint8),
        tensor("w2s", (4,)),
    ]
    file = save(tmp_path / "n.onnx", [*MLP[:2], packed, *MLP[3:]], [*tensors, *SCALARS], ("", "com.microsoft"))
    share = weight_share(file, fp32)
    assert share[width] == pytest.approx(64 / 212)
    assert share["32"] == pytest.approx(148 / 212)


def test_integer_operators_keep_their_zero_points_out(fp32, tmp_path):
    nodes = [
        helper.make_node("MatMulInteger", ["xq", "w2q", "zx", "zw"], ["mi"]),
        *MLP,
        helper.make_node("QuantizeLinear", ["c", "sx", "zx1"], ["xq"]),
    ]
    tensors = [tensor("w2q", (16, 4), np.int8), tensor("zx", (2,), np.uint8), tensor("zw", (4,), np.int8)]
    share = weight_share(save(tmp_path / "i.onnx", nodes, tensors), fp32)
    assert share["8"] == pytest.approx(64 / 212)


def test_weights_of_branches_count(tmp_path):
    info = helper.make_tensor_value_info
    branches = [
        helper.make_graph([helper.make_node("Add", ["x", name], ["z"])], "b", [], [info("z", 1, ["b", 8])], [made])
        for name, made in (("f", tensor("f", (8,))), ("h", tensor("h", (8,))))
    ]
    node = helper.make_node("If", ["cond"], ["y"], then_branch=branches[0], else_branch=branches[1])
    file = save(
        tmp_path / "if.onnx", [node], [numpy_helper.from_array(np.asarray(True), "cond"), tensor("q", (16,), np.int8)]
    )
    assert weight_share(file, file)["8"] == pytest.approx(16 / 32)


def test_more_narrow_weights_than_there_were_still_sum_to_one(fp32, tmp_path):
    file = save(tmp_path / "twice.onnx", MLP, [tensor("w1", (8, 64), np.int8), tensor("w2", (16, 4), ml_dtypes.int4)])
    share = weight_share(file, fp32)
    assert sum(share.values()) == pytest.approx(1.0, abs=1e-9)
    assert share["8"] == pytest.approx(512 / 576)


def test_a_corrupt_file_is_named(fp32, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x00")
    with pytest.raises(ArtifactError, match=r"bad\.onnx"):
        weight_share(tmp_path / "bad.onnx", fp32)
