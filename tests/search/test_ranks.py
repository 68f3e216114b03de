"""Ranks against a fixed reference: by counting, and as properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.search.ranks import Combined, Rank, Weight

VALUES = st.integers(-20, 20).map(lambda each: each / 4)


@given(st.lists(st.one_of(st.none(), VALUES), min_size=1, max_size=30))
def test_at_a_reference_value_the_rank_is_counted(reference: list[float | None]) -> None:
    rank, n = Rank(reference), len(reference)
    for value in (each for each in reference if each is not None):
        below = sum(each is None or each < value for each in reference)
        equal = sum(each == value for each in reference)
        assert rank(value) == pytest.approx((below + equal / 2 + 0.5) / (n + 1), rel=1e-12)


@given(st.lists(VALUES, min_size=1, max_size=20), st.lists(st.floats(-30, 30), min_size=2, max_size=10))
def test_ranks_increase_with_the_value_and_stay_in_their_bounds(reference: list[float], values: list[float]) -> None:
    rank = Rank(reference)
    for a, b in zip(sorted(values), sorted(values)[1:], strict=False):
        assert rank(a) <= rank(b)
        if b - a > 1e-6:
            assert rank(a) < rank(b)
    assert all(rank(None) < rank(value) < 1 for value in values)


def test_between_two_reference_values_the_rank_is_linear() -> None:
    rank = Rank([0.0, 1.0, 3.0])
    assert [rank(each) for each in (0.0, 1.0, 2.0, 3.0)] == pytest.approx([1 / 4, 2 / 4, 2.5 / 4, 3 / 4])
    # beyond the end: what is left to 1 halves at a distance of one range (3)
    assert rank(6.0) == pytest.approx(1 - (1 / 4) / 2)
    assert rank(-3.0) == pytest.approx(1 / 16 + (1 / 4 - 1 / 16) / 2)


def test_no_number_is_the_worst_rank() -> None:
    rank = Rank([0.0, 1.0, None])
    assert rank(None) == rank(math.nan) == rank(math.inf) == 1 / 16
    assert rank(-1e9) > rank(None)
    assert rank(0.0) == pytest.approx(2 / 4)  # the reference's null is below it
    assert Rank([None, None])(3.0) == 0.5
    assert Rank([2.0, 2.0])(5.0) > Rank([2.0, 2.0])(2.0) == 0.5


def test_one_proxy_is_its_own_score() -> None:
    one = Combined(["a"])
    assert one({"a": 3.5, "b": None}) == 3.5
    assert one({"a": None}) is None


def test_several_are_a_power_mean_of_ranks() -> None:
    reference = [{"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 5.0}]
    both = Combined(["a", "b"], reference)
    assert both({"a": 1.0, "b": 5.0}) == pytest.approx(((0.5 ** (1 / 3) + 0.75 ** (1 / 3)) / 2) ** 3)
    assert both({"a": None, "b": 5.0}) == pytest.approx(((1 / 16) ** (1 / 3) + 0.75 ** (1 / 3)) ** 3 / 8)
    assert both({"a": None, "b": None}) is None
    weighed = Combined({"a": Weight(2.0), "b": Weight(0.5)}, reference)
    assert weighed({"a": 1.0, "b": 5.0}) == pytest.approx(((2 * 0.5 ** (1 / 3) + 0.5 * 0.75 ** (1 / 3)) / 2.5) ** 3)
    with pytest.raises(ValueError, match="reference"):
        Combined(["a", "b"])


def test_a_weight_grows_with_the_share_of_scores_that_are_there_once() -> None:
    reference = [{"a": float(i), "b": b} for i, b in enumerate((1.0, 1.0, 2.0, 3.0, None, None))]
    found = Combined({"a": Weight(), "b": Weight(0.5, own=3.0)}, reference).weights
    assert found == {"a": 1.0, "b": 0.5 + 3 * 2 / 6}
    assert Weight(1, 2) + Weight(0.5, 3) == Weight(1.5, 5)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20), VALUES, VALUES, st.floats(0.1, 10))
def test_a_mean_lies_between_its_ranks_and_grows_with_each(
    reference: list[tuple[float, float]], a: float, b: float, weight: float
) -> None:
    combined = Combined({"a": Weight(), "b": Weight(weight)}, [{"a": x, "b": y} for x, y in reference])
    ranks = [Rank([x for x, _ in reference])(a), Rank([y for _, y in reference])(b)]
    found = combined({"a": a, "b": b})
    assert found is not None
    assert min(ranks) * (1 - 1e-9) <= found <= max(ranks) * (1 + 1e-9)
    more = combined({"a": a + 1, "b": b})
    assert more is not None
    assert more > found
    assert combined({"a": None, "b": b}) < found  # type: ignore[operator]
