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
