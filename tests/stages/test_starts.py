"""What `refine` tries beside its controller's trials: the best by scores, the largest, the cheapest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdsearch.kinds import Trial
from kdsearch.stages.starts import best_first, starts_of
from kdsearch.stages.trial_facts import architecture_dims, offered, specs_of
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json
from tests.stages.tiny import LESS, run_tiny, run_up_to

RECIPE = (
    "recipe={distillers: [{use: kd, weight: search, options: {temperature: search}}, {use: sp, weight: search, optional: true}],"
    " train: {lr: search}}"
)
SETS = (
    *LESS[:-4],
    "refine.trials=10",
    "refine.epochs=1",
    "distill.epochs=1",
    "refine.stopper={use: none}",
    "search.candidates=8",
    "search.proxy=params",
    RECIPE,
)


def read(folder):
    """The search's candidates, the facts of refine, its trials."""
    artifacts = folder / "study" / "artifacts"
    (lines,), (refined,) = artifacts.glob("search-*/candidates-student.jsonl"), artifacts.glob("refine-*")
    candidates = [json.loads(line) for line in lines.read_text().splitlines()]
    return candidates, read_json(refined / "artifact.json")["facts"], read_json(refined / "trials.json")


@pytest.mark.parametrize("controller", ["surrogate", "random", "{use: optuna, options: {sampler: tpe}}", "evolution"])
def test_the_largest_and_the_cheapest_are_tried_with_the_plain_recipe(controller, tmp_path):
    """By a score that likes the middle, so that all of them are different networks."""
    sets = (*SETS, "objectives={accuracy: max, params: min}", "search.proxy=nwot", f"refine.controller={controller}")
    run_tiny(tmp_path, *sets, "search.keep=2")
    candidates, facts, trials = read(tmp_path)
    own = {row["key"]: row for row in candidates}
    wanted = {
        "the best score": max(own, key=lambda key: own[key]["score"]),
        "the most params": max(own, key=lambda key: own[key]["params"]),
        "the most macs": max(own, key=lambda key: own[key]["macs"]),
        "the least params": min(own, key=lambda key: own[key]["params"]),
    }
    begun = [(trial, whats) for trial, whats in zip(trials, facts["first"], strict=True) if whats]
    assert [trial["number"] for trial, _ in begun] == [0, 3, 6, 9][: len(begun)], "one of three"
    named = [what for _, whats in begun for what in whats]
    assert named[0] == "the best score"
    assert sorted(named) == sorted(wanted), "each once, of one network together"
    assert len(trials) == 10
    at = {what: place for place, (_, whats) in enumerate(begun) for what in whats}
    assert at["the most params"] < at["the least params"]
    assert at["the least params"] < at["the most macs"] or at["the most params"] == at["the most macs"]
    for trial, whats in begun:
        assert {tuple(trial["keys"])} == {(wanted[what],) for what in whats}
        assert trial["state"] == "complete"
        is_default = whats == ["the best score"]
        assert trial["values"]["recipe.distillers[1].used"] is is_default
        assert ("recipe.distillers[1].weight" in trial["values"]) is is_default
        assert trial["values"]["recipe.distillers[0].weight"] == 1.0
    tried = [(trial["keys"], trial["values"]) for trial in trials]
    assert all(each not in tried[:at] for at, each in enumerate(tried)), "no candidate twice"
    page = (tmp_path / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert "What was tried first: trial 0 has the best score, 3 has the " in page


def test_a_network_that_is_largest_both_ways_is_tried_once(tmp_path):
    widths = "student.spec={depths: [1, 1, 1], widths: {choices: [4, 8]}}"
    run_up_to(tmp_path, "refine", *SETS, "refine.first=[largest]", "refine.trials=4", widths)
    candidates, facts, trials = read(tmp_path)
    top = max(candidates, key=lambda row: row["params"])
    assert top["macs"] == max(row["macs"] for row in candidates)
    assert facts["first"][0] == ["the most params", "the most macs"]
    assert not any(facts["first"][1:])
    assert trials[0]["keys"] == [top["key"]]


def test_nothing_first_leaves_the_choice_to_the_controller(tmp_path):
    run_up_to(tmp_path, "refine", *SETS, "refine.first=[]", "refine.controller=random", "refine.trials=2")
    _, facts, trials = read(tmp_path)
    assert (facts["first"], len(trials)) == ([[], []], 2)


@pytest.mark.parametrize(
    ("pick", "first", "trials"), [("max:params", "[largest]", 1), ("min:params", "[scored, largest]", 4)]
)
def test_a_student_that_needed_no_search_is_told(pick, first, trials, tmp_path):
    """Of the trial that ships, whichever `distill.pick` takes."""
    sets = (
        *SETS,
        f"refine.first={first}",
        "search.proxy=nwot",
        f"distill.pick={pick}",
        f"refine.trials={trials}",
        "refine.controller=random",
    )
    result = run_tiny(tmp_path, *sets)
    _, facts, trials = read(tmp_path)
    way = max if pick == "max:params" else min
    (shipped,) = [each for each in trials if each["params"] == way(row["params"] for row in trials)][:1]
    assert result["student"]["params"] == shipped["params"]
    named = facts["first"][shipped["number"]]
    said = [note for note in result["notes"] if "the search chose nothing else" in note]
    assert bool(said) == any(what != "the best score" for what in named)
    if pick == "max:params":
        assert said
        assert f"The student is that of trial {shipped['number']}, the network of the most params" in said[0]


def test_of_one_network_nobody_says_that_nothing_was_found(tmp_path):
    one = "student.spec={depths: [1, 1, 1], widths: [4, 4, 8]}"
    result = run_tiny(tmp_path, *SETS, one, "refine.first=[largest]", "refine.trials=1")
    _, facts, _ = read(tmp_path)
    assert "the most params" in facts["first"][0]
    assert not [note for note in result["notes"] if "the search found nothing" in note]


def test_the_cheapest_of_what_costs_nothing_is_nothing(tmp_path):
    run_up_to(tmp_path, "refine", *SETS, "refine.first=[cheapest]", "refine.trials=1")
    _, facts, _ = read(tmp_path)
    assert facts["first"] == [[]]


def test_the_best_of_each_other_family_is_tried_with_the_recipe_of_the_best(tmp_path):
    """Of a space of texts, whose families are bag, bilstm and transformer; the largest comes between them."""
    sets = (
        "data={use: docstrings, options: {max_length: 16, vocabulary: 200}, labeled: 0.2, train_samples: 120}",
        "teacher.options={space: text_encoder, spec: {kind: bag, width: 32, embedding: 32}, epochs: 1}",
        "student.space=text_encoder",
        "student.spec={layers: 1, width: {choices: [16, 32]}, heads: 2, ffn: 1, embedding: 16, pooling: mean}",
        "constraints={}",
        "search.candidates=6",
    )
    run_up_to(tmp_path, "refine", *SETS, *sets)
    candidates, facts, trials = read(tmp_path)
    own = {row["key"]: row for row in candidates}
    begun = [(trial, whats) for trial, whats in zip(trials, facts["first"], strict=True) if whats]
    top = max(own.values(), key=lambda row: row["score"])
    kinds = {row["spec"]["kind"] for row in candidates} - {top["spec"]["kind"]}
    assert len(kinds) == 2
    of = {what: trial for trial, whats in begun for what in whats}
    for kind in kinds:
        best = max((row for row in candidates if row["spec"]["kind"] == kind), key=lambda row: row["score"])
        trial = of[f"the best score of {kind}"]
        assert trial["keys"] == [best["key"]]
        assert trial["values"] == of["the best score"]["values"]
    assert [trial["number"] for trial, _ in begun[:3]] == [0, 1, 2], "they do not wait for their turn"
    assert own[trials[1]["keys"][0]]["score"] > own[trials[2]["keys"][0]]["score"]
    assert [trial["number"] for trial, _ in begun[3:]] == [3, 6][: len(begun) - 3], "as the largest do"


def test_other_families_are_tried_the_best_scored_first():
    """Of which one in three trials has room for a few: a file has sorted them by their names."""
    rows = {"a": {"score": 1.0}, "b": {"score": None}, "c": {"score": 2.0}, "d": {"score": 1.0}, "e": {"score": -3.0}}
    assert [name for name, _ in best_first(rows)] == ["c", "a", "d", "e", "b"]


class Roles:
    """Two students that ship, and one that does not."""

    ships = ("a", "b")

    def __init__(self, limit):
        limits = SimpleNamespace(params=limit, macs=None, onnx_bytes=None, latency_ms=None, peak_bytes=None)
        refine = SimpleNamespace(first=("scored", "largest"), weightings=False)
        config = SimpleNamespace(refine=refine, constraints=limits, compress=SimpleNamespace(quantize=()))
        self.study = SimpleNamespace(config=config, path_of_student=lambda role: f"students.{role}")
        self.objectives = {"accuracy": "max"}
        self.recipe = SimpleNamespace(default=lambda: {"x": 1}, plain=lambda: {"x": 0})


@pytest.mark.parametrize(
    ("limit", "first"), [(13, [("the best score",), ("the most params",)]), (12, [("the best score",)])]
)
def test_several_students_keep_limits_together(limit, first):
    """Each alone would; and a helper that does not ship stays the best-scored one."""

    def row(key, params):
        costs = {"params": params, "macs": 1}
        return {"key": key, "spec": {}, "score": 1.0, "scores": {}, "short": True, "costs": costs}

    facts = {
        role: {"kept": [row("s", 2)], "largest": {"params": row("l", n)}} for role, n in (("a", 7), ("b", 6), ("c", 99))
    }
    searched = Artifact("search", "key", Path(), {"roles": facts})
    kept = offered(searched, SimpleNamespace(reads_facts=True), Roles.ships, ("scored", "largest"))
    assert {role: list(by_key) for role, by_key in kept.items()} == {"a": ["s", "l"], "b": ["s", "l"], "c": ["s"]}
    starts = starts_of(Roles(limit), searched, kept, {}, Path())
    assert [each.what for each in starts] == first
    if len(starts) > 1:
        largest = {f"students.{role}.architecture": "l" for role in "ab"}
        assert starts[1].values == {"x": 0, **largest, "students.c.architecture": "s"}


def test_of_a_cost_among_the_objectives_the_first_networks_differ(tmp_path):
    """The controller's trials 1 and 2 are asked for before anything is known; of accuracy alone they are the best-scored one."""
    few = ("refine.trials=3", "search.keep=8", "search.candidates=16", "search.proxy=nwot")
    for objectives, n in (("objectives={accuracy: max, params: min}", 3), ("objectives={accuracy: max}", 1)):
        run_up_to(tmp_path / str(n), "refine", *SETS, *few, objectives)
        _, _, trials = read(tmp_path / str(n))
        assert len({tuple(trial["keys"]) for trial in trials}) == n


def test_what_is_known_of_each_objective_of_networks_that_ship_and_of_helpers():
    known = SimpleNamespace(
        objectives={"accuracy": "max", "params": "min", "macs": "min"},
        cost_objectives=("params", "macs"),
        ships=("a", "b"),
        study=SimpleNamespace(path_of_student=lambda role: role),
    )
    rows = {"x": {"score": 1.0, "scores": {}, "costs": {"params": 5, "macs": 7, "bytes": 9}}}
    dims = architecture_dims(known, {"a": rows, "b": rows, "helper": rows})
    costs = [[None if math.isnan(each) else each for each in dim.range.costs[0]] for dim in dims]
    assert costs == [[None, 5, 7], [None, 5, 7], [None, 0, 0]]
    for objectives, costs in (
        ({"accuracy": "max"}, ()),
        ({"params": "min"}, ("params",)),
        ({"accuracy": "max", "f1": "max"}, ()),
    ):
        known.objectives, known.cost_objectives = objectives, costs
        assert not any(dim.range.costs for dim in architecture_dims(known, {"a": rows}))


def test_a_role_may_have_a_dot_in_its_name():
    kept = {"net.small": {"a": {"spec": 1}, "b": {"spec": 2}}, "net": {"a": {"spec": 3}}}
    values = {"students.net.small.architecture": "b", "students.net.architecture": "a", "recipe.lr": 0.1}
    assert specs_of(Trial(0, values), kept) == {"net.small": 2, "net": 3}
    assert specs_of(Trial(0, {"student.architecture": "a"}), {"student": kept["net"]}) == {"student": 3}
