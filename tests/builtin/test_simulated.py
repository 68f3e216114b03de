"""Networks that train as they will be quantised: the same levels as the files', and gradients that pass."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from kdsearch.builtin.int4.quantizer import Int4, Int4Options
from kdsearch.builtin.int8.quantizer import Int8, Int8Options
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.builtin.simulated import in_8_bits, in_blocks, per_channel
from kdsearch.deploy.files import open_session, read_onnx
from kdsearch.kinds import Field, Graph, Model
from kdsearch.ops.settle import settle
from tests.deploy.nets import batch_of

X = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))
FIELDS = (Field("x", "image", (3, 6, 6)),), (Field("y", "logits", (4,)),)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()


@pytest.mark.parametrize(
    ("quantizer", "width"), [(Int8(Int8Options()), 127), (Int4(Int4Options(rounding="nearest")), 15)]
)
def test_levels_are_few_and_gradients_pass(quantizer, width):
    module = net()
    whole = {name: value.clone() for name, value in module.state_dict().items()}
    made = quantizer.apply(Model(module, ("x",)), quantizer.plan(None))
    assert all(torch.equal(value, whole[name]) for name, value in module.state_dict().items()), "the network stays"
    weight = made.module[0].weight
    assert not torch.equal(weight, whole["0.weight"])
    assert all(len(row.unique()) <= width for row in weight.flatten(1))
    made.module.train()(X).sum().backward()
    behind = made.module[0].parametrizations.weight.original
    assert bool(behind.grad.abs().sum() > 0)
    settle(made.module)
    assert torch.equal(made.module[0].weight, weight)
    assert dict(made.module.named_parameters()).keys() == dict(module.named_parameters()).keys()


def test_int8_files_store_what_was_trained(tmp_path):
    """The rounded weights are levels of the file: rounding them again changes nothing."""
    quantizer = Int8(Int8Options(samples=8))
    made = quantizer.apply(Model(net(), ("x",)), quantizer.plan(None))
    settle(made.module)
    exporter, file = OnnxExporter(OnnxOptions(engine="torchscript")), tmp_path / "net.onnx"
    exporter.write(Graph(made.module.eval(), *FIELDS), batch_of(x=X[:2]), file)
    whole = {each.name: numpy_helper.to_array(each) for each in read_onnx(file).graph.initializer}
    shutil.copy(file, tmp_path / "fp32.onnx")
    quantizer.rewrite(file, quantizer.plan(None), [{"x": X[:8].numpy()}])
    tensors = {each.name: numpy_helper.to_array(each) for each in read_onnx(file).graph.initializer}
    stored = next(value for value in tensors.values() if value.dtype == np.int8 and value.ndim == 4)
    (scale,) = (
        tensors[node.input[1]]
        for node in read_onnx(file).graph.node
        if node.op_type == "DequantizeLinear" and tensors.get(node.input[0]) is stored
    )
    weight = next(value for value in whole.values() if value.ndim == 4)
    assert np.allclose(stored * scale.reshape(-1, 1, 1, 1), weight, atol=1e-6)


def test_int4_files_store_what_was_trained(tmp_path):
    quantizer = Int4(Int4Options(rounding="nearest", min_elements=16))
    made = quantizer.apply(Model(net(), ("x",)), quantizer.plan(None))
    settle(made.module)
    exporter, file = OnnxExporter(OnnxOptions(engine="torchscript")), tmp_path / "net.onnx"
    exporter.write(Graph(made.module.eval(), *FIELDS), batch_of(x=X[:2]), file)
    before = open_session(file).run(None, {"x": X.numpy()})[0]
    quantizer.rewrite(file, quantizer.plan(None), [])
    after = open_session(file).run(None, {"x": X.numpy()})[0]
    assert np.allclose(before, after, atol=1e-4 * np.abs(before).max())


def test_rounding_is_its_formula():
    w = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    scale = w.flatten(1).abs().amax(1).view(3, 1, 1) / 64
    assert torch.allclose(per_channel(64)(w), (w / scale).round() * scale)
    blocks = in_blocks(4, 4)(w).flatten(1)
    for r, row in enumerate(w.flatten(1)):
        for start in range(0, 10, 4):
            part = row[start : start + 4]
            assert torch.allclose(
                blocks[r, start : start + 4], (part / (part.abs().max() / 7)).round() * part.abs().max() / 7
            )
    x = torch.tensor([-1.0, 0.0, 0.3, 3.0], requires_grad=True)
    step = 4 / 255
    assert bool(((in_8_bits(x) - x).abs() <= step / 2 + 1e-6).all())
    assert in_8_bits(x)[1] == 0
    in_8_bits(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1]
