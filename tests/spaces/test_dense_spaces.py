"""The spaces of a class for each pixel: their contract, hand-counted networks, attention by hand, files of any batch."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_spaces.seg.space import SegSpace, SegSpec
from kdsearch_spaces.tiny_mit.net import Attention
from kdsearch_spaces.tiny_mit.space import TinyMitSpace, TinyMitSpec

from kdsearch.builtin.onnx_exporter import OnnxExporter, OnnxOptions
from kdsearch.deploy.cost import count
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Batch, Field, Graph
from kdsearch.kinds.options import searchable
from kdsearch.testing.space import SearchSpaceContract

TINY_SEG = SegSpec(widths=(4, 6, 8), depth=2, dec=5)
TINY_MIT = TinyMitSpec(widths=(16, 32, 16), depths=(1, 2, 1), reductions=(4, 2, 1), dec=8)
BOTH = pytest.mark.parametrize(("space", "spec"), [(SegSpace(), TINY_SEG), (TinyMitSpace(), TINY_MIT)])


def io(channels=3, height=16, width=24, n_classes=5):
    logits = Field("logits", "logits", (n_classes, height, width), classes_at=0)
    return IO((Field("image", "image", (channels, height, width)),), (logits,))


class TestSeg(SearchSpaceContract):
    space = SegSpace
    spec: ClassVar = {"widths": {"choices": [4, 6, 9]}, "dec": {"choices": [5, 8]}}

    def io(self):
        return io()


class TestTinyMit(SearchSpaceContract):
    space = TinyMitSpace
    spec: ClassVar = {"widths": {"choices": [16, 32]}, "depths": {"choices": [1, 2]}, "dec": {"choices": [8, 16]}}
    samples = 2

    def io(self):
        return io()


def test_a_small_seg_costs_what_a_hand_counts():
    spec = SegSpec(widths=(4, 6, 8), depth=1, dec=5)
    units = [(3, 4), (4, 4), (4, 6), (6, 8), (5, 5)]  # stem, three stages, head: 3x3 with batch norms
    points = [(4, 5), (6, 5), (8, 5), (5, 7)]  # laterals and classifier: 1x1 with biases
    params = sum(9 * a * b + 2 * b for a, b in units) + sum(a * b + b for a, b in points)
    areas = {2: 8 * 12, 4: 4 * 6, 8: 2 * 3}
    macs = sum(9 * a * b * areas[s] for (a, b), s in zip(units, (2, 2, 4, 8, 2), strict=True))
    macs += sum(a * b * areas[s] for (a, b), s in zip(points, (2, 4, 8, 2), strict=True))
    found = SegSpace().cost(spec, io(n_classes=7))
    assert (found.params, found.macs) == (params, macs)


@BOTH
@pytest.mark.parametrize("size", [(16, 24), (17, 27), (32, 33)])
def test_the_cost_formula_is_the_built_network_s_at_any_size(space, spec, size):
    fields = io(1, *size)
    model = space.build(spec, fields)
    assert model.cost() == count(model, fields)
    assert model.module.eval()(torch.zeros(2, 1, *size)).shape == (2, 5, *size)


@BOTH
@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(8, 36), st.integers(8, 36)), seed=st.integers(0, 1000))
def test_what_is_drawn_for_an_image_can_be_built(space, spec, size, seed):
    fields = io(1, *size)
    drawn = space.narrowed(fields).sample(torch.Generator().manual_seed(seed))
    model = space.build(drawn, fields)
    assert model.module.eval()(torch.zeros(1, 1, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 40), [(1, 2, 4), (1, 2), (1,)]),  # maps of 4x20, 2x10, 1x5
        ((20, 30), [(1, 2, 4), (1, 2, 4), (1, 2)]),  # 10x15, 5x8, 3x4
        ((28, 28), [(1, 2, 4)] * 3),  # 14, 7, 4
    ],
)
def test_reductions_are_those_that_the_smaller_side_of_a_map_allows(size, expected):
    dims = {dim.path: dim.range.choices for dim in TinyMitSpace().narrowed(io(3, *size)).dims}
    assert [dims[f"reductions[{i}]"] for i in range(3)] == expected


def test_reductions_that_a_study_chooses_whole_or_that_none_of_fits():
    lists = {"reductions": {"choices": [[4, 2, 1], [4, 4, 1], [1, 1, 2]]}}
    (dim,) = TinyMitSpace(searchable(TinyMitSpec, lists, "")).narrowed(io(3, 8, 8)).dims
    assert dim.range.choices == ((4, 2, 1),)
    with pytest.raises(StudyError, match=r"spec\.reductions\[2\]: none of 2, 4 can be built.*at most 1"):
        TinyMitSpace(searchable(TinyMitSpec, {"reductions": {"choices": [2, 4]}}, "spec")).narrowed(io(3, 8, 8))


def check_file(space, spec, engine, size, file):
    fields = io(3, *size)
    torch.manual_seed(0)
    net = space.build(spec, fields).module.eval()
    example = Batch(("a", "b"), {"image": torch.randn(2, 3, *size)})
    exporter = OnnxExporter(OnnxOptions(engine=engine))
    exporter.write(Graph(net, fields.inputs, fields.outputs), example, file)
    call = exporter.load(file)
    for n in (1, 2, 5):
        image = torch.randn(n, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(call(image)["logits"], net(image), rtol=1e-3, atol=1e-4)


@BOTH
@pytest.mark.parametrize("engine", ["torchscript", "dynamo"])
def test_files_answer_for_any_number_of_samples(space, spec, engine, tmp_path):
    check_file(space, spec, engine, (16, 24), tmp_path / "model.onnx")


@BOTH
def test_files_answer_for_images_that_no_stride_divides(space, spec, tmp_path):
    check_file(space, spec, "torchscript", (17, 30), tmp_path / "model.onnx")


def test_attention_of_all_places_is_torchs():
    """With a reduction of 1, torch's own multi-head attention of equal weights."""
    torch.manual_seed(0)
    ours, theirs = Attention(32, 2, 1), torch.nn.MultiheadAttention(32, 2, batch_first=True)
    layers = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([each.weight for each in layers]))
        theirs.in_proj_bias.copy_(torch.cat([each.bias for each in layers]))
        theirs.out_proj.load_state_dict(ours.project.state_dict())
        x = torch.randn(2, 12, 32)
        torch.testing.assert_close(ours(x, 3, 4), theirs(x, x, x)[0], rtol=1e-5, atol=1e-6)


