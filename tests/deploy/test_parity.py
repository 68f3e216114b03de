"""Parity sees differences, baked shapes and missing outputs."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from kdsearch.deploy.parity import OWN, Difference, compare, exact_call, module_call
from kdsearch.errors import ArtifactError, RefusedError
from kdsearch.kinds import Field, Graph
from tests.deploy.nets import batch_of

X = Field("x", "vector", (None, 3))
LOGITS = Field("logits", "logits", (4,))
SAMPLES = batch_of(x=torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.mean(1))


GRAPH = Graph(Net(), (X,), (LOGITS,))
TORCH = module_call(GRAPH)


def test_the_largest_difference_and_the_share_of_equal_argmax():
    seen = []

    def moved(x):
        seen.append(tuple(x.shape[:2]))
        out = TORCH(x)["logits"].clone()
        out[0, 2] += 0.25
        out[0, 1] -= 0.125
        return {"logits": out}

    found = compare(TORCH, moved, (X,), (LOGITS,), SAMPLES, (1, 2, 4))
    assert found.max_abs == pytest.approx(0.25, abs=1e-6)
    assert set(seen) == {(n, length) for n in (1, 2, 4) for length in (5, 2, 1)}


def test_agreement_counts_positions_of_the_given_batches():
    def wrong_for_first(x):
        out = TORCH(x)["logits"].clone()
        out[0] = -out[0]
        return {"logits": out}

    batches = [SAMPLES, SAMPLES.rows(torch.tensor([1, 2]))]
    found = compare(TORCH, wrong_for_first, (X,), (LOGITS,), SAMPLES, batches=batches)
    assert found.top1_agreement == pytest.approx(6 / 8)


def test_classes_of_maps_and_of_sequences_lie_on_their_own_axis():
    for shape, axis in (((3, 2, 2), 1), ((5, 3), -1), ((3,), 1)):
        logits = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
        other = logits.flip(axis)
        field = Field("y", "logits", shape)
        found = compare(
            lambda x, a=logits: {"y": a[: len(x)]}, lambda x, a=other: {"y": a[: len(x)]}, (LOGITS,), (field,),
            batch_of(logits=torch.zeros(4, 4)), (1, 2, 4),
        )  # fmt: skip
        pairs = [(logits[:n].argmax(axis) == other[:n].argmax(axis)).flatten() for n in (1, 2, 4)]
        assert found.top1_agreement == pytest.approx(torch.cat(pairs).float().mean().item())


def test_no_logits_no_agreement():
    vector = Field("logits", "vector", (4,))
    assert compare(TORCH, TORCH, (X,), (vector,), SAMPLES).top1_agreement is None
    assert compare(TORCH, TORCH, (X,), (vector,), SAMPLES).max_abs == 0.0


def test_a_value_that_is_finite_on_one_side_only_is_infinitely_far():
    def broken(x):
        out = TORCH(x)["logits"].clone()
        out[0, 0] = math.nan
        return {"logits": out}

    assert compare(TORCH, broken, (X,), (LOGITS,), SAMPLES).max_abs == math.inf

    def unbounded(x):
        return {"logits": TORCH(x)["logits"].masked_fill(torch.eye(len(x), 4)[:, :1].bool(), -math.inf)}

    assert compare(unbounded, unbounded, (X,), (LOGITS,), SAMPLES).max_abs == 0.0
    with pytest.raises(RefusedError, match=r"output 'logits' of the network itself is not a number at 1x5x3"):
        compare(broken, broken, (X,), (LOGITS,), SAMPLES)


def test_a_baked_batch_size_is_refused_with_the_shape():
    with pytest.raises(RefusedError, match=r"fails at 1x5x3: stuck"):
        compare(TORCH, lambda x: stuck(x, len(x) == 2), (X,), (LOGITS,), SAMPLES)
    with pytest.raises(
        RefusedError, match=r"fails at 1x2x3, and not at the samples' own length, which may be a number in it: stuck"
    ):
        compare(TORCH, lambda x: stuck(x, x.shape[1] == 5), (X,), (LOGITS,), SAMPLES)


def stuck(x, fits):
    if not fits:
        raise RuntimeError("stuck at the example's shape\nmore")
    return TORCH(x)


def test_another_shape_or_a_missing_output_is_refused():
    with pytest.raises(RefusedError, match=r"\(1, 3\) in the file"):
        compare(TORCH, lambda x: {"logits": TORCH(x)["logits"][:, :3]}, (X,), (LOGITS,), SAMPLES)
    with pytest.raises(RefusedError, match="no output 'logits'"):
        compare(TORCH, lambda x: {"other": x}, (X,), (LOGITS,), SAMPLES)


def test_an_exporter_that_answers_otherwise_is_told():
    """A tensor where answers have names, and an error that says nothing."""
    with pytest.raises(
        RefusedError, match=r"what the exporter loads answers Tensor\. Expected tensors by name: logits"
    ):
        compare(TORCH, lambda x: x, (X,), (LOGITS,), SAMPLES)

    def fails(x):
        raise ZeroDivisionError

    with pytest.raises(RefusedError, match="the file fails at 1x5x3: ZeroDivisionError"):
        compare(TORCH, fails, (X,), (LOGITS,), SAMPLES)


def test_too_few_sizes_is_a_mistake_of_the_caller():
    for sizes in ((1, 2), (2, 3, 4)):
        with pytest.raises(ValueError, match="at least three"):
            compare(TORCH, TORCH, (X,), (LOGITS,), SAMPLES, sizes)


@pytest.mark.parametrize("error", [RuntimeError, ArtifactError])
def test_sizes_that_the_network_does_not_take_are_not_compared(error):
    """One of six places takes six and three, and no two; a file that fails at three is refused as ever."""
    field, places = Field("x", "vector", (None,)), batch_of(x=torch.arange(24.0).reshape(4, 6))
    asked: list[int] = []

    def network(x):
        asked.append(x.shape[1])
        if x.shape[1] % 3:
            raise error("cannot be halved")
        return {"y": x[:, :1]}

    def file(x):
        if x.shape[1] == 3:
            raise RuntimeError("no such size")
        return {"y": x[:, :1]}

    assert compare(network, network, (field,), (Field("y", "vector", (1,)),), places).max_abs == 0
    assert {2, 3, 6} <= {*asked}
    with pytest.raises(RefusedError, match="no such size"):
        compare(network, file, (field,), (Field("y", "vector", (1,)),), places)
    with pytest.raises(error):
        compare(network, file, (field,), (Field("y", "vector", (1,)),), batch_of(x=torch.zeros(4, 5)))


TOKENS, MASK = Field("tokens", "tokens", (None,), "int64", n_values=5), Field("mask", "mask", (None,), "int64")
TEXTS = batch_of(tokens=torch.ones(4, 6).long(), mask=(torch.arange(6) < torch.tensor([[6], [3], [2], [1]])).long())


@pytest.mark.parametrize(("kind", "shape"), [("logits", (None, 3)), ("vector", (None, 3)), ("scores", (None, 3))])
def test_nothing_counts_over_padding(kind, shape):
    """The file is right at every token and wrong, even no number, over padding."""
    right = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    def answer(tokens, mask):
        return {"y": right[: tokens.shape[1]].expand(len(tokens), -1, -1).clone()}

    def rubbish(tokens, mask):
        return {"y": answer(tokens, mask)["y"].masked_fill(mask[..., None] == 0, math.nan)}

    def wrong(tokens, mask):
        return {"y": -answer(tokens, mask)["y"]}

    field = Field("y", kind, shape, mask="mask")
    for torch_side in (answer, rubbish):
        found = compare(torch_side, rubbish, (TOKENS, MASK), (field,), TEXTS, batches=[TEXTS])
        assert found.max_abs == 0
        assert found.top1_agreement == (None if kind == "vector" else 1)
    if kind != "vector":
        assert found.judged == 12 * (3 if kind == "scores" else 1)
        assert compare(answer, wrong, (TOKENS, MASK), (field,), TEXTS, batches=[TEXTS]).top1_agreement == 0
    everywhere = Field("y", kind, shape)
    assert compare(answer, rubbish, (TOKENS, MASK), (everywhere,), TEXTS, batches=[TEXTS]).max_abs == math.inf


def test_positions_of_a_class_axis_in_front_are_found():
    def answer(tokens, mask):
        return {"y": torch.ones(len(tokens), 3, tokens.shape[1])}

    def moved(tokens, mask):
        return {"y": answer(tokens, mask)["y"] + (mask[:, None] == 0) * torch.arange(3.0)[:, None]}

    field = Field("y", "logits", (3, None), classes_at=0, mask="mask")
    found = compare(answer, moved, (TOKENS, MASK), (field,), TEXTS, batches=[TEXTS])
    assert (found.max_abs, found.top1_agreement, found.judged) == (0, 1, 12)


def test_scores_are_decided_one_by_one():
    """Two labels of twelve change sides; which one is largest says nothing."""
    scores = torch.tensor([[3.0, 2.0, -1.0], [-4.0, 1.0, -2.0], [0.5, -0.5, 5.0], [-1.0, -1.0, -1.0]])

    def answer(x):
        return {"scores": scores[: len(x)]}

    def other(x):
        changed = scores.clone()
        changed[0] = torch.tensor([1.0, 9.0, -1.0])
        changed[2] = torch.tensor([-0.1, 0.1, 5.0])
        return {"scores": changed[: len(x)]}

    field, x = Field("scores", "scores", (3,)), batch_of(x=torch.zeros(4, 1, 3))
    found = compare(answer, other, (X,), (field,), x, (1, 2, 4), batches=[x])
    assert found.top1_agreement == pytest.approx(10 / 12)
    assert found.judged == 12


class Large(nn.Module):
    """Logits of standard deviation 17, by sums that cancel: torch's fp32 is far from its fp64."""

    def __init__(self, cancels=0.0):
        super().__init__()
        torch.manual_seed(3)
        self.head, self.cancels = nn.Linear(3, 4), cancels

    def forward(self, x):
        y = 17 * self.head(x.mean(1))
        return (y + self.cancels) - self.cancels


