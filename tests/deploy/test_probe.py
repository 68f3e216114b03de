"""What a card keeps of a file's answers: torch's own error where the questions show that the bound is finer than its rounding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdsearch.deploy.probe import differences, drawn, question, record, rows_of, sums
from kdsearch.deploy.verify import _answers, _near
from kdsearch.kinds import Field, Graph

GRAPH = Graph(nn.Identity(), (Field("x", "vector", (40,)),), (Field("y", "vector", (40,)),))


def rounded(x):
    return {"y": torch.round(x, decimals=2)}


def exactly(x):
    return {"y": x}


def run(feeds):
    return {"y": feeds["x"]}


def test_a_file_nearer_to_the_truth_than_torch_is_not_refused_later():
    """Torch rounds to .01, so a file that does not is off by up to .005 of a scale of 1, which 1e-4 would refuse."""
    kept = record(GRAPH, rounded, exactly, bound=1e-4, exact=lambda: exactly)
    own = kept["outputs"][0]["torch_fp32_to_fp64"]
    assert 0.004 < own <= 0.005 + 1e-6
    found = differences(kept, run, "torch")
    assert _near("", [replace(each, own=own) for each in found], 1e-4).ok
    assert not _near("", found, 1e-4).ok


def test_a_changed_answer_is_seen_beside_a_mask():
    """Numbers far beyond the others neither make the scale nor drown the sums."""
    away = torch.zeros(40)
    away[::5] = -1e9

    def masked(x, by=1.0):
        return {"y": by * x + away}

    kept = record(GRAPH, masked, masked, bound=1e-4)
    (output,) = kept["outputs"]
    assert 0.5 < output["scale"] < 2
    assert 2 < output["beyond"] < 1e9

    def now(by):
        return lambda feeds: {"y": masked(torch.from_numpy(feeds["x"]), by)["y"].numpy()}

    assert _near("", differences(kept, now(1.0), "file"), 1e-4).ok
    assert not _near("", differences(kept, now(1.01), "file"), 1e-4).ok
    ones = {**kept, "outputs": [{**output, "at": output["at"][:1], "torch": output["torch"][:1]}]}
    assert not _near("", differences(ones, now(1.01), "torch"), 1e-4).ok, "its sums alone show it"


def test_an_output_of_no_numbers_has_a_card_all_the_same():
    graph = Graph(nn.Identity(), (Field("x", "vector", (4,)),), (Field("y", "vector", (0,)),))
    kept = record(graph, lambda x: {"y": x[:, :0]}, lambda x: {"y": x[:, :0]}, bound=1e-4)
    assert kept["outputs"][0]["scale"] == 0.0
    assert _near("", differences(kept, lambda feeds: {"y": feeds["x"][:, :0]}, "file"), 1e-4).ok


@pytest.mark.parametrize("far", [exactly, rounded])
def test_what_is_near_needs_no_second_pass(far):
    def never():
        raise AssertionError("not needed")

    kept = record(GRAPH, far, far, bound=1e-4, exact=never)
    assert "torch_fp32_to_fp64" not in kept["outputs"][0]


@pytest.mark.parametrize(("share", "moved", "holds"), [(0.5, 0.5, True), (0.5, 0.6, False), (0, 0.1, True)])
def test_how_far_company_moves_answers_is_held_against_what_it_did(share, moved, holds):
    """As of a file that takes its ranges over all samples of a call: here the mean of all samples goes off every answer."""

    def off(x, by):
        return x - by * x.mean(0, keepdim=True) if len(x) > 1 else x

    kept = record(GRAPH, exactly, lambda x: {"y": off(x, share)})
    x = torch.from_numpy(drawn(kept["inputs"])["x"])
    assert kept.get("company", 0) == pytest.approx(share * float(x.mean(0).abs().max() / x.std(correction=0)))
    check = {
        each.check: each
        for each in _answers(
            lambda feeds: {"y": off(torch.from_numpy(feeds["x"]), moved).numpy()},
            {"export": "onnx-int8", "bounds": {"elsewhere": 0.05}},
            kept,
        )
    }["one sample at a time"]
    assert check.ok is holds


CLASSES = Graph(nn.Identity(), (Field("x", "vector", (4,)),), (Field("y", "class", (), "int64"),))


def chosen(x):
    return {"y": x.argmax(1)}


@pytest.mark.parametrize(("wrong", "bound", "holds"), [(0, 1e-4, True), (2, 0.05, True), (3, 0.05, False)])
def test_classes_are_held_to_the_share_of_equal_ones(wrong, bound, holds):
    """48 answers are kept; however far apart the numbers of two classes are, an answer is equal or not."""
    kept = record(CLASSES, chosen, chosen)
    (output,) = kept["outputs"]
    assert kept["inputs"][0]["shape"] == [48, 4]
    assert (output["is_class"], output["scale"], len(output["file"])) == (True, 1.0, 48)

    def run(feeds):
        answers = feeds["x"].argmax(1)
        answers[:wrong] = (answers[:wrong] + 1) % 4
        return {"y": answers}

    found = differences(kept, run, "file")
    assert found[0].max_abs == wrong / 48
    assert _near("", found, bound).ok == holds


TOKENS = Field("t", "tokens", (None,), "int64", n_values=505, open_size=10)


def test_a_changed_weight_of_any_token_is_found():
    """Also at the end of an answer of which few numbers are kept one by one."""
    torch.manual_seed(0)
    net = nn.Embedding(505, 40)
    graph = Graph(net, (TOKENS,), (Field("y", "sequence", (None, 40)),))

    def call(t):
        return {"y": net(t)}

    kept = record(graph, call, call)
    assert kept["inputs"][0]["shape"] == [51, 10]
    assert {*drawn(kept["inputs"])["t"].flat} == {*range(505)}

    def run(feeds):
        with torch.no_grad():
            return {"y": net(torch.from_numpy(feeds["t"])).numpy()}

    assert differences(kept, run, "file")[0].max_abs < 1e-6
    for token in range(0, 505, 7):
        was = net.weight.data[token, token % 40].item()
        net.weight.data[token, token % 40] = -2 * was or 1.0
        assert not _near("", differences(kept, run, "file"), 1e-4).ok, token
        net.weight.data[token, token % 40] = was


def test_a_sum_is_of_every_number_with_a_drawn_sign():
    signs = [2 * sign - 1 for sign in np.random.RandomState(3).randint(0, 2, 6)]
    x = np.arange(12.0).reshape(2, 2, 3)
    expected = [sum(a * b for a, b in zip(signs, row.ravel(), strict=True)) / 6**0.5 for row in x]
    assert sums(x, 3).tolist() == pytest.approx(expected, abs=1e-12)


def test_each_category_is_asked_in_each_column():
    """A field tells how many ids there are in all columns, not which are whose."""
    field, answer = Field("c", "categories", (3,), "int64", n_values=20), Field("y", "logits", (2,))
    found = drawn(question((field,), rows_of((field,), (answer,))))["c"]
    assert found.shape == (20, 3)
    assert all({*column} == {*range(20)} for column in found.T)


def test_questions_are_no_more_than_a_file_answers_at_once():
    many = replace(TOKENS, n_values=50_000)
    assert rows_of((many,), (Field("y", "vector", (8,)),)) == 256
    assert rows_of((many,), (Field("y", "logits", (None, 50_000), open_size=8),)) == 10, "4,000,000 / 400,000"
    assert rows_of((many,), (Field("y", "logits", (None, 50_000), open_size=80),)) == 3
    assert rows_of((Field("x", "vector", (4,)),), (Field("y", "vector", (8,)),)) == 3


def test_a_map_of_classes_has_answers_enough_in_fewer_samples():
    graph = replace(CLASSES, inputs=(Field("x", "map", (4, 5, 3)),), outputs=(Field("y", "class", (5, 3), "int64"),))
    kept = record(graph, chosen, chosen)
    assert (kept["outputs"][0]["shape"], len(kept["outputs"][0]["at"])) == ([4, 5, 3], 48)


def test_what_torch_chooses_by_rounding_is_no_fault_of_a_file():
    """Fp64 chooses otherwise at three of 48 questions: a file that does so at nine is as near."""

    def moved(by):
        def call(x):
            answers = x.argmax(1)
            answers[:by] = (answers[:by] + 1) % 4
            return {"y": answers}

        return call

    kept = record(CLASSES, moved(9), chosen, bound=1e-4, exact=lambda: moved(6))
    assert kept["outputs"][0]["torch_fp32_to_fp64"] == pytest.approx(3 / 48)


def test_a_network_without_fp64_says_nothing():
    def no_such_form():
        raise RuntimeError("only float")

    kept = record(GRAPH, rounded, exactly, bound=1e-4, exact=no_such_form)
    assert kept["outputs"][0]["torch_fp32_to_fp64"] is None


UNITS = Field("y", "value", (2,), mean=(1000.0, 0.0), std=(300.0, 2e-3))
PAIR = Graph(nn.Identity(), (Field("x", "vector", (2,)),), (UNITS,))


def in_two_units(x):
    return {"y": x * x.new_tensor(UNITS.std) + x.new_tensor(UNITS.mean)}


def now(call):
    return lambda feeds: {"y": call(torch.from_numpy(feeds["x"]))["y"].numpy()}


def moved_by(*by):
    return now(lambda x: {"y": in_two_units(x)["y"] + torch.tensor(by)})


@pytest.mark.parametrize("against", ["torch", "file"])
def test_each_number_of_a_file_is_verified_in_its_own_unit(against):
    kept = record(PAIR, in_two_units, in_two_units, bound=1e-4)
    (output,) = kept["outputs"]
    assert (output["at"], len(output["columns"]), "sums" in output) == ([*range(6)], 2, False)
    assert [each["scale"] >= std for each, std in zip(output["columns"], UNITS.std, strict=True)] == [True, True]
    assert _near("", differences(kept, now(in_two_units), against), 1e-4).ok
    assert _near("", differences(kept, moved_by(0.01, 0.0), against), 1e-4).ok
    check = _near("", differences(kept, moved_by(0.0, 0.01), against), 1e-4)
    assert (check.ok, check.said[:22]) == (False, "y[1] differs by 0.01, ")
    assert not _near("", differences(kept, moved_by(1.0, 0.0), against), 1e-4).ok
    assert [each.ok for each in _answers(now(in_two_units), {"bounds": {"parity": 1e-4}}, kept)] == [True] * 3


def test_a_card_of_one_scale_for_all_numbers_is_verified_as_it_was():
    kept = record(replace(PAIR, outputs=(Field("y", "value", (2,)),)), in_two_units, in_two_units, bound=1e-4)
    (output,) = kept["outputs"]
    assert "columns" not in output
    assert "sums" in output
    assert [each.ok for each in _answers(now(in_two_units), {"bounds": {"parity": 1e-4}}, kept)] == [True] * 3
    assert _near("", differences(kept, moved_by(0.0, 0.01), "file"), 1e-4).ok
    assert not _near("", differences(kept, moved_by(1.0, 0.0), "file"), 1e-4).ok


def test_torchs_own_error_is_kept_of_the_number_that_it_is_of():
    def rounds(x):
        found = in_two_units(x)["y"]
        return {"y": torch.stack([found[:, 0].round(), found[:, 1]], 1)}

    kept = record(PAIR, rounds, in_two_units, bound=1e-4, exact=lambda: in_two_units)
    first, second = kept["outputs"][0]["columns"]
    assert 0.01 < first["torch_fp32_to_fp64"] <= 0.51
    assert "torch_fp32_to_fp64" not in second
    card = {"bounds": {"parity": 1e-4}}
    assert [each.ok for each in _answers(now(in_two_units), card, kept)] == [True] * 3
    assert [each.ok for each in _answers(moved_by(0.0, 0.01), card, kept)] == [False, False, True]
    stated = {**card, "parity": {"output": "y", "column": 0, "torch_fp32_to_fp64": 1.0}}
    assert [each.ok for each in _answers(moved_by(2.0, 0.0), stated, kept)][1] is True
    assert [each.ok for each in _answers(moved_by(0.0, 0.01), stated, kept)][1] is False


def test_a_number_that_is_not_kept_is_in_the_sums_of_its_sample():
    """256 samples of which 24 are kept one by one: what one of the others is answered in the smaller unit is seen all the same."""
    ids = Field("t", "tokens", (1,), "int64", n_values=256)
    net = nn.Embedding(256, 2)
    graph = Graph(net, (ids,), (UNITS,))

    def call(t):
        return in_two_units(net(t[:, 0]).detach())

    kept = record(graph, call, call)
    asked = drawn(kept["inputs"])["t"][:, 0]
    (output,) = kept["outputs"]
    assert (len(output["at"]), len(output["unit_sums"]["file"])) == (48, 256)
    lost = next(i for i in range(256) if 2 * i not in output["at"])
    net.weight.data[int(asked[lost]), 1] += 5

    def run(feeds):
        return {"y": call(torch.from_numpy(feeds["t"]))["y"].numpy()}

    assert not _near("", differences(kept, run, "file"), 1e-4).ok
