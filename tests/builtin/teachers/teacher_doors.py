"""Services as a study gives them: members of a search space built by seed, paths beside the study, code only where allowed."""

import numpy as np
import onnx
import torch
from kdsearch_spaces.cifar_resnet.space import CifarResNetSpace
from onnx import TensorProto, helper, numpy_helper

from kdsearch.engine.setup import Site
from kdsearch.errors import UnsafeCodeError
from kdsearch.kinds import IO, Field

FIELDS = IO((Field("image", "image", (3, 16, 16)),), (Field("logits", "logits", (5,)),))
SPEC = {"depths": [1, 1, 1], "widths": [4, 6, 8]}


def site(folder, code=None, io=FIELDS):
    def build(space, spec):
        assert space == "cifar_resnet"
        found = CifarResNetSpace()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return found.build(found.parse(spec), io)

    def code_of(target):
        if target not in (code or {}):
            raise UnsafeCodeError(f"'{target}' would run code", fix=f"--allow-code '{target}'")
        return code[target]

    return Site(seed=0, base=folder, build_of=build, code_of=code_of)


def student(seed=0, io=FIELDS):
    """A small network of the space and its module."""
    space = CifarResNetSpace()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return space.build(space.parse(SPEC), io).module.eval()


def linear_onnx(path, k=5, batch="N", inputs=1, channels=3, side=16, dtype=TensorProto.FLOAT):
    """Logits = flattened image times a matrix; returns the matrix."""
    matrix = np.random.default_rng(0).normal(size=(channels * side * side, k)).astype("f4")
    entries = [helper.make_tensor_value_info(f"x{i}", dtype, [batch, channels, side, side]) for i in range(inputs)]
    nodes = [helper.make_node("Cast", ["x0"], ["c"], to=1), helper.make_node("Flatten", ["c"], ["f"])]
    nodes += [helper.make_node("MatMul", ["f", "w"], ["logits"]), helper.make_node("Neg", ["logits"], ["less"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, k]) for name in ("logits", "less")]
    graph = helper.make_graph(nodes, "g", entries, outputs, [numpy_helper.from_array(matrix, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return matrix