def off(call, by):
    def moved(x):
        return {"logits": call(x)["logits"] + by}

    return moved


def test_a_difference_counts_by_the_scale_of_the_outputs():
    """5.4e-4 on logits of a spread of 8 is rounding; on logits of .008 it is another network."""
    call = module_call(Graph(Large(), (X,), (LOGITS,)))

    def scaled(by):
        return lambda x: {"logits": by * call(x)["logits"]}

    for factor in (1.0, 1e-3):
        found = compare(scaled(factor), off(scaled(factor), 5.4e-4), (X,), (LOGITS,), SAMPLES, bound=1e-4)
        (each,) = found.differences
        values = torch.cat([scaled(factor)(cut)["logits"] for cut in probes()]).double()
        assert each.scale == pytest.approx(values.std(correction=0).item(), rel=1e-6)
        assert each.relative == pytest.approx(5.4e-4 / each.scale, rel=1e-2)
        if factor == 1.0:
            found.check(1e-4)
            continue
        with pytest.raises(RefusedError, match=r"by 0\.00054 at output 'logits', 0\.\d+ of its scale"):
            found.check(1e-4)


@pytest.mark.parametrize("mask", [-1e4, -1e9, float(torch.finfo(torch.float32).min)])
def test_a_masks_numbers_hide_no_other_ones(mask):
    """A branch that is baked in triples the scores beside one that is masked; and the mask's own number counts by its share."""
    call, away = module_call(Graph(Large(), (X,), (LOGITS,))), torch.tensor([0.0, 0.0, 0.0, mask])

    def masked(x, by=1.0, share=1.0):
        return {"logits": by * call(x)["logits"] + share * away}

    compare(masked, masked, (X,), (LOGITS,), SAMPLES, bound=1e-4).check(1e-4)
    tripled = compare(masked, lambda x: masked(x, by=3.0), (X,), (LOGITS,), SAMPLES, bound=1e-4)
    assert 0.5 < tripled.worst.relative < 20
    with pytest.raises(RefusedError, match="of its scale"):
        tripled.check(1e-4)
    moved = compare(masked, lambda x: masked(x, share=0.9), (X,), (LOGITS,), SAMPLES, bound=1e-4)
    assert moved.worst.relative == pytest.approx(0.1, rel=0.02)
    with pytest.raises(RefusedError, match="of its scale"):
        moved.check(1e-4)


