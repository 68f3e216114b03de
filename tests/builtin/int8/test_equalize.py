"""Equalised networks answer as before, at channels of one range; corrected biases take what weights lack."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from kdsearch.builtin.int8.choices import relative_error
from kdsearch.builtin.int8.equalize import bias_shifts, equalized, shifted
from kdsearch.builtin.int8.quantizer import Int8, Int8Options
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.files import read_onnx
from kdsearch.kinds import Field, Graph, Judge
from kdsearch.kit.onnx import open_model, save_onnx
from tests.deploy.nets import batch_of

EXPORTER = OnnxExporter(OnnxOptions(engine="torchscript"))
X = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = [{"x": X[i : i + 1].numpy()} for i in range(16)]


class Uneven(nn.Module):
    """Channels whose ranges are far apart, before a depthwise and before a plain convolution."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last, self.act = nn.Conv2d(8, 4, 1), act()
        with torch.no_grad():
            size = torch.logspace(-1.5, 1, 8)
            self.first.weight.mul_(size[:, None, None, None])
            self.first.bias.mul_(size)
            self.deep.weight.mul_(size.flip(0)[:, None, None, None])

    def forward(self, x):
        return self.last(self.act(self.deep(self.act(self.first(x))))).mean((2, 3))


def model_of(net, folder):
    file = folder / "net.onnx"
    EXPORTER.write(
        Graph(net.eval(), (Field("x", "image", (3, 8, 8)),), (Field("y", "logits", (4,)),)), batch_of(x=X[:2]), file
    )
    return read_onnx(file)


def run(model, names):
    return open_model(model, names).run(names, {"x": X.numpy()})


def test_the_answers_stay_and_ranges_become_one(tmp_path):
    model = model_of(Uneven(), tmp_path)
    names = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    before = run(model, ["y", *names])
    assert equalized(model, ROWS) == 2
    after = run(model, ["y", *names])
    assert np.allclose(before[0], after[0], rtol=1e-4, atol=1e-5)

    def spread(values):
        ranges = np.abs(values).max((0, 2, 3))
        return ranges.max() / ranges.min()

    assert spread(before[1]) > 20
    assert spread(after[1]) == pytest.approx(1, rel=1e-3), "before a depthwise one all of it"
    assert spread(after[2]) == pytest.approx(spread(before[2]) ** 0.5, rel=0.05), "else half of it"


def test_what_does_not_keep_a_scale_is_left(tmp_path):
    for act in (nn.ReLU6, nn.Hardswish):
        model = model_of(Uneven(act), tmp_path)
        whole = model.SerializeToString()
        assert equalized(model, ROWS) == 0
        assert model.SerializeToString() == whole


def test_biases_take_the_mean_error(tmp_path):
    """With weights rounded to a few steps, the mean of each output is nearer to fp32's afterwards."""
    model = model_of(Uneven(), tmp_path)
    conv = [node for node in model.graph.node if node.op_type == "Conv"]
    for node, name in zip(conv, "abc", strict=True):
        node.name = name

    def rounded(model):
        model = copy.deepcopy(model)
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 4:
                w = numpy_helper.to_array(tensor)
                scale = np.abs(w).reshape(len(w), -1).max(1).reshape(-1, 1, 1, 1) / 3
                tensor.CopyFrom(numpy_helper.from_array((np.rint(w / scale) * scale).astype(np.float32), tensor.name))
        return model

    out = conv[0].output[0]
    exact, plain = run(model, [out])[0].mean((0, 2, 3)), run(rounded(model), [out])[0].mean((0, 2, 3))
    shifts = bias_shifts(model, ROWS, 3, ["a", "c"], per_channel=True)
    assert {*shifts} == {"a", "c"}
    better = run(rounded(shifted(model, shifts)), [out])[0].mean((0, 2, 3))
    assert np.abs(better - exact).sum() < 0.35 * np.abs(plain - exact).sum()


