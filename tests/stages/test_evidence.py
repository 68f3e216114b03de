"""What the page's figures are given: candidates of each role, and one row a network that was tried."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdsearch.stages.evidence import _candidates
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


def materials_of(*roles: str, **changes: Any) -> Any:
    return SimpleNamespace(spaces=dict.fromkeys(roles, SPACE), ships=roles, **changes)


def test_a_network_that_one_role_tried_is_not_marked_in_the_others(tmp_path):
    """Both roles have one space: the networks are called the same."""
    inputs = searched(tmp_path, {"left": {4: 0.1, 6: 0.2}, "right": {4: 0.3, 6: 0.4}}, {"left": [], "right": []})
    trial = {"keys": ["w4", "w6"], "architecture": canonical({"left": {"width": 4}, "right": {"width": 6}})}
    found = _candidates(materials_of("left", "right"), inputs, [trial])
    marks = [(each["role"], each["key"], each["kept"]) for each in found]
    assert marks == [("left", "w4", True), ("left", "w6", False), ("right", "w4", False), ("right", "w6", True)]


@pytest.mark.parametrize(("short", "kept"), [([], [False, True]), ([4], [True, True])])
def test_candidates_of_one_student_say_no_role(tmp_path, short, kept):
    inputs = searched(tmp_path, {"student": {4: 0.1, 6: 0.2}}, {"student": short})
    trial = {"keys": ["w6"], "architecture": canonical({"width": 6})}
    found = _candidates(materials_of("student"), inputs, [trial])
    assert [each["kept"] for each in found] == kept
    assert not any("role" in each for each in found)
    assert [each["architecture"] for each in found] == ['{"width":4}', '{"width":6}']