def test_a_file_that_answers_no_number_is_refused_whatever_the_bound():
    def lost(x):
        return {"logits": TORCH(x)["logits"] * torch.tensor([1.0, math.nan, 1.0, 1.0])}

    with pytest.raises(RefusedError, match="the file answers NaN at output 'logits', where torch answers numbers"):
        compare(TORCH, lost, (X,), (LOGITS,), SAMPLES).check(None)


def probes():
    """As `compare` draws them of SAMPLES."""
    for n in (1, 2, 5):
        for length in (5, 2, 1):
            yield SAMPLES["x"][:n, :length]


def test_what_torch_itself_rounds_is_no_fault_of_a_file():
    """A network that cancels loses digits: its own fp32 is as far from fp64 as the file is from it."""
    graph = Graph(Large(cancels=3e5), (X,), (LOGITS,))
    call = module_call(graph)
    own = max((call(x)["logits"] - exact_call(graph)(x)["logits"]).abs().max().item() for x in probes())
    assert own > 1e-3
    asked = {"bound": 1e-4, "exact": lambda: exact_call(graph)}
    near = compare(call, off(call, 2 * own), (X,), (LOGITS,), SAMPLES, **asked)
    assert near.differences[0].own == pytest.approx(own)
    assert near.worst.relative > 1e-4
    near.check(1e-4)
    far = compare(call, off(call, (OWN + 1) * own), (X,), (LOGITS,), SAMPLES, **asked)
    with pytest.raises(RefusedError, match=r"torch's own fp32 is 0\.0\d+ from its fp64"):
        far.check(1e-4)
    assert graph.module.head.weight.dtype == torch.float32, "the network is left as it was"


