"""What the page's figures are given: candidates of each role, and one row a network that was tried."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdsearch.builtin.metrics import Accuracy
from kdsearch.kinds import NoOptions
from kdsearch.stages.evidence import _candidates, _finals, _ladder
from kdsearch.store.files import append_line
from kdsearch.store.hashing import canonical

SPACE = SimpleNamespace(parse=dict, read=dict)


def searched(folder: Path, scores: dict[str, dict[int, float]], short: dict[str, list[int]]) -> dict[str, Any]:
    """The artifacts of a search in which each role's networks of these widths were scored, and some put on the short list."""
    kept = {role: [{"key": f"w{width}", "short": True} for width in widths] for role, widths in short.items()}
    for role, own in scores.items():
        for width, score in own.items():
            known = {"key": f"w{width}", "spec": {"width": width}, "params": 10 * width, "macs": 90 * width}
            row = {**known, "scores": {"relation": -score}, "score": score}
            append_line(folder / f"candidates-{role}.jsonl", row)
    search = SimpleNamespace(path=folder, facts={"roles": {role: {"kept": each} for role, each in kept.items()}})
    return {"search": search, "refine": SimpleNamespace(facts={})}


def materials_of(*roles: str, proxy: Any = "auto", ships: tuple[str, ...] = ()) -> Any:
    config = SimpleNamespace(search=SimpleNamespace(proxy=proxy))
    study = SimpleNamespace(config=config)
    metrics = {"accuracy": Accuracy(NoOptions())}
    spaces = dict.fromkeys(roles, SPACE)
    return SimpleNamespace(spaces=spaces, ships=ships or roles, study=study, objective="accuracy", metrics=metrics)


def trial(state: str, accuracy: float, **widths: int) -> dict[str, Any]:
    """Of a network a role, as the refinement leaves it."""
    specs = {role: {"width": width} for role, width in widths.items()}
    return {
        "keys": [f"w{width}" for width in widths.values()],
        "architecture": canonical(specs if len(specs) > 1 else next(iter(specs.values()))),
        "state": state,
        "objectives": {"accuracy": accuracy} if state == "complete" else {},
        "params": 10 * sum(widths.values()),
        "macs": 90 * sum(widths.values()),
    }


def test_a_network_that_one_role_tried_is_not_marked_in_the_others(tmp_path):
    """Both roles have one space: the networks are called the same."""
    inputs = searched(tmp_path, {"left": {4: 0.1, 6: 0.2}, "right": {4: 0.3, 6: 0.4}}, {"left": [], "right": []})
    found = _candidates(materials_of("left", "right"), inputs, [trial("pruned", 0.5, left=4, right=6)])
    marks = [(each["role"], each["key"], each["kept"]) for each in found]
    assert marks == [("left", "w4", True), ("left", "w6", False), ("right", "w4", False), ("right", "w6", True)]


@pytest.mark.parametrize(("short", "kept"), [([], [False, True]), ([4], [True, True])])
def test_candidates_of_one_student_say_no_role(tmp_path, short, kept):
    inputs = searched(tmp_path, {"student": {4: 0.1, 6: 0.2}}, {"student": short})
    found = _candidates(materials_of("student"), inputs, [trial("pruned", 0.5, student=6)])
    assert [each["kept"] for each in found] == kept
    assert not any("role" in each for each in found)
    assert [each["architecture"] for each in found] == ['{"width":4}', '{"width":6}']


@pytest.mark.parametrize(
    ("proxy", "name"), [("auto", "auto"), (["relation", "params"], "relation + params"), ("relation", "relation")]
)
def test_a_network_that_was_tried_has_the_score_that_chose_it_and_each_proxys(tmp_path, proxy, name):
    """One proxy alone is that score, and there once."""
    inputs = searched(tmp_path, {"student": {4: 0.1, 6: 0.2}}, {"student": []})
    materials, trials = (
        materials_of("student", proxy=proxy),
        [trial("complete", 0.5, student=6), trial("failed", 0, student=4)],
    )
    (row,) = _finals(materials, trials, _candidates(materials, inputs, trials))
    own = {"relation": -0.2}
    assert row["scores"] == ({name: 0.2, **own} if name != "relation" else own)
    assert (row["params"], row["macs"], row["quality"]["value"]) == (60, 540, 0.5)


def test_scores_of_several_students_are_summed_over_those_that_ship(tmp_path):
    scores = {"left": {4: 0.1}, "right": {4: 0.25, 6: 0.5}, "helper": {4: 8.0}}
    inputs = searched(tmp_path, scores, {role: [] for role in scores})
    materials = materials_of(*scores, ships=("left", "right"))
    trials = [trial("complete", 0.5, left=4, right=right, helper=4) for right in (4, 6, 8)]
    rows = _finals(materials, trials, _candidates(materials, inputs, trials))
    assert [row["scores"].get("auto") for row in rows] == [pytest.approx(0.35), pytest.approx(0.6), None]


def test_a_control_that_is_the_baseline_has_no_rung_of_its_own() -> None:
    """Where no label is hidden: it was trained once, and measured once."""

    def measured(value: float) -> dict[str, Any]:
        return {"quality": {"metric": "accuracy", "value": value}, "params": 7, "macs": 9, "epochs": 3}

    result = {"teacher": None, "pruned": None, "exports": [], "student": measured(0.9), "baseline": measured(0.8)}
    result |= {"no_search": measured(0.7), "all_labels": measured(0.85)}
    names = ["student", "without a teacher", "with every label", "no search"]
    assert [row["name"] for row in _ladder(result)] == names
    result["all_labels"] = {**measured(0.8), "same_as": "baseline"}
    assert [row["name"] for row in _ladder(result)] == [name for name in names if name != "with every label"]
