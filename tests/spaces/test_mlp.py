from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kdsearch_spaces.mlp.net import Join
from kdsearch_spaces.mlp.space import MlpSpace, MlpSpec
from torch import nn
from torch.nn import functional as F

from kdsearch.deploy.cost import count
from kdsearch.errors import DataError, StudyError
from kdsearch.kinds import IO, Field
from kdsearch.kinds.forward import recorded
from kdsearch.kinds.options import searchable
from kdsearch.testing.space import SearchSpaceContract


def io(*shapes, n_classes=3):
    inputs = tuple(Field(f"x{i}", "vector", shape) for i, shape in enumerate(shapes or [(5,)]))
    return IO(inputs, (Field("logits", "logits", (n_classes,)),))


class TestMlpOfImages(SearchSpaceContract):
    space = MlpSpace
    spec: ClassVar = {"widths": {"choices": [4, 6]}}


class TestMlpOfVectors(SearchSpaceContract):
    space = MlpSpace
    spec: ClassVar = {"widths": {"choices": [4, 6]}, "depth": {"low": 1, "high": 3}, "norm": "layer"}

    def io(self):
        return io((7,), (2, 3))


class TestMlpOfCategoriesAndWhatMayBeMissing(SearchSpaceContract):
    space = MlpSpace
    spec: ClassVar = {"widths": {"choices": [4, 6]}, "depth": 2, "embedding": {"choices": [1, 3]}}

    def io(self):
        inputs = (
            Field("numbers", "vector", (4,), mean=(9.0, 0.0, 0.0, -3.0), std=(2.0, 1.0, 5.0, 1.0)),
            Field("present_numbers", "present", ()),
            Field("categories", "categories", (3,), "int64", n_values=11),
            Field("present_categories", "present", (), "bool"),
        )
        return IO(inputs, (Field("logits", "logits", (5,)),))


def test_a_category_s_vector_is_its_own():
    """By hand: what the first layer reads are the numbers, then each id's row of the table."""
    own = IO((Field("x", "vector", (2,)), Field("c", "categories", (2,), "int64", n_values=5)), io().outputs)
    model = MlpSpace().build(MlpSpec(depth=1, widths=(4,), norm="none", embedding=3), own)
    x, c = torch.randn(6, 2), torch.randint(5, (6, 2))
    table, first = model.module.join.embeddings["1"].weight, model.module.layers[0].linear
    read = torch.cat([x, *(table[c[:, i]] for i in range(2))], 1)
    torch.testing.assert_close(model.module.layers[0](model.module.join(x, c)), first(read).relu())
    assert MlpSpace().cost(MlpSpec(depth=1, widths=(4,), norm="none", embedding=3), own).params == 15 + 8 * 4 + 4 + 15


class TestMlpOfFixedWidths(SearchSpaceContract):
    space = MlpSpace
    spec: ClassVar = {"widths": [8, 8, 4], "depth": {"choices": [1, 2, 3, 4]}}


def test_cost_is_that_worked_out_by_hand():
    spec = MlpSpec(depth=2, widths=(4, 6, 9), norm="none")
    assert MlpSpace().cost(spec, io((5,))) == count(MlpSpace().build(spec, io((5,))), io((5,)))
    cost = MlpSpace().cost(spec, io((5,)))
    assert (cost.params, cost.macs) == (5 * 4 + 4 + 4 * 6 + 6 + 6 * 3 + 3, 5 * 4 + 4 * 6 + 6 * 3)
    normed = MlpSpace().cost(spec.model_copy(update={"norm": "batch"}), io((2, 2), (1,)))
    assert (normed.params, normed.macs) == (5 * 4 + 2 * 4 + 4 * 6 + 2 * 6 + 6 * 3 + 3, cost.macs)


@pytest.mark.parametrize(
    ("activation", "function"), [("relu", F.relu), ("gelu", F.gelu), ("silu", lambda x: x / (1 + torch.exp(-x)))]
)
def test_layers_are_the_formula(activation, function):
    torch.manual_seed(0)
    spec = MlpSpec(depth=3, widths=(5, 4, 4), activation=activation, norm="layer", residual=True)
    built = MlpSpace().build(spec, io((5,)))
    x = torch.randn(6, 5)
    with recorded(built, built.taps) as seen:
        logits = built.module(x)
    weights = [layer.linear.weight for layer in built.module.layers]
    h = function(F.layer_norm(x @ weights[0].mT, (5,)))  # equally wide as the input, which has no shortcut
    torch.testing.assert_close(seen["stage[0]"], h)
    h = function(F.layer_norm(h @ weights[1].mT, (4,)))
    torch.testing.assert_close(seen["stage[1]"], h)
    h = h + function(F.layer_norm(h @ weights[2].mT, (4,)))
    torch.testing.assert_close(seen["stage[2]"], h)
    assert torch.equal(seen["penultimate"], seen["stage[2]"])
    torch.testing.assert_close(logits, built.part("logits")(h))


