"""Sets of detections: distances by hand, whatever their order, and what is spared."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.ops.detections import SPARED, found_again, furthest, gaps, scales

NONE = [0, 0, 0, 0, 0, -1]


def sets(*samples):
    most = max(len(each) for each in samples)
    return np.array([[*each, *[NONE] * (most - len(each))] for each in samples], np.float64)


def test_distances_by_hand():
    of = sets([[0, 0, 10, 10, 0.9, 1], [20, 20, 30, 30, 0.5, 0]], [[0, 0, 4, 4, 0.7, 2]])
    among = sets([[20, 20, 30, 32, 0.5, 0], [0, 1, 10, 10, 0.8, 1], [0, 0, 10, 10, 0.9, 0]], [[0, 0, 4, 4, 0.7, 1]])
    boxes, scores = 2.0, 0.4
    assert gaps(of, among, (boxes, scores)) == pytest.approx([max(1 / 2, 0.1 / 0.4), 2 / 2, np.inf])
    assert gaps(among, of, (boxes, scores)) == pytest.approx([1, 0.5, 20 / 2, np.inf])
    assert gaps(sets([NONE]), among[:1], (boxes, scores)).tolist() == [], "nothing has no distance"


def test_scales_are_of_what_is_there():
    of = sets([[0, 0, 10, 10, 0.5, 1], [0, 0, 10, 10, 0.7, 1]])
    assert scales(of[0]) == pytest.approx((5, 0.1))
    assert scales(np.full((2, 6), 8.0)) == pytest.approx((0.08, 0.08)), "a hundredth of equal ones"
    one = sets([[0, 0, 10, 10, 0.5, 1], NONE])
    assert gaps(one, sets([[0, 0, 10, 11, 0.5, 1]])) == pytest.approx([1 / 5]), "of rows that are none nothing counts"


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 12))
def test_order_means_nothing(seed, n, rows):
    rng = np.random.default_rng(seed)
    of = np.concatenate([rng.normal(size=(n, rows, 5)), rng.integers(-1, 3, (n, rows, 1))], 2)
    mixed = of[:, rng.permutation(rows)]
    assert not gaps(of, mixed).any()
    moved = mixed.copy()
    moved[..., 0] += 1e-3
    assert (gaps(of, moved, (1.0, 1.0)) <= 1e-3 + 1e-12).all()
    is_there = of[..., 5] >= 0
    assert found_again(of, mixed).tolist() == [True] * int(is_there.sum())


def test_thousands_are_compared_a_block_at_a_time():
    rng = np.random.default_rng(0)
    of = np.concatenate([rng.normal(size=(1, 5000, 5)), rng.integers(0, 3, (1, 5000, 1))], 2)
    tracemalloc.start()
    assert not gaps(of, of[:, ::-1]).any()
    assert found_again(of, of[:, ::-1]).all()
    assert tracemalloc.get_traced_memory()[1] < 300e6, "all at once would take a gigabyte"
    tracemalloc.stop()


def test_a_fortieth_is_spared():
    assert pytest.approx(1 / 40) == SPARED
    far = np.zeros(48)
    far[7] = np.inf
    assert furthest(far) == 0
    far[8] = 3
    assert furthest(far) == 3
    assert furthest(np.array([2.0, 1.0])) == 2, "of few none"
    assert furthest(np.empty(0)) == 0


def test_found_where_half_of_both_is_shared():
    of = sets([[0, 0, 10, 10, 0.9, 1]])
    for right, again in ((20, True), (20.1, False)):
        assert found_again(of, sets([[0, 0, right, 10, 0.1, 1]])).tolist() == [again]
    assert found_again(of, sets([[0, 0, 10, 10, 0.9, 2]])).tolist() == [False]
    assert found_again(of, sets([[10, 10, 0, 0, 0.9, 1]])).tolist() == [True], "corners in any order"
    assert found_again(of, sets([[20, 20, 30, 30, 0.9, 1]])).tolist() == [False], "apart in both directions"
    flat = sets([[3, 0, 3, 10, 0.9, 1]])
    assert found_again(flat, flat).tolist() == [True]
    assert found_again(flat, sets([[2, 0, 2, 10, 0.9, 1]])).tolist() == [False]


def test_not_a_number_is_nowhere():
    of = sets([[0, 0, 10, 10, 0.9, 1]])
    assert gaps(of, sets([[0, np.nan, 10, 10, 0.9, 1]])).tolist() == [np.inf]
