"""Dominance against the definition, pair by pair."""

import itertools
import math

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.search import pareto
from kdsearch.search.pareto import contributions, crowding, fronts, hypervolumes, spread, violation

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


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from([0, 1])), min_size=1, max_size=25),
    st.integers(1, 12),
)
def test_spread_is_that_of_all_distances_worked_out_anew(points: list, keep: int) -> None:
    left = list(range(len(points)))
    best = min(left, key=lambda i: (points[i][0], i))
    while len(left) > keep:
        distance = dict(zip(left, crowding([points[i] for i in left]), strict=True))
        left.remove(min((i for i in left if i != best), key=lambda i: (distance[i], -i)))
    assert spread(points, keep) == left


def test_of_a_long_front_distances_are_not_all_worked_out_for_each_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Params are the score's negative: all candidates of a search are one front."""
    asked: list[int] = []
    monkeypatch.setattr(pareto, "crowding", lambda losses: asked.append(len(losses)) or crowding(losses))
    assert len(spread([(i**1.5, -float(i)) for i in range(2000)], 100)) == 100
    assert sum(asked) < 2000


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


def test_hypervolume_by_hand() -> None:
    """Losses 0..1 and 0..10: a corner at (1.1, 11). Areas by the staircase, of 1.1 x 1.1 in units of the spans."""
    losses = [(0.0, 10.0), None, (1.0, 0.0), (0.5, 5.0), (0.9, 9.0), (0.25, 2.0)]
    allowed = [(), (), (0.0,), (-1.0,), (0.0,), (0.5,)]
    box = 1.1 * 1.1
    first, both = 1.1 * 0.1, 2 * 1.1 * 0.1 - 0.1 * 0.1
    third = both + 0.5 * 0.5  # from (.5, .5) to where the two others begin
    expected = [first, first, both, third, third, third]  # (.9, 9) is dominated, the last one breaks a limit
    assert hypervolumes(losses, allowed) == pytest.approx([each / box for each in expected])


@given(POINTS)
def test_hypervolume_never_falls_and_no_order_changes_its_end(points: list) -> None:
    losses, violations = [each[0] for each in points], [(each[1],) for each in points]
    found = hypervolumes(losses, violations)
    assert all(0 <= a <= b + 1e-12 and b <= 1 + 1e-12 for a, b in zip([0.0, *found], found, strict=False))
    if points:
        assert hypervolumes(losses[::-1], violations[::-1])[-1] == pytest.approx(found[-1])
    inside = [at for at, (loss, broken) in enumerate(points) if broken <= 0]
    for at, point in enumerate(found):
        rises = point > (found[at - 1] if at else 0.0) + 1e-12
        earlier = [losses[i] for i in inside if i < at]
        is_beaten = any(all(x <= y for x, y in zip(each, losses[at], strict=True)) for each in earlier)
        assert rises == (at in inside and not is_beaten)


@given(st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=20))
def test_hypervolume_is_that_of_all_points_so_far(losses: list) -> None:
    points = np.array(losses)
    span = np.where(np.ptp(points, axis=0) > 0, np.ptp(points, axis=0), 1.0)
    unit = (points - points.min(0)) / span
    expected = [moocore.hypervolume(unit[: n + 1], ref=[1.1] * 3) / 1.1**3 for n in range(len(unit))]
    found = hypervolumes(losses, [()] * len(losses))
    assert found == pytest.approx(expected)
    assert max(found) <= 1
    assert sorted(found) == found


def test_hypervolume_of_nothing_feasible() -> None:
    assert hypervolumes([], []) == []
    assert hypervolumes([(1.0, 2.0), None], [(3.0,), ()]) == [0.0, 0.0]
    assert hypervolumes([(math.inf, 1.0), (1.0, math.nan)], [(), ()]) == [0.0, 0.0]
    assert hypervolumes([(2.0, 3.0)], [()]) == [1.0]


def test_contribution_is_what_a_box_loses_by_hand():
    """The box is [0, 10] x [0, 10], its corner (11, 11): (0, 10) alone has the strip to x = 4 of height 1, and so on."""
    losses = [(0.0, 10.0), (4.0, 5.0), (10.0, 0.0), (4.0, 5.0), (6.0, 6.0)]
    found = contributions(losses, losses)
    assert found == pytest.approx([4 / 121, 6 * 5 / 121, 5 / 121, 0, 0])
    assert contributions([(1.0, 0.0), (0.0, 0.0)], [(1.0, 0.0), (0.0, 0.0)]) == [0.0, 1.0], (
        "what is dominated is not there"
    )


points_of = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.tuples(*[st.integers(0, 6)] * k), min_size=1, max_size=9, unique=True)
)


@given(points_of)
def test_contribution_is_the_difference_of_two_hypervolumes(points):
    """Of a front without equals: with all points, less those without it, counted in cells of an integer grid."""
    front = [points[i] for i in fronts(points)[0]]
    spans = [(max(each) - min(each)) or 1 for each in zip(*points, strict=True)]
    least = [min(each) for each in zip(*points, strict=True)]

    def volume(members):
        """By inclusion and exclusion, in units of the box."""
        total = 0.0
        for n in range(1, len(members) + 1):
            for some in itertools.combinations(members, n):
                worst = [max(each) for each in zip(*some, strict=True)]
                edges = [1.1 - (w - low) / span for w, low, span in zip(worst, least, spans, strict=True)]
                total += (-1) ** (n + 1) * math.prod(edges)
        return total / 1.1 ** len(spans)

    expected = [volume(front) - volume([*front[:i], *front[i + 1 :]]) for i in range(len(front))]
    assert contributions(front, points) == pytest.approx(expected, abs=1e-9)
