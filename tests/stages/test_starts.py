"""What `refine` tries before its controller is asked: the best by scores, the largest, the cheapest."""

from __future__ import annotations

import json

import pytest

from kdsearch.stages.report import _best_is_no_find
from kdsearch.store.artifacts import Artifact
from kdsearch.store.files import read_json
from tests.stages.tiny import LESS, run_tiny

RECIPE = (
    "recipe={distillers: [{use: kd, weight: search, options: {temperature: search}}, {use: sp, weight: search, optional: true}],"
    " train: {lr: search}}"
)
SETS = (
    *LESS[:-4],
    "refine.trials=5",
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
    run_tiny(tmp_path, *sets, "refine.first=[scored, largest, cheapest]", "search.keep=2")
    candidates, facts, trials = read(tmp_path)
    own = {row["key"]: row for row in candidates}
    wanted = {
        "the best score": max(own, key=lambda key: own[key]["score"]),
        "the most params": max(own, key=lambda key: own[key]["params"]),
        "the most macs": max(own, key=lambda key: own[key]["macs"]),
        "the least params": min(own, key=lambda key: own[key]["params"]),
    }
    assert facts["first"][0] == "the best score"
    assert set(facts["first"]) <= set(wanted)
    assert "the least params" in facts["first"]
    assert len(trials) == 5
    for trial, what in zip(trials, facts["first"], strict=False):
        assert trial["keys"] == [wanted[what]], what
        assert trial["state"] == "complete"
        is_default = what == "the best score"
        assert trial["values"]["recipe.distillers[1].used"] is is_default
        assert ("recipe.distillers[1].weight" in trial["values"]) is is_default
        assert trial["values"]["recipe.distillers[0].weight"] == 1.0
    tried = [(trial["keys"], trial["values"]) for trial in trials]
    assert all(each not in tried[:at] for at, each in enumerate(tried)), "no candidate twice"
    page = (tmp_path / "study" / "report" / "index.html").read_text(encoding="utf-8")
    assert "What was tried first: trial 0 has the best score, 1 has the " in page


def test_a_network_that_is_largest_both_ways_is_tried_once(tmp_path):
    run_tiny(tmp_path, *SETS, "refine.first=[largest]", "student.spec={depths: [1, 1, 1], widths: {choices: [4, 8]}}")
    candidates, facts, trials = read(tmp_path)
    top = max(candidates, key=lambda row: row["params"])
    assert top["macs"] == max(row["macs"] for row in candidates)
    assert facts["first"] == ["the most params"]
    assert trials[0]["keys"] == [top["key"]]


def test_nothing_first_leaves_the_choice_to_the_controller(tmp_path):
    run_tiny(tmp_path, *SETS, "refine.first=[]", "refine.controller=random", "refine.trials=2")
    _, facts, trials = read(tmp_path)
    assert (facts["first"], len(trials)) == ([], 2)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, []),
        (1, ["The best trial is number 1, the network of the most params: the search found nothing better."]),
        (2, []),
    ],
)
def test_a_winner_that_needed_no_search_is_told(number, said, tmp_path):
    facts = {"first": ["the best score", "the most params"], "ranked": [{"number": number}]}
    assert _best_is_no_find(Artifact("refine", "key", tmp_path, facts)) == said