def test_a_reduced_map_is_what_keys_are_made_of():
    """By hand: where queries are 0, every place gets the mean of the values of the smaller map."""
    torch.manual_seed(0)
    layer = Attention(16, 1, 2)
    with torch.no_grad():
        layer.query.weight.zero_(), layer.query.bias.zero_()
        x = torch.randn(2, 24, 16)
        small = layer.reduce(x.mT.reshape(2, 16, 4, 6)).flatten(2).mT
        expected = layer.project(layer.value(layer.norm(small)).mean(1, keepdim=True))
        torch.testing.assert_close(layer(x, 4, 6), expected.expand(-1, 24, -1), rtol=1e-5, atol=1e-6)


@BOTH
def test_what_they_cannot_be_built_for_is_refused(space, spec):
    vector = IO(io().inputs, (Field("logits", "logits", (5,)),))
    with pytest.raises(DataError, match=r"one map \(K, 16, 24\), as large as the image"):
        space.build(spec, vector)
    other = IO(io().inputs, io(height=8).outputs)
    with pytest.raises(DataError, match="as large as the image"):
        space.build(spec, other)
    with pytest.raises(DataError, match="at least 8"):
        space.build(spec, io(height=7))


def test_specs_that_are_no_network_are_refused():
    with pytest.raises(StudyError, match="16"):
        TinyMitSpace().parse({"widths": [16, 24, 32]})
    with pytest.raises(DataError, match="16 times smaller"):
        TinyMitSpace().build(TINY_MIT.model_copy(update={"reductions": (4, 2, 16)}), io())
