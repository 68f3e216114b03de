"""The winner among trials that validation cannot tell apart is the largest network; where it can, the best one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from kdsearch.stages.choice import chosen, standard_error
from kdsearch.store.artifacts import Artifact
from tests.stages.tiny import LESS, run_tiny


def materials(pick: str = "best", objectives: Any = None, proportion: bool = True, unit: str = "share") -> Any:
    metric = SimpleNamespace(direction="max", proportion=proportion, unit=unit)
    study = SimpleNamespace(
        config=SimpleNamespace(distill=SimpleNamespace(pick=pick)), teachers={"words": None, "main": None, "a": None}
    )
    objectives = objectives or {"accuracy": "max"}
    return SimpleNamespace(study=study, objective="accuracy", objectives=objectives, metrics={"accuracy": metric})


def prepared(n: int | None = 200, interval: Any = None, answers: bool = True, judged: int | None = None) -> Artifact:
    quality = {"value": 0.9, "n": n, "interval": interval}
    teacher = {"validation": {"accuracy": quality} if answers else {}, "judged": judged}
    other = (
        {"validation": {"accuracy": {**quality, "n": 7, "interval": [0.1, 0.2]}}} if answers else {}
    )  # first by its name
    counts = {"val": {"cat": 20, "dog": 30, "unlabeled": 400}}
    return Artifact(
        "prepare", "key", Path(), {"teachers": {"a": other, "words": {}, "main": teacher}, "data": {"counts": counts}}
    )


def refined(
    folder: Path,
    *trials: tuple[float, float | None, int],
    first: Any = (),
    curves: Any = None,
    stopped: Any = (),
    families: Any = MappingProxyType({}),
) -> Artifact:
    """(accuracy, score, params) of trials 0, 1, ...; `refine` ranks them by the objective.

    first: why each was tried. curves: share -> loss, of each. stopped: those that a rung stopped. families: of those that have one.
    """
    rows = [
        {
            "number": i,
            "objectives": {"accuracy": accuracy, "latency_ms": 1.0},
            "params": params,
            "macs": 1,
            "bytes": None,
            "latency_ms": 1.0,
            "curve": curves[i] if curves else [],
        }
        for i, (accuracy, _, params) in enumerate(trials)
    ]
    (folder / "trials.json").write_text(json.dumps(rows))
    through = [row for row in rows if row["number"] not in stopped]
    best_first = sorted(through, key=lambda row: -row["objectives"]["accuracy"])
    scores = {i: score for i, (_, score, _) in enumerate(trials)}
    about = {
        i: {"number": i, "specs": {}, "values": {}, "score": scores[i], "family": families.get(i, "")} for i in scores
    }
    ranked = [about[row["number"]] for row in best_first]
    return Artifact("refine", "key", folder, {"ranked": ranked, "first": first, "stopped": [about[i] for i in stopped]})


TRIALS = (
    (0.80, 0.9, 400),
    (0.79, -0.7, 500),
    (0.78, -0.7, 500),
    (0.70, -1.0, 900),
    (0.765, 0.1, 250),
)  # a standard error of .8 on 200 samples is .04


@pytest.mark.parametrize(
    ("pick", "objectives", "order", "level"),
    [
        ("best", None, [1, 0, 2, 4, 3], [0, 1, 2, 4]),
        ("best,params<500", None, [0, 4], [0, 4]),
        ("best", {"latency_ms": "min", "accuracy": "max"}, [0, 1, 2, 4, 3], []),
        ("max:accuracy", None, [0, 1, 2, 4, 3], []),
        ("knee", None, [0, 1, 2, 4, 3], []),
    ],
)
def test_the_largest_of_those_within_a_standard_error(pick, objectives, order, level, tmp_path):
    choice = chosen(materials(pick, objectives), prepared(), refined(tmp_path, *TRIALS))
    assert [each.trial["number"] for each in choice.ranked] == order
    assert sorted(choice.level) == level
    if level:
        assert choice.error == pytest.approx(math.sqrt(2 * 0.8 * 0.2 / 200))
    assert choice.ranked[0].figures["accuracy"] == TRIALS[order[0]][0]


@pytest.mark.parametrize(
    ("families", "order"),
    [
        ({}, [1, 0, 2, 4, 3]),
        ({0: "gru", 1: "bag", 2: "gru", 4: "bag"}, [2, 0, 1, 4, 3]),
        ({0: "gru"}, [0, 1, 2, 4, 3]),
    ],
)
def test_across_families_the_better_one_comes_first_not_the_larger(families, order, tmp_path):
    choice = chosen(materials(), prepared(), refined(tmp_path, *TRIALS, families=families))
    assert [each.trial["number"] for each in choice.ranked] == order
    assert sorted(choice.level) == [0, 1, 2, 4], "they cannot be told apart all the same"


@pytest.mark.parametrize(
    ("direction", "sign"),
    [("max", -1), ("min", 1)],
)
def test_what_a_rung_stopped_near_the_best_one_there_is_kept_in_mind(direction, sign, tmp_path):
    """At its rung: two standard errors of .5 on 200 samples are .1, of .8 they are .08."""
    came = ((0.5, 0.8), (0.45, 0.7), (0.41,), (0.39,), (0.61, 0.5), (0.49, 0.73), (0.49, 0.71))
    if direction == "min":
        came = tuple(tuple(1 - each for each in one) for one in came)
    shares = (0.34, 0.67)
    curves = [[[at, {"accuracy": sign * each}] for at, each in zip(shares, one, strict=False)] for one in came]
    curves[0].append([1.0, {"accuracy": sign * came[0][-1]}])
    curves[1][0][1] = curves[1][0][1]["accuracy"]  # as a folder of before has it
    curves[4] = [[0.5, curves[4][0][1]]]  # of another rung: not theirs
    rows = [(0.8, 0.7, 200)] * 7
    made = refined(tmp_path, *rows, curves=curves, stopped=(2, 3, 4, 5, 6))
    study = materials(objectives={"accuracy": direction})
    assert [each.trial["number"] for each in chosen(study, prepared(), made).stopped] == [4, 5, 2], "the nearest first"
    small = materials("best,params<250", {"accuracy": direction})
    rows[5] = (0.8, 0.7, 300)
    made = refined(tmp_path, *rows, curves=curves, stopped=(2, 3, 4, 5, 6))
    assert [each.trial["number"] for each in chosen(small, prepared(), made).stopped] == [4, 2], "costs are known"


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ([[], [], ["the best score"]], 2),
        ([["most params"], [], []], 1),
        ([[], [], [], [], ["least params"]], 1),
        ([], 1),
    ],
)
def test_of_one_networks_trials_one_that_was_tried_first_for_a_reason(first, expected, tmp_path):
    """Of trials 1 and 2, of one score, not the better one; one that validation can tell from the best is none of them."""
    choice = chosen(materials(), prepared(), refined(tmp_path, *TRIALS, first=first))
    assert choice.ranked[0].trial["number"] == expected


def test_near_is_what_lies_within_two_standard_errors(tmp_path):
    choice = chosen(materials(), prepared(), refined(tmp_path, *TRIALS, (0.721, 0.0, 1), (0.719, 0.0, 1)))
    assert sorted(choice.near) == [0, 1, 2, 4, 5]
    assert sorted(chosen(materials("max:accuracy"), prepared(), refined(tmp_path, *TRIALS)).near) == [0, 1, 2, 4]
    assert chosen(materials("knee"), prepared(), refined(tmp_path, *TRIALS)).near is None
    two = {"latency_ms": "min", "accuracy": "max"}
    assert chosen(materials("max:accuracy", two), prepared(), refined(tmp_path, *TRIALS)).near is None


@pytest.mark.parametrize(
    ("scores", "expected"), [((0.1, 0.2), 2), ((0.2, 0.1), 1), ((None, -9.0), 2), ((None, None), 1)]
)
def test_of_networks_of_one_size_the_best_scored(scores, expected, tmp_path):
    """Of two, behind a smaller one that did better; a score comes before none."""
    came = [(0.8, 0.9, 400), *((0.79 - i / 100, score, 500) for i, score in enumerate(scores))]
    choice = chosen(materials(), prepared(), refined(tmp_path, *came))
    assert choice.ranked[0].trial["number"] == expected


def test_of_costs_alone_the_least(tmp_path):
    rows = [{"number": i, "objectives": {"params": n}, "params": n, "macs": 1} for i, n in enumerate((3, 1, 2))]
    (tmp_path / "trials.json").write_text(json.dumps(rows))
    ranked = [{"number": i, "specs": {}, "values": {}, "score": float(i)} for i in (1, 2, 0)]
    choice = chosen(
        materials(objectives={"params": "min"}), prepared(), Artifact("r", "k", tmp_path, {"ranked": ranked})
    )
    assert ([each.trial["number"] for each in choice.ranked], choice.level) == ([1, 2, 0], [])


def test_what_validation_can_tell_is_not_level(tmp_path):
    choice = chosen(materials(), prepared(n=100_000), refined(tmp_path, *TRIALS))
    assert [each.trial["number"] for each in choice.ranked] == [0, 1, 2, 4, 3]
    assert choice.level == []


@pytest.mark.parametrize(
    ("of", "teacher", "value", "expected"),
    [
        (materials(), prepared(n=50), 0.5, 0.1),
        (materials(), prepared(n=50, interval=[0.0, 1.0]), 0.5, 0.1),
        (materials(), prepared(n=50), 1.0, math.sqrt(2 * 0.99 * 0.01 / 50)),
        (materials(), prepared(n=50), 0.0, math.sqrt(2 * 0.99 * 0.01 / 50)),
        (materials(proportion=False), prepared(interval=[0.5, 0.9]), 0.7, math.sqrt(2) * 0.2 / 1.96),
        (materials(proportion=False, unit="nats"), prepared(answers=False), -3.0, 0.015),
        (materials(), prepared(n=None), 0.7, 0.005),
        (materials(proportion=False), prepared(n=50, interval=[1.0, 1.0]), 0.5, 0.1),
        (materials(proportion=False), prepared(n=50, interval=[1.0, 1.0]), 1.0, math.sqrt(2 * 0.99 * 0.01 / 50)),
        (materials(), prepared(answers=False), 0.5, 0.1),
        (materials(proportion=False), prepared(answers=False), 0.5, 0.1),
        (materials(proportion=False, unit=""), prepared(answers=False), 0.0, 0.005),
        (materials(), prepared(n=250, judged=50), 0.5, 0.1),
        (materials(proportion=False), prepared(interval=[0.5, 0.9], judged=50), 0.7, math.sqrt(2) * 0.2 / 1.96 * 2),
    ],
)
def test_a_standard_error_by_hand(of, teacher, value, expected):
    assert standard_error(of, teacher, value) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("first", "stopped", "pick", "expected"),
    [
        ([3], (), "best", [3]),
        ([3, 4], (), "max:accuracy", [3]),
        ([1, 3], (), "best", [3]),
        ([0, 3, 5], (), "best", [3, 5]),
        ([3, 5], (3,), "best", [3, 5]),
        ([3, 5], (3, 5), "best", [3, 5]),
        ([3, 5], (3, 5), "best,params<500", [5]),
        ([3, 5, 6], (), "best", [3, 5]),
        ([], (), "best", []),
    ],
    ids=["far", "of any pick", "near", "two", "stopped", "both", "too large", "of another family", "none"],
)
def test_starts_that_are_far_behind_or_stopped_are_known(first, stopped, pick, expected, tmp_path):
    trials = (*TRIALS, (0.6, 0.1, 300), (0.6, 0.1, 300))
    why = [["why"] if i in first else [] for i in range(len(trials))]
    curves = [[[0.5, -accuracy]] for accuracy, _, _ in trials]
    made = refined(tmp_path, *trials, first=why, curves=curves, stopped=stopped, families={6: "gru"})
    assert [each.trial["number"] for each in chosen(materials(pick), prepared(), made).starts] == expected


def test_a_study_says_which_trials_it_cannot_tell_apart(tmp_path):
    """Whose trials learn next to nothing."""
    recipe = "recipe={distillers: [kd], train: {lr: 1.0e-5}}"
    sets = (
        recipe,
        "refine.trials=4",
        "refine.epochs=1",
        "search.candidates=12",
        "search.keep=12",
        "distill.finalists=1",
    )
    result = run_tiny(tmp_path, *LESS, *sets)
    artifacts = tmp_path / "study" / "artifacts"
    (facts,) = (json.loads((each / "artifact.json").read_text())["facts"] for each in artifacts.glob("distill-*"))
    (trials,) = (json.loads((each / "trials.json").read_text()) for each in artifacts.glob("refine-*"))
    own = {row["number"]: row for row in trials if row["state"] == "complete"}
    best = max(row["objectives"]["accuracy"] for row in own.values())
    level = [n for n, row in own.items() if best - row["objectives"]["accuracy"] <= facts["error"]]
    assert sorted(facts["level"]) == (level if len(level) > 1 else [])
    (ready,) = (json.loads((each / "artifact.json").read_text())["facts"] for each in artifacts.glob("prepare-*"))
    teacher = next(iter(ready["teachers"].values()))
    assert result["data"]["counts"]["val"]["unlabeled"] > 0
    assert teacher["judged"] == teacher["validation"]["accuracy"]["n"], "its classes stand in for hidden ones"
    assert own[facts["trial"]]["params"] == max(own[n]["params"] for n in level)
    notes = [note for note in result["notes"] if note.startswith("Validation cannot tell trials ")]
    assert len(notes) == (len(level) > 1)
    assert len(level) > 1, "else this study shows nothing"
