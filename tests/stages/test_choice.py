"""The winner among trials that validation cannot tell apart is the largest network; where it can, the best one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdsearch.stages.choice import chosen, standard_error
from kdsearch.store.artifacts import Artifact
from tests.stages.tiny import LESS, run_tiny


def materials(pick: str = "largest", objectives: Any = None, proportion: bool = True, unit: str = "share") -> Any:
    metric = SimpleNamespace(direction="max", proportion=proportion, unit=unit)
    study = SimpleNamespace(config=SimpleNamespace(distill=SimpleNamespace(pick=pick)))
    objectives = objectives or {"accuracy": "max"}
    return SimpleNamespace(study=study, objective="accuracy", objectives=objectives, metrics={"accuracy": metric})


def prepared(n: int | None = 200, interval: Any = None, answers: bool = True, judged: int | None = None) -> Artifact:
    quality = {"value": 0.9, "n": n, "interval": interval}
    teacher = {"validation": {"accuracy": quality} if answers else {}, "judged": judged}
    return Artifact("prepare", "key", Path(), {"teachers": {"words": {}, "main": teacher}})


def refined(folder: Path, *trials: tuple[float, int]) -> Artifact:
    """(accuracy, params) of trials 0, 1, ...; `refine` ranks them by the objective."""
    rows = [
        {
            "number": i,
            "objectives": {"accuracy": accuracy, "latency_ms": 1.0},
            "params": params,
            "macs": 1,
            "bytes": None,
            "latency_ms": 1.0,
        }
        for i, (accuracy, params) in enumerate(trials)
    ]
    (folder / "trials.json").write_text(json.dumps(rows))
    best_first = sorted(rows, key=lambda row: -row["objectives"]["accuracy"])
    ranked = [{"number": row["number"], "specs": {}, "values": {}} for row in best_first]
    return Artifact("refine", "key", folder, {"ranked": ranked})


TRIALS = (
    (0.80, 100),
    (0.79, 300),
    (0.78, 300),
    (0.70, 900),
    (0.765, 200),
)  # a standard error of .8 on 200 samples is .04


@pytest.mark.parametrize(
    ("pick", "objectives", "order", "level"),
    [
        ("largest", None, [1, 0, 2, 4, 3], [0, 1, 2, 4]),
        ("largest,params<300", None, [4, 0], [0, 4]),
        ("largest", {"latency_ms": "min", "accuracy": "max"}, [1, 0, 2, 4, 3], [0, 1, 2, 4]),
        ("best", None, [0, 1, 2, 4, 3], []),
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


def test_what_validation_can_tell_is_not_level(tmp_path):
    choice = chosen(materials(), prepared(n=100_000), refined(tmp_path, *TRIALS))
    assert [each.trial["number"] for each in choice.ranked] == [0, 1, 2, 4, 3]
    assert choice.level == []


@pytest.mark.parametrize(
    ("of", "teacher", "value", "expected"),
    [
        (materials(), prepared(n=50), 0.5, 0.1),
        (materials(), prepared(n=50, interval=[0.0, 1.0]), 0.5, 0.1),
        (materials(proportion=False), prepared(interval=[0.5, 0.9]), 0.7, math.sqrt(2) * 0.2 / 1.96),
        (materials(proportion=False, unit="nats"), prepared(answers=False), -3.0, 0.015),
        (materials(), prepared(n=None), 0.7, 0.005),
        (materials(), prepared(n=250, judged=50), 0.5, 0.1),
        (materials(proportion=False), prepared(interval=[0.5, 0.9], judged=50), 0.7, math.sqrt(2) * 0.2 / 1.96 * 2),
    ],
)
def test_a_standard_error_by_hand(of, teacher, value, expected):
    assert standard_error(of, teacher, value) == pytest.approx(expected, rel=1e-4)


def test_a_study_says_which_trials_it_cannot_tell_apart(tmp_path):
    """Whose trials learn next to nothing."""
    recipe = "recipe={distillers: [kd], train: {lr: 1.0e-5}}"
    sets = (
        recipe,
        "distill.pick=largest",
        "refine.trials=4",
        "refine.epochs=1",
        "search.candidates=12",
        "search.keep=12",
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
