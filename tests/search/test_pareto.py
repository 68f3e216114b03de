"""Dominance against the definition, pair by pair."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.search.pareto import crowding, fronts, spread, violation

POINT = st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float))
POINTS = st.lists(st.tuples(POINT, st.sampled_from([-1.0, 0.0, 1.0, 2.0])), max_size=25)


def dominates(a: tuple, b: tuple) -> bool:
    (loss_a, c_a), (loss_b, c_b) = a, b
    broken_a, broken_b = max(c_a, 0.0), max(c_b, 0.0)
    if broken_a or broken_b:
        return broken_a < broken_b
    return all(x <= y for x, y in zip(loss_a, loss_b, strict=True)) and loss_a != loss_b


def peeled(points: list) -> list[list[int]]:
    left, found = set(range(len(points))), []
    while left:
        found.append(sorted(i for i in left if not any(dominates(points[j], points[i]) for j in left)))
        left -= set(found[-1])
    return found


@given(POINTS)
def test_fronts_are_peeled_off_one_by_one(points: list) -> None:
    expected = peeled(points)
    losses, violations = [each[0] for each in points], [(each[1],) for each in points]
    assert fronts(losses, violations) == expected
    feasible = [(0.0,)] * len(points)
    assert fronts(losses) == fronts(losses, feasible)
    for enough in (1, 4):
        first = fronts(losses, enough=enough)
        assert first == fronts(losses)[: len(first)]
        assert sum(map(len, first)) >= min(enough, len(points))
        assert sum(map(len, first[:-1])) < enough


@given(POINTS)
def test_fronts_of_one_loss_are_those_of_the_loss_twice(points: list) -> None:
    losses, violations = [each[0][0] for each in points], [(each[1],) for each in points]
    once, twice = [(loss,) for loss in losses], [(loss, loss) for loss in losses]
    assert fronts(once, violations) == fronts(twice, violations)
    assert fronts(once) == fronts(twice)


def test_nan_is_the_worst_loss_and_an_infinite_violation() -> None:
    assert fronts([(math.nan, 0.0), (1.0, 0.0)]) == [[1], [0]]
    assert fronts([(math.nan,), (1.0,), (math.inf,), (-math.inf,)]) == [[3], [1], [0, 2]]
    assert violation((-3.0, 0.5, math.nan)) == math.inf
    assert violation((-3.0, 0.5, 0.25)) == 0.75


def test_crowding_by_hand() -> None:
    assert crowding([(0.0, 4.0), (1.0, 1.0), (3.0, 0.5), (4.0, 0.0)]) == pytest.approx(
        [math.inf, 3 / 4 + 3.5 / 4, 3 / 4 + 1 / 4, math.inf]
    )
    assert crowding([(1.0, 1.0)]) == [math.inf]
    assert crowding([]) == []


def test_spread_thins_the_crowd_and_keeps_the_best_and_the_ends() -> None:
    line = [(float(x), float(10 - x)) for x in (0, 1, 2, 3, 10)]
    kept = spread(line, 3)
    assert {0, 4} < set(kept)
    assert spread(line, 1) == [0]
    assert spread(line, 9) == [0, 1, 2, 3, 4]
    assert spread([], 3) == []


@given(st.lists(POINT, min_size=1, max_size=12), st.integers(1, 12))
def test_spread_keeps_as_many_as_asked_and_the_best_first_loss(points: list, keep: int) -> None:
    kept = spread(points, keep)
    assert len(set(kept)) == min(keep, len(points))
    assert min(points[i][0] for i in kept) == min(each[0] for each in points)


LOSS = st.sampled_from([0.0, 1.0, 2.0, math.inf, -math.inf, math.nan])


@given(
    st.lists(st.tuples(st.tuples(LOSS, LOSS, LOSS), st.sampled_from([-1.0, 0.0, 0.5, math.inf, math.nan])), max_size=12)
)
def test_losses_and_violations_that_are_no_numbers_are_the_worst_ones(points: list) -> None:
    """A front is what no other dominates of those that are left."""

    def worst(value: float) -> float:
        return math.inf if math.isnan(value) else value

    plain = [(tuple(map(worst, losses)), worst(broken)) for losses, broken in points]
    assert fronts([each[0] for each in points], [(each[1],) for each in points]) == peeled(plain)