def test_a_network_without_fp64_is_held_to_the_bound_alone():
    def none():
        raise RuntimeError("expected Float but found Double")

    found = compare(TORCH, off(TORCH, 1.0), (X,), (LOGITS,), SAMPLES, bound=1e-4, exact=none)
    assert found.differences[0].own is None
    with pytest.raises(RefusedError):
        found.check(1e-4)


def test_each_output_has_its_own_scale():
    """A small second output may not hide behind a large first one."""
    outputs = (LOGITS, Field("score", "vector", (1,)))

    def answer(x):
        return {"logits": 1000 * TORCH(x)["logits"], "score": TORCH(x)["logits"][:, :1] / 1000}

    def moved(x):
        out = answer(x)
        return {"logits": out["logits"], "score": out["score"] + 1e-5}

    found = compare(answer, moved, (X,), outputs, SAMPLES)
    assert found.worst.output == "score"
    with pytest.raises(RefusedError, match="output 'score'"):
        found.check(1e-4)


CLASS = Field("class", "class", (), "int64")


def choosing(wrong=0, sizes=(1, 2, 5, 40)):
    """The class of the first vector, another one at the first `wrong` samples of batches of these sizes."""

    def call(x):
        answers = x[:, 0].argmax(1)
        if len(x) in sizes:
            answers[:wrong] = (answers[:wrong] + 1) % 3
        return {"class": answers}

    return call


BATCHES = [batch_of(x=torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(n))) for n in range(5)]


def test_classes_are_compared_by_the_share_of_equal_ones():
    """4 of 200 answers: the agreement is theirs, and so is the difference, whatever the numbers of the classes."""
    found = compare(choosing(), choosing(4, sizes=(40,)), (X,), (CLASS,), SAMPLES, batches=BATCHES)
    assert found.top1_agreement == pytest.approx(1 - 20 / 200)
    (each,) = found.differences
    assert (each.max_abs, each.relative, each.is_share) == (pytest.approx(0.1), pytest.approx(0.1), True)
    assert found.judged == 200
    found.check(0.11)
    with pytest.raises(RefusedError, match=r"10\.00% of the answers at output 'class' are not torch's"):
        found.check(1e-4)
    assert compare(choosing(), choosing(), (X,), (CLASS,), SAMPLES, batches=BATCHES).max_abs == 0


def test_classes_of_one_size_of_batch_are_not_lost_among_many():
    """Wrong at single samples alone: 3 of 24 at the probed sizes, and none of the 200."""
    found = compare(choosing(), choosing(1, sizes=(1,)), (X,), (CLASS,), SAMPLES, batches=BATCHES)
    assert found.top1_agreement == 1
    assert found.max_abs == pytest.approx(3 / 24)


def test_what_torch_itself_chooses_by_rounding_is_no_fault_of_a_file():
    """Torch in fp64 answers otherwise in one of forty: a file in four of them is as near, in five it is not."""
    asked = {"batches": BATCHES, "bound": 1e-4, "exact": lambda: choosing(1, sizes=(40,))}
    near = compare(choosing(), choosing(4, sizes=(40,)), (X,), (CLASS,), SAMPLES, **asked)
    assert near.differences[0].own == pytest.approx(1 / 40)
    near.check(1e-4)
    far = compare(choosing(), choosing(5, sizes=(40,)), (X,), (CLASS,), SAMPLES, **asked)
    with pytest.raises(RefusedError, match="torch's own"):
        far.check(1e-4)