def test_inputs_are_joined_in_the_task_s_order():
    torch.manual_seed(0)
    net = MlpSpace().build(MlpSpec(), io((2, 3), (4,))).module.eval()
    a, b = torch.randn(2, 2, 3), torch.randn(2, 4)
    alone = MlpSpace().build(MlpSpec(), io((10,))).module.eval()
    alone.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(a, b), alone(torch.cat([a.reshape(2, 6), b], 1)))


def test_dropout_is_in_every_layer_and_off_in_eval_mode():
    built = MlpSpace().build(MlpSpec(dropout=0.4), io((5,)))
    assert [part.p for part in built.module.modules() if isinstance(part, nn.Dropout)] == [0.4, 0.4]
    x = torch.randn(8, 5)
    assert not torch.equal(built.module(x), built.module(x))
    assert torch.equal(built.module.eval()(x), built.module(x))


widths = st.lists(st.sampled_from([4, 6, 9]), min_size=1, max_size=6)


@settings(max_examples=60)
@given(widths, st.integers(1, 6), st.booleans(), st.sampled_from(["none", "batch", "layer"]))
def test_the_canonical_form_computes_the_same(widths, depth, residual, norm):
    space, fields = MlpSpace(), io((5,))
    spec = MlpSpec(depth=min(depth, len(widths)), widths=tuple(widths), residual=residual, norm=norm)
    canonical = space.canonical(spec)
    assert len(canonical.widths) == len(spec.widths)
    nets = [space.build(each, fields).module.eval() for each in (spec, canonical)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(3, 5)
    assert torch.equal(nets[0](x), nets[1](x))
    other = canonical.model_copy(
        update={"widths": (*canonical.widths[: spec.depth], *[1] * (len(widths) - spec.depth))}
    )
    assert space.key(other) == space.key(spec)


def test_neighbours_are_other_networks():
    space = MlpSpace()
    spec = MlpSpec(depth=2, widths=(16, 32, 64, 64, 64, 64))
    for other in space.neighbours(spec, torch.Generator().manual_seed(0), 20):
        assert space.key(other) != space.key(spec)


def test_depths_have_a_width_for_every_layer():
    def narrowed(**spec):
        raw = {"depth": "search", "widths": "search", **spec}
        return MlpSpace(searchable(MlpSpec, raw, "student.spec")).narrowed(io())

    assert {spec.depth for spec in narrowed(widths=[8, 8, 4], norm="none").every()} == {2, 3}
    assert (
        narrowed().dims == MlpSpace(searchable(MlpSpec, {"depth": "search", "widths": "search"}, "student.spec")).dims
    )
    assert narrowed(widths={"choices": [[8], [8, 4]]}).size() == 1 * 2
    with pytest.raises(StudyError, match="depth 8 with 6 widths"):
        narrowed(depth=8)
    with pytest.raises(StudyError, match=r"student\.spec\.depth: none of 2, 3, 4, 6 can be built"):
        narrowed(widths=[8])


def test_the_default_teacher_keeps_what_the_study_fixes():
    space = MlpSpace(searchable(MlpSpec, {"norm": "layer", "widths": [8, 8]}, "student.spec"))
    assert space.teacher_spec() == MlpSpec(depth=4, widths=(512,) * 4, norm="layer", residual=True)


@pytest.mark.parametrize(
    ("spec", "fields", "error", "expected"),
    [
        (MlpSpec(depth=3, widths=(8, 8)), io(), StudyError, "3 hidden layers with 2 widths"),
        (MlpSpec(), io((None, 3)), DataError, "input 'x0' is Nonex3"),
        (MlpSpec(), IO((Field("ids", "tokens", (4,), "int64"),), io().outputs), DataError, "4 of int64"),
        (MlpSpec(), IO((), io().outputs), DataError, "no input field"),
        (MlpSpec(), IO(io().inputs, (Field("map", "map", (3, 8, 8)),)), DataError, "one vector"),
    ],
)
def test_what_does_not_fit_is_named(spec, fields, error, expected):
    for act in (MlpSpace().build, MlpSpace().cost):
        with pytest.raises(error, match=expected):
            act(spec, fields)


@pytest.mark.parametrize(
    ("spec", "where"),
    [({"widths": []}, "widths"), ({"widths": [8, 0]}, r"widths\[1\]"), ({"dropout": 1.0}, "dropout")],
)
def test_bad_specs_are_named(spec, where):
    with pytest.raises(StudyError, match=where):
        MlpSpace().parse(spec)


def test_what_is_true_or_false_is_read_as_one_and_nought():
    there = torch.tensor([[True, False], [False, True]])
    assert Join(flags=[0])(there).dtype == torch.float32
    assert Join(flags=[0])(there).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_what_is_read_of_a_spec_ends_with_its_depth():
    space = MlpSpace()
    spec = MlpSpec(widths=(32, 16, 8, 8), depth=2)
    assert space.read(spec)["widths"] == [32, 16]
    assert space.read(spec) == space.read(MlpSpec(widths=(32, 16, 64, 4), depth=2))
