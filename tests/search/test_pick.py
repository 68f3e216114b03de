"""`distill.pick`: which trial wins, on fronts worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.errors import RefusedError, StudyError
from kdsearch.search.pareto import fronts
from kdsearch.search.pick import Condition, Pick, ordered, parsed

OBJECTIVES = {"latency_ms": "min", "accuracy": "max"}
TRIALS = [
    {"latency_ms": 1.0, "accuracy": 0.50, "params": 10.0},  # an end of the front
    {"latency_ms": 2.0, "accuracy": 0.85, "params": 30.0},  # its knee
    {"latency_ms": 5.0, "accuracy": 0.90, "params": 20.0},  # its other end
    {"latency_ms": 5.0, "accuracy": 0.80, "params": 5.0},  # behind the knee
    {"latency_ms": 6.0, "accuracy": 0.82, "params": 5.0},  # behind the knee too
]


def order(text, trials=TRIALS):
    return ordered(parsed(text), trials, OBJECTIVES, "accuracy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("best", [2, 1, 0, 4, 3]),
        ("knee", [1, 2, 0, 4, 3]),  # .25 + .125 against 1 + 0 and 0 + 1
        ("min:latency_ms", [0, 1, 2, 3, 4]),  # of equal latencies the more accurate
        ("min:latency_ms,accuracy>=0.8", [1, 2, 3, 4]),
        ("min:latency_ms, accuracy > 80 %", [1, 2, 4]),
        ("max:accuracy,params<20", [4, 3, 0]),
        ("min:params", [4, 3, 0, 2, 1]),
        ("knee,latency_ms<=2", [1, 0]),
        ("knee,latency_ms<=2,accuracy>=0.8", [1]),  # both
    ],
)
def test_by_hand(text, expected):
    assert order(text) == expected


def test_what_none_meets_is_refused_with_what_is_reached():
    with pytest.raises(RefusedError) as caught:
        order("knee,accuracy>=0.95,params<5")
    assert (
        caught.value.problem == "none of 5 trials has accuracy>=0.95, params<5; accuracy reaches 0.9; params reaches 5"
    )
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("best,accuracy>=0.9", 0.89996, "accuracy>=0.9; accuracy reaches 0.89996"),
        ("best,accuracy>=91.3%", 0.5, "accuracy>=0.913; accuracy reaches 0.5"),
        ("best,params<1234567", 1_234_890, "params<1234567; params reaches 1234890"),
        ("best,latency_ms<1.5", 1.500004, "latency_ms<1.5; latency_ms reaches 1.5"),
        ("best,latency_ms<=1.5", 1.500004, "latency_ms<=1.5; latency_ms reaches 1.500004"),
        ("best,params<1234567", 9_876_543, "params<1234567; params reaches 9876543"),
    ],
)
def test_a_refusal_does_not_contradict_itself(text, value, expected):
    """However near the figure is to the bound."""
    figures = [{"accuracy": 0.5, "params": 0, parsed(text).conditions[0].name: value}]
    with pytest.raises(RefusedError) as caught:
        ordered(parsed(text), figures, {"accuracy": "max"}, "accuracy")
    assert caught.value.problem == f"none of 1 trials has {expected}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bast",
        "min",
        "min:",
        "best:params",
        "knee,",
        "knee,accuracy",
        "knee,accuracy=0.5",
        "knee,accuracy>=x",
        "knee,a>=1e999",
    ],
)
def test_what_is_no_pick(text):
    with pytest.raises(StudyError) as caught:
        parsed(text)
    assert caught.value.path == "distill.pick"


def test_unknown_figures_are_named():
    with pytest.raises(StudyError, match="'acuracy'; did you mean 'accuracy'"):
        parsed("knee,acuracy>=0.5").check(["accuracy", "params"])
    parsed("min:params,accuracy>0").check(["accuracy", "params"])
    assert parsed("min:params,accuracy>=90%") == Pick("min", "params", (Condition("accuracy", ">=", 0.9),))


values = st.floats(-10, 10).map(lambda each: round(each, 1))


@given(st.lists(st.tuples(values, values), min_size=1, max_size=12), st.sampled_from(["best", "knee"]))
def test_fronts_come_one_after_another_and_no_scale_matters(points, way):
    trials = [{"latency_ms": a, "accuracy": b} for a, b in points]
    found = order(way, trials)
    assert sorted(found) == list(range(len(points)))
    own = {i: nth for nth, front in enumerate(fronts([(a, -b) for a, b in points])) for i in front}
    assert [own[i] for i in found] == sorted(own.values())
    scaled = [{"latency_ms": 4 * a, "accuracy": 2 * b} for a, b in points]
    assert order(way, scaled) == found