def test_equal_answers_of_no_spread_may_round():
    flat = Difference("y", max_abs=2e-6, scale=0.0, largest=1.0)
    flat.check(1e-4)
    with pytest.raises(RefusedError):
        Difference("y", max_abs=1e-5, scale=0.0, largest=1.0).check(1e-4)
    Difference("y", 0.0, 0.0, 0.0).check(1e-9)
    with pytest.raises(RefusedError):
        Difference("y", math.inf, 1.0, 1.0).check(1e-4)


VALUES = Field("value", "value", (2,), mean=(1000.0, 0.0), std=(300.0, 2e-3))
DRAWN = batch_of(x=torch.randn(6, 2, generator=torch.Generator().manual_seed(1)))
PAIR = Field("x", "vector", (2,))


def in_two_units(x):
    return {"value": x * x.new_tensor(VALUES.std) + x.new_tensor(VALUES.mean)}


def moved_by(*by):
    return lambda x: {"value": in_two_units(x)["value"] + torch.tensor(by)}


def compared(file, **given):
    return compare(in_two_units, file, (PAIR,), (VALUES,), DRAWN, bound=1e-4, **given)


def test_each_number_is_judged_in_its_own_unit():
    """.01 is five standard deviations of the second number, and of the first, or of both together, nothing."""
    found = compared(moved_by(0.0, 0.01))
    assert [(each.place, each.scale >= std) for each, std in zip(found.differences, VALUES.std, strict=True)] == [
        ("value[0]", True),
        ("value[1]", True),
    ]
    assert (found.max_abs, found.worst.column) == (pytest.approx(0.01), 1)
    assert 2 < found.worst.relative <= 5.001
    assert found.worst.as_json()["column"] == 1
    with pytest.raises(RefusedError, match=r"by 0\.01 at output 'value\[1\]', 5 of its scale 0\.002"):
        found.check(1e-4)
    compared(moved_by(0.01, 0.0)).check(1e-4)
    with pytest.raises(RefusedError, match=r"at output 'value\[0\]'"):
        compared(moved_by(1.0, 0.0)).check(1e-4)


def test_answers_that_hardly_differ_are_held_to_the_unit_that_the_field_states():
    flat = compare(
        lambda x: {"value": torch.tensor(VALUES.mean).expand(len(x), 2)},
        lambda x: {"value": torch.tensor(VALUES.mean).expand(len(x), 2) + torch.tensor([0.0, 1e-7])},
        (PAIR,),
        (VALUES,),
        DRAWN,
    )
    assert [each.scale for each in flat.differences] == list(VALUES.std)
    flat.check(1e-4)


def test_torchs_own_error_in_one_unit_excuses_no_other():
    """Its fp32 rounds the first number to whole ones, as the file does not; the second is off by nobody's rounding."""

    def rounds(x):
        return {"value": torch.stack([in_two_units(x)["value"][:, 0].round(), in_two_units(x)["value"][:, 1]], 1)}

    def judged(file):
        return compare(
            rounds, file, (PAIR,), (VALUES,), DRAWN, bound=1e-4, exact=lambda: lambda x: in_two_units(x.double())
        )

    near = judged(in_two_units)
    assert 0.1 < near.differences[0].own <= 0.51
    near.check(1e-4)
    with pytest.raises(RefusedError, match=r"at output 'value\[1\]'"):
        judged(moved_by(0.0, 0.01)).check(1e-4)


@pytest.mark.parametrize("field", [Field("value", "value", (2,)), replace(VALUES, std=(300.0, 0.0)), LOGITS])
def test_an_output_of_no_known_units_is_one_scale(field):
    answers = {field.name: torch.tensor([[1.0, 2.0, 3.0, 4.0][: field.shape[0]]])}
    call = lambda x: {name: each.expand(len(x), -1) for name, each in answers.items()}  # noqa: E731
    (each,) = compare(call, call, (PAIR,), (field,), DRAWN).differences
    assert (each.place, each.column) == (field.name, None)
    assert "column" not in each.as_json()


def test_one_number_keeps_the_scale_of_the_answers():
    one = Field("value", "value", (1,), mean=(0.0,), std=(50.0,))
    (each,) = compare(lambda x: {"value": x[:, :1]}, lambda x: {"value": x[:, :1]}, (PAIR,), (one,), DRAWN).differences
    assert (each.place, each.scale < 3) == ("value", True)
