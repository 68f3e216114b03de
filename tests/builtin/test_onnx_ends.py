"""Pixels in, probabilities or a class out: the file's own operators against what torch makes of the same pixels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from kdsearch.builtin.datasets import pixels as pixels_of
from kdsearch.builtin.onnx_ends import fitted
from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.files import open_session
from kdsearch.errors import StudyError
from kdsearch.kinds import Batch, Field, Graph

TOLD = {"range": [0.0, 1.0], "scale": 1.0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
IMAGE = Field("image", "image", (3, 12, 10))
LOGITS = Field("logits", "logits", (5,))


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
    return Graph(net.eval(), (IMAGE,), (LOGITS,))


def made(tmp_path, graph=None, told=TOLD, **options):
    """The file, and its ends."""
    graph = graph or network()
    exporter = OnnxExporter(OnnxOptions(engine="torchscript", **options))
    ends = exporter.ends(graph, told)
    file = tmp_path / "net.onnx"
    example = Batch(("a", "b"), {"image": torch.zeros(2, 3, 12, 10)})
    exporter.write(graph, example, file)
    exporter.finish(file, ends)
    return file, ends


def pixels(n, height, width, layout="hwc", seed=0):
    found = np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    return found if layout == "hwc" else np.ascontiguousarray(found.transpose(0, 3, 1, 2))


def by_hand(images, graph):
    """Logits of uint8 (B, H, W, C), by numpy and torch, of images as the network wants them."""
    x = (images.astype(np.float64) / 255 - TOLD["mean"]) / TOLD["std"]
    with torch.no_grad():
        return graph.module(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).numpy()


@pytest.mark.parametrize("layout", ["hwc", "chw"])
def test_pixels_are_scaled_and_normalised_in_the_file(layout, tmp_path):
    file, ends = made(tmp_path, input="pixels", layout=layout)
    session = open_session(file)
    (asked,) = session.get_inputs()
    assert (asked.name, asked.type) == ("image", "tensor(uint8)")
    assert asked.shape[1:] == ([12, 10, 3] if layout == "hwc" else [3, 12, 10])
    got = session.run(None, {"image": pixels(4, 12, 10, layout)})[0]
    assert got == pytest.approx(by_hand(pixels(4, 12, 10), network()), abs=1e-5)
    prepared = torch.from_numpy((pixels(4, 12, 10) / 255 - TOLD["mean"]) / TOLD["std"]).float().movedim(-1, 1)
    assert np.array_equal(ends.raw(prepared)[0].numpy(), pixels(4, 12, 10, layout)), "what is prepared tells its pixels"


@pytest.mark.parametrize("size", [(12, 10), (50, 70), (24, 97), (7, 6), (9, 31), (120, 13)])
def test_any_size_is_resized_as_torch_and_pillow_do(size, tmp_path):
    """Larger, smaller, long and narrow: within rounding of torch's antialiased resize, within a level of Pillow's."""
    file, ends = made(tmp_path, input="any_size")
    images = pixels(2, *size, seed=1)
    got = open_session(file).run(None, {"image": images})[0]
    with torch.no_grad():
        expected = ends.graph.module(torch.from_numpy(images))[0].numpy()
    assert got == pytest.approx(expected, abs=1e-4)
    by = max(Fraction(12, size[0]), Fraction(10, size[1]))
    whole = int(size[0] * by), int(size[1] * by)
    resized = Image.fromarray(images[0]).resize(whole[::-1], Image.Resampling.BILINEAR)
    top, left = round((whole[0] - 12) / 2), round((whole[1] - 10) / 2)
    cut = np.asarray(resized.crop((left, top, left + 10, top + 12)), np.float64)
    ours = fitted(torch.from_numpy(images[:1]).float().movedim(-1, 1), (12, 10))[0].movedim(0, -1).numpy()
    assert np.abs(ours - cut).max() <= 1.01


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """Side of a square -> a file that answers what its network would read, in levels of 0..255."""
    told = {**TOLD, "mean": [0.0] * 3, "std": [1 / 255] * 3}
    sessions = {}
    for side in (8, 13):
        image, answer = Field("image", "image", (3, side, side)), Field("levels", "vector", (3 * side * side,))
        exporter = OnnxExporter(OnnxOptions(engine="torchscript", input="any_size", layout="chw"))
        graph, file = Graph(nn.Flatten(), (image,), (answer,)), tmp_path_factory.mktemp("levels") / "net.onnx"
        exporter.write(graph, Batch(("a", "b"), {"image": torch.zeros(2, 3, side, side)}), file)
        exporter.finish(file, exporter.ends(graph, told))
        sessions[side] = open_session(file)
    return sessions


@given(st.sampled_from((8, 13)), st.integers(1, 130), st.integers(1, 130))
@example(8, 65, 100)  # 12.3 pixels
@example(8, 62, 100)  # 12.9: cut, not rounded
@example(8, 8, 19)  # the middle of 19 pixels begins at 5.5
@example(13, 1, 130)
def test_pictures_of_any_size_are_prepared_as_the_training_prepares_them(levels, side, height, width):
    images = torch.from_numpy(pixels(1, height, width, "chw"))
    prepared = pixels_of.fitted(images, side, None)
    found = levels[side].run(None, {"image": images.numpy()})[0].reshape(prepared.shape)
    assert np.abs(found - prepared.numpy()).max() <= 1.01, "a level, by which torchvision's integers are off"


def test_probabilities_and_class(tmp_path):
    images, graph = pixels(9, 12, 10), network()
    logits = by_hand(images, graph)
    e = np.exp(logits - logits.max(1, keepdims=True))
    file, ends = made(tmp_path, input="pixels", output="probabilities")
    found = open_session(file).run(["probabilities"], {"image": images})[0]
    assert found == pytest.approx(e / e.sum(1, keepdims=True), abs=1e-6)
    told = ends.own({"probabilities": torch.from_numpy(found)})["logits"].softmax(1).numpy()
    assert told == pytest.approx(found, abs=1e-6), "their logarithms are logits"
    file, ends = made(tmp_path, input="pixels", output="class")
    session = open_session(file)
    assert (session.get_outputs()[0].name, session.get_outputs()[0].type) == ("class", "tensor(int64)")
    found = session.run(None, {"image": images})[0]
    assert found.tolist() == logits.argmax(1).tolist()
    assert ends.own({"class": torch.from_numpy(found)})["logits"].argmax(1).tolist() == found.tolist()


class Called(nn.Module):
    """Parts and answers whose names the ends could take."""

    def __init__(self):
        super().__init__()
        self.ends, self.image = nn.Sequential(nn.Flatten(), nn.Linear(360, 8)), nn.Identity()
        self.probabilities = nn.Parameter(torch.randn(8, 5))

    def forward(self, image):
        return self.ends(self.image(image)).relu() @ self.probabilities


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_network_may_call_its_parts_as_it_likes(output, tmp_path):
    torch.manual_seed(0)
    graph = Graph(Called().eval(), (IMAGE,), (Field(output, "logits", (5,)),))
    file, ends = made(tmp_path, graph, input="any_size", output="probabilities")
    onnx.checker.check_model(onnx.load(file), full_check=True)
    images = pixels(2, 20, 30)
    got = open_session(file).run(["probabilities"], {"image": images})[0]
    with torch.no_grad():
        assert got == pytest.approx(ends.graph.module(torch.from_numpy(images))[0].numpy(), abs=1e-6)


def test_a_branch_reads_what_is_prepared(tmp_path):
    """An `If` of the network, in whose branches the image is named without being an input of theirs."""
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 12, 10])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    branches = {}
    for name, kind in (("then_branch", "ReduceMax"), ("else_branch", "ReduceMin")):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        node = helper.make_node(kind, ["image", "axes"], [name], keepdims=0)
        branches[name] = helper.make_graph([node], name, [], [out])
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["is_bright"]),
        helper.make_node("If", ["is_bright"], ["logits"], **branches),
    ]
    given = [
        numpy_helper.from_array(np.array([2, 3]), "axes"),
        numpy_helper.from_array(np.array(1.0, np.float32), "limit"),
    ]
    body = helper.make_graph(nodes, "model", [value], [logits], given)
    file = tmp_path / "branches.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    exporter = OnnxExporter(OnnxOptions(input="pixels"))
    graph = Graph(nn.Identity(), (IMAGE,), (Field("logits", "logits", (3,)),))
    exporter.finish(file, exporter.ends(graph, TOLD))
    for images, taken in ((pixels(2, 12, 10), np.max), (pixels(2, 12, 10) // 4, np.min)):
        x = (images.astype(np.float64) / 255 - TOLD["mean"]) / TOLD["std"]
        got = open_session(file).run(None, {"image": images})[0]
        assert got == pytest.approx(taken(x, (1, 2)), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "inputs", "outputs", "told", "said"),
    [
        ({"input": "pixels"}, (IMAGE,), (LOGITS,), {}, "nobody knows how images become"),
        ({"input": "pixels"}, (Field("x", "vector", (4,)),), (LOGITS,), TOLD, "the network reads x (vector)"),
        (
            {"input": "pixels"},
            (Field("x", "image", (12, 10, 1)),),
            (LOGITS,),
            {**TOLD, "channels": 1},
            "the network reads x (float32 12x10x1)",
        ),
        (
            {"input": "any_size"},
            (Field("x", "image", (3, 12, 10), "float16"),),
            (LOGITS,),
            TOLD,
            "the network reads x (float16 3x12x10)",
        ),
        ({"output": "class"}, (IMAGE,), (Field("y", "value", (1,)),), TOLD, "the network answers y (value)"),
    ],
)
def test_what_cannot_be(options, inputs, outputs, told, said):
    exporter = OnnxExporter(OnnxOptions(**options))
    with pytest.raises(StudyError) as caught:
        exporter.ends(Graph(nn.Identity(), inputs, outputs), told)
    assert said in caught.value.problem
    assert caught.value.path.startswith("export.exporter.options.")
    assert OnnxExporter(OnnxOptions()).ends(Graph(nn.Identity(), inputs, outputs), told) is None