@pytest.mark.parametrize("per_channel", [True, False])
def test_what_weights_lack_is_by_the_scales_that_they_get(per_channel, tmp_path):
    """Against the weights that onnxruntime's own quantisation has written: (W - W_q) E[x] of a 1x1 convolution of the input."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.mul_(torch.logspace(-1.5, 1, 8)[:, None, None, None])
    model = model_of(net, tmp_path)
    model.graph.node[0].name = "first"
    [shift] = bias_shifts(model, ROWS, 64, ["first"], per_channel).values()
    error_of(tmp_path, per_channel=per_channel)
    tensors = {
        each.name: numpy_helper.to_array(each) for each in read_onnx(tmp_path / "quantised.onnx").graph.initializer
    }
    whole = next(value for value in tensors.values() if value.dtype == np.int8 and value.shape == (8, 3, 1, 1))
    assert all(np.abs(each).max() == 64 for each in whole) == per_channel
    weight = net[0].weight.detach().double().numpy()
    scale = np.abs(weight).max((1, 2, 3) if per_channel else None, keepdims=True) / 64
    lacking = (weight - whole * scale)[:, :, 0, 0] @ X.double().mean((0, 2, 3)).numpy()
    assert shift == pytest.approx(lacking, rel=1e-4, abs=1e-7)


def kept_biases(file, model):
    """Of the convolutions whose weights a file holds as floats: their biases there, and in the network's own file."""
    made, own = (
        {t.name: numpy_helper.to_array(t) for t in each.graph.initializer} for each in (read_onnx(file), model)
    )
    nodes = [node for node in read_onnx(file).graph.node if node.op_type == "Conv" and node.input[1] in made]
    return [(made[node.input[2]], own[node.input[2]]) for node in nodes]


@pytest.mark.parametrize("by", ["keep_sensitive", "mixed"])
def test_a_layer_that_stays_fp32_has_its_own_bias(by, tmp_path):
    """Whichever way a layer is left out: what rounded weights lack is no business of one whose weights are not rounded."""
    model, file = model_of(Uneven(), tmp_path), tmp_path / "quantised.onnx"
    shutil.copy(tmp_path / "net.onnx", file)
    quantizer = Int8(Int8Options(samples=16, correct_bias=True, keep_sensitive=int(by == "keep_sensitive")))
    losses = iter([0.9, 0.0])
    quantizer.judge = Judge(lambda _: next(losses), 0.1, 0.0) if by == "mixed" else None
    quantizer.rewrite(file, quantizer.plan(None), [{"x": X.numpy()}])
    [(bias, own)] = kept_biases(file, model)
    assert np.array_equal(bias, own)


def error_of(folder, **options):
    file = folder / "quantised.onnx"
    shutil.copy(folder / "net.onnx", file)
    quantizer = Int8(Int8Options(samples=16, **options))
    quantizer.rewrite(file, quantizer.plan(None), [{"x": X.numpy()}])
    return relative_error(folder / "net.onnx", file, ROWS), quantizer.notes


def test_int8_of_uneven_channels_is_nearer(tmp_path):
    """A range for all channels leaves the small ones a step or two; what was evened out has all of them."""
    model_of(Uneven(), tmp_path)
    plain, notes = error_of(tmp_path)
    assert notes == ()
    better, notes = error_of(tmp_path, equalize=True)
    assert notes == ("2 pairs of convolutions equalised",)
    corrected, both = error_of(tmp_path, correct_bias=True)[0], error_of(tmp_path, correct_bias=True, equalize=True)[0]
    assert better < plain
    assert corrected < 0.7 * plain
    assert both < 0.35 * plain
    same, notes = error_of(tmp_path, equalize=True, per_channel=False)
    assert same == error_of(tmp_path, per_channel=False)[0], "weights of one scale have no channel to scale freely"
    assert "equalize needs per_channel" in notes[0]


def test_the_sensitivity_of_a_layer_is_its_own(tmp_path, monkeypatch):
    """Where one alone is quantised, the others have the biases that they had."""
    model, found = model_of(Uneven(), tmp_path), []

    def looked_at(layers, rows, work, told):
        for name in layers.names:
            save_onnx(layers.alone(name), tmp_path / "one.onnx")
            found.append(kept_biases(tmp_path / "one.onnx", model))
        return list(layers.names)

    monkeypatch.setattr("kdsearch.builtin.int8.static.most_sensitive", looked_at)
    error_of(tmp_path, correct_bias=True, keep_sensitive=1)
    assert [len(each) for each in found] == [2, 2, 2]
    assert all(np.array_equal(bias, own) for each in found for bias, own in each)
