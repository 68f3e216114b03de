"""The figure of classes learnt and forgotten: one point a group and phase, the table with what each group has, also on test."""

from kdsearch.report.classes_figure import classes_figure

QUALITY = {"metric": "accuracy", "value": 0.8, "direction": "max", "unit": "share", "interval": None, "n": 100}
FIRST = {"new": 0.9, "old": None, "all": 0.9, "forgotten": None, "phases": {"a": 0.9}, "of": {"a": [0, 1]}}
SECOND = {
    "new": 0.7,
    "old": 0.5,
    "all": 0.6,
    "forgotten": 0.4,
    "phases": {"a": 0.5, "b": 0.7},
    "of": {"a": [0, 1], "b": [2]},
}
CURVE = [
    {"phase": "a", "epoch": 1, "loss": 1.0},
    {"phase": "a", "epoch": 2, "loss": 0.9, "classes": FIRST},
    {"phase": "b", "epoch": 3, "loss": 0.8, "classes": SECOND},
]


def figure(**student):
    return classes_figure({"student": {"quality": QUALITY, **student}}, {"curves": {"student": CURVE}})


def test_points_are_those_that_are_known():
    (panel,) = figure().panels
    found = {(row["phase"], row["group"]): row["y"] for row in panel["data"]["values"]}
    assert found == {("a", "new"): 0.9, ("a", "all"): 0.9, ("b", "new"): 0.7, ("b", "old"): 0.5, ("b", "all"): 0.6}


def test_the_table_has_a_row_a_phase_and_one_of_the_test():
    (table,) = figure(classes={"new": 0.75, "old": 0.25, "all": 0.5, "phases": {"a": 0.25, "b": 0.75}}).tables
    assert table.head == ["after", "new", "old", "all", "forgotten", "of a", "of b"]
    assert table.rows[1] == ["b", "70.00 %", "50.00 %", "60.00 %", "40.00 %", "50.00 %", "70.00 %"]
    name, *values = table.rows[2]
    assert "on test" in name
    assert values[:3] == ["75.00 %", "25.00 %", "50.00 %"]
    assert len(figure().tables[0].rows) == 2


def test_notes_say_which_classes_they_are():
    assert figure().notes == ["a: classes 0, 1.", "b: class 2."]
    named = {"student": {"quality": QUALITY}, "data": {"classes": ["cat", "dog"]}}
    assert classes_figure(named, {"curves": {"student": CURVE}}).notes == ["a: classes cat, dog.", "b: class 2."]


def test_a_plain_study_has_none_and_damaged_rows_harm_nothing():
    assert classes_figure({}, {}) is None
    assert classes_figure({}, {"curves": {"student": CURVE[:1]}}) is None
    strange = [{"phase": None, "classes": {"new": "much", "of": 3, "phases": []}}]
    assert classes_figure({}, {"curves": {"student": strange}}).panels == []
