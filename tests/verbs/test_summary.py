"""A study's result in a few lines: what is not known is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdsearch.verbs.summary import summary_of

QUALITY = {"metric": "accuracy", "value": 0.9, "direction": "max", "unit": "share", "interval": None, "n": 100}
RESULT = {
    "student": {"quality": QUALITY, "params": 1234, "architecture": "a"},
    "data": {"recipes": []},
    "warnings": [],
    "notes": [],
    "exports": [],
    "recommended": None,
    "report": "report/index.html",
    **dict.fromkeys(("baseline", "all_labels", "pruned")),
}


@pytest.mark.parametrize(("params", "words"), [(77_754, ["77,754", "params"]), (None, [])])
def test_a_teachers_size_is_said_where_it_is_known(params: int | None, words: list[str]) -> None:
    text = summary_of({**RESULT, "teacher": {"quality": QUALITY, "params": params}}, Path("study"))
    (line,) = [each.split() for each in text.splitlines() if each.startswith("teacher")]
    assert line == ["teacher", "90.0", "%", *words]


def test_a_teacher_that_does_not_answer_the_task_has_no_quality() -> None:
    text = summary_of({**RESULT, "teacher": {"quality": None, "params": 77_754}}, Path("study"))
    (line,) = [each.split() for each in text.splitlines() if each.startswith("teacher")]
    assert line == ["teacher", "-", "77,754", "params"]


def test_a_control_that_is_the_baseline_has_no_line_of_its_own() -> None:
    row = {"quality": {**QUALITY, "value": 0.7}}
    result = {**RESULT, "teacher": None, "baseline": row}
    for twin, lines in ((row, ["no teacher", "all labels"]), ({**row, "same_as": "baseline"}, ["no teacher"])):
        text = summary_of({**result, "all_labels": twin}, Path("study"))
        assert [line[:10] for line in text.splitlines() if "70.0 %" in line] == lines
