import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.search.agreement import (
    best_of_top,
    kendall_tau,
    minmax_at,
    pearson,
    precision_at,
    spearman_rho,
    tau_beyond,
    tau_in_bins,
)

numbers = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12)


def tau_by_counting(scores, values):
    """tau-b from its definition, over all pairs."""
    up = down = ties_s = ties_v = 0
    for i, j in combinations(range(len(scores)), 2):
        s, v = scores[i] - scores[j], values[i] - values[j]
        up += s * v > 0
        down += s * v < 0
        ties_s += s == 0
        ties_v += v == 0
    pairs = len(scores) * (len(scores) - 1) // 2
    length = math.sqrt((pairs - ties_s) * (pairs - ties_v))
    return (up - down) / length if length else None


@given(numbers)
def test_tau_is_counted_over_pairs(pairs):
    scores, values = [float(s) for s, _ in pairs], [float(v) for _, v in pairs]
    assert kendall_tau(scores, values) == pytest.approx(tau_by_counting(scores, values), abs=1e-9)


def test_how_far_a_score_is_beyond_another_with_its_spread_over_networks():
    rng = np.random.default_rng(0)

    def width(n):
        values = rng.normal(size=n)
        good, poor = values + rng.normal(size=n), values + 4 * rng.normal(size=n)
        found, low, high = tau_beyond(good.tolist(), poor.tolist(), values.tolist(), 0)
        by_hand = tau_by_counting(good.tolist(), values) - tau_by_counting(poor.tolist(), values)
        assert found == pytest.approx(by_hand, abs=1e-9)
        assert low < found < high
        return high - low

    few, many = width(30), width(480)
    assert 2.5 < few / many < 6.5, "a sixteenth of the networks, four times the width"
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert tau_beyond(values, values[::-1], values, 0) == pytest.approx((2.0, 2.0, 2.0))
    assert tau_beyond(values, values, values, 0) == (0.0, 0.0, 0.0)
    assert tau_beyond([1.0] * 6, values, values, 0) is None


def test_rho_by_hand():
    assert spearman_rho([1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 4.0, 3.0]) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_what_has_no_score_ranks_last_and_stays():
    values = [1.0, 2.0, 3.0, 4.0]
    assert kendall_tau([math.nan, 1.0, 2.0, 3.0], values) == kendall_tau([0.0, 1.0, 2.0, 3.0], values) == 1
    assert kendall_tau([3.0, 2.0, 1.0, None], values) == -1
    assert kendall_tau([-math.inf, 1.0, math.inf, math.nan], values) == pytest.approx(
        tau_by_counting([0, 1, 2, 0], values)
    )
    assert spearman_rho([None, None, 1.0, 2.0], values) == spearman_rho([0.0, 0.0, 1.0, 2.0], values)


@pytest.mark.parametrize("statistic", [kendall_tau, spearman_rho])
def test_a_constant_side_has_no_rank(statistic):
    assert statistic([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert statistic([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) is None
    assert statistic([None, None], [1.0, 2.0]) is None


def test_bins_hold_nets_of_nearly_equal_size_and_weigh_by_pairs():
    small, large = list(range(10)), list(range(20))
    scores = [float(i) for i in small] + [-float(i) for i in large] + [9.0] * 9
    values = [float(i) for i in small] + [float(i) for i in large] + [float(i) for i in range(9)]
    params = [1000] * 10 + [2000] * 20 + [5000] * 9  # the last bin is too small to count
    assert tau_in_bins(scores, values, params) == pytest.approx((45 * 1 - 190) / (45 + 190))
    assert tau_in_bins(scores[:10], values[:10], [1000 * 2**i for i in range(10)]) is None
    assert tau_in_bins(
        [1.0] * 10 + [float(i) for i in range(10)], values[:10] * 2, [1000] * 10 + [2000] * 10
    ) == pytest.approx(0.5)


def test_the_edges_of_bins_are_powers_of_1_05():
    values = [float(i) for i in range(10)]
    below, above = math.ceil(1.05**150) - 1, math.ceil(1.05**150)
    assert tau_in_bins(values, values, [below] * 5 + [above] * 5) is None
    assert tau_in_bins(values, values, [above] * 10) == pytest.approx(1)


def test_the_best_among_the_highest_scores():
    values = [float(i) for i in range(20)]
    assert best_of_top([-each for each in values], values) == 9
    assert best_of_top([None] * 5 + [-each for each in values[5:]], values, 3) == 7


def test_correlation_of_the_finite_scores_by_hand():
    assert pearson([1.0, 2.0, 3.0, None], [2.0, 4.0, 9.0, 100.0]) == pytest.approx(7 / math.sqrt(2 * 26))
    assert pearson([1.0, 1.0, math.nan], [1.0, 2.0, 3.0]) is None
    assert pearson([1.0, 2.0], [5.0, 5.0]) is None


def test_precision_and_extreme_ranks_by_hand():
    values = [90.0, 80.0, 70.0, 60.0, 50.0, 40.0, 30.0, 20.0, 10.0, 0.0]
    scores = [1.0, 9.0, 2.0, 8.0, 7.0, 6.0, 5.0, None, 4.0, 3.0]  # by score: 1, 3, 4, 5, 6, 8, 9, 2, 0, 7
    assert precision_at(scores, values, 0.2) == 1 / 2
    assert precision_at(scores, values, 0.01) == 0.0
    assert minmax_at(scores, values, 0.2) == (0.2, 0.9)
    assert minmax_at(values, values, 0.1) == (0.1, 0.1)


def test_what_is_tied_counts_by_its_mean_over_all_orders():
    """Two above, three tied for the last of three places: 2 of 6 orders ... by enumeration."""
    values, scores = [1.0, 2.0, 5.0, 9.0, 3.0, 0.0], [9.0, 8.0, 7.0, 7.0, 7.0, 1.0]
    assert best_of_top(scores, values, 3) == pytest.approx((5 + 9 + 3) / 3)
    assert best_of_top(scores, values, 4) == pytest.approx((9 + 5 + 9) / 3)
    assert best_of_top([None] * 6, values, 2) == pytest.approx(
        sum(max(a, b) for a, b in combinations(values, 2)) / math.comb(6, 2)
    )
    assert best_of_top([None] * 6, values[::-1], 2) == best_of_top([None] * 6, values, 2), "no order of rows"
    assert precision_at([None] * 10, [float(i) for i in range(10)], 0.2) == pytest.approx(0.2)
    assert precision_at(scores, values, 0.5) == pytest.approx((1 / 3 + 1 / 3 + 1 / 3) / 3)
    low, high = minmax_at([None] * 4, [4.0, 3.0, 2.0, 1.0], 0.25)
    assert (low, high) == pytest.approx(((1 + 2 + 3 + 4) / 16, 2.5 / 4))
