"""What a candidate promises for a front: the hypervolume by directions, its expected growth, and known costs."""

import math
from itertools import combinations

import moocore
import numpy as np
import pytest

from kdsearch.builtin.controllers.gains import (
    CORNER,
    _growth,
    _shares,
    directions,
    front_of,
    largest_growths,
    reach,
)


def factor(m):
    """Between the mean over directions and the volume: the share of the unit ball's volume in the positive orthant."""
    return math.pi ** (m / 2) / (2**m * math.gamma(m / 2 + 1))


def volume(points):
    return moocore.hypervolume(np.array(points), ref=np.full(len(points[0]), CORNER))


@pytest.mark.parametrize(("m", "close"), [(2, 0.01), (3, 0.08), (4, 0.15)])
def test_the_mean_over_directions_is_the_hypervolume(m, close):
    along = directions(m)
    assert (along > 0).all()
    assert np.linalg.norm(along, axis=1) == pytest.approx(1.0)
    for seed in range(10):
        points = np.random.default_rng(seed).uniform(0, 1.2, size=(8, m))  # some beyond the corner
        assert factor(m) * reach(points, along).mean() == pytest.approx(volume(points), rel=close, abs=0.002)
    assert reach(np.zeros((0, m)), along).tolist() == [0.0] * len(along)


def test_what_is_certain_adds_what_the_hypervolume_grows_by():
    rng, along = np.random.default_rng(0), directions(2)
    front, pool = rng.uniform(size=(5, 2)), rng.uniform(size=(20, 2))
    grown = factor(2) * _growth(reach(front, along), pool, np.zeros_like(pool), along)
    assert grown == pytest.approx([volume([*front, each]) - volume(front) for each in pool], abs=0.004)


def test_what_is_predicted_adds_its_mean():
    """One loss known, one predicted; both predicted."""
    rng, along = np.random.default_rng(1), directions(2)
    front = np.array([[0.2, 0.7], [0.6, 0.3]])
    for spreads in ([0.2, 0.0], [0.2, 0.1]):
        mean = np.array([0.3, 0.5])
        drawn = mean + rng.normal(size=(4000, 2)) * spreads
        expected = np.mean([volume([*front, each]) for each in drawn]) - volume(front)
        found = factor(2) * _growth(reach(front, along), mean[None], np.array([spreads]), along)[0]
        assert found == pytest.approx(expected, rel=0.1)
        assert found > factor(2) * _growth(reach(front, along), mean[None], np.zeros((1, 2)), along)[0]


def test_costs_count_by_their_ratio():
    shares = _shares(np.array([[10.0, 0.0], [1000.0, 0.0], [100.0, 0.0], [1e5, 0.0]]))
    assert shares[:, 1].tolist() == [0.0] * 4
    assert shares[[0, 3], 0].tolist() == [0.0, 1.0]
    tens = np.diff(shares[[0, 2, 1, 3], 0])
    assert tens[2] == pytest.approx(2 * tens[1], rel=0.05)  # 1,000 to 100,000, and 100 to 1,000
    assert _shares(np.array([[-10.0], [-1000.0], [0.0]]))[:, 0] == pytest.approx([0.85, 0.0, 1.0], abs=0.01)


def test_a_front_of_guesses_by_hand():
    """The one in the middle spans the largest box; then the ends; what others are better than in both comes last."""
    guesses = [0.9, 0.8, 0.3, 0.1, 0.2]
    costs = np.array([[math.nan, each] for each in (1000.0, 100.0, 10.0, 900.0, 500.0)])
    assert front_of(guesses, costs, 5)[:3] == [1, 2, 0]
    assert front_of(guesses, costs, 9)[3:] == [4, 3], "what adds nothing, by its guess"
    assert front_of([0.9, 0.3, 0.8], costs[[0, 2, 1]], 2, tried=1) == [1, 0]
    assert front_of([0.5, 0.5], np.array([[math.nan, 2.0], [math.nan, 1.0]]), 1) == [1], "equal guesses: the cheaper"


@pytest.mark.parametrize("seed", range(5))
def test_a_front_of_guesses_is_nearly_the_best_set(seed):
    """Greedy growth has at least 1 - 1/e of the best set's hypervolume, and far more here."""
    rng = np.random.default_rng(seed)
    guesses, cost = rng.uniform(size=12), 10 ** rng.uniform(0, 3, size=12)
    costs = np.column_stack([np.full(12, np.nan), cost])
    unit = np.column_stack([(guesses.max() - guesses) / np.ptp(guesses), _shares(cost[:, None])])
    best = max(volume(unit[list(some)]) for some in combinations(range(12), 3))
    assert volume(unit[front_of(guesses, costs, 3)]) >= 0.93 * best


def curve(x):
    """(error, cost): larger is better and dearer, with a place where it is not."""
    return 1 - 0.8 * x + 0.4 * math.exp(-200 * (x - 0.6) ** 2), 10 ** (3 * x)


def test_it_finds_the_front():
    grid = np.linspace(0, 1, 60)
    every = np.array([curve(x) for x in grid])
    costs = np.column_stack([np.full(60, np.nan), every[:, 1]])
    tried = [0, 59]
    while len(tried) < 8:
        found = largest_growths(grid[tried][:, None], every[tried], [True] * len(tried), grid[:, None], costs, 1)
        tried += found
    unit = np.column_stack([(every[:, 0] - every[:, 0].min()) / np.ptp(every[:, 0]), _shares(every[:, 1:])])
    assert volume(unit[tried]) > 0.95 * volume(unit[np.linspace(0, 59, 8).astype(int)])
    assert len(set(tried)) == 8
    assert sum(0.55 <= grid[i] <= 0.65 for i in tried) <= 2, "a dear place that is no better"


def test_what_breaks_a_limit_is_no_front_and_what_runs_is_taken_as_predicted():
    x = np.array([[0.0], [0.5], [1.0]])
    losses = np.array([[0.9, 1.0], [0.5, 10.0], [0.1, 100.0]])
    pool = np.array([[0.5], [0.25], [0.02]])
    costs = np.column_stack([np.full(3, np.nan), [10.0, 3.2, 1.1]])
    assert largest_growths(x, losses, [True] * 3, pool, costs, 1) == [1]
    assert largest_growths(x, losses, [True, False, True], pool, costs, 1) == [0]
    going = np.vstack([losses, [math.nan, 3.2]])
    assert largest_growths(np.vstack([x, [[0.25]]]), going, [True] * 3, pool, costs, 1) != [1]
    poor = np.vstack([losses, [math.nan, 1.2]])
    assert largest_growths(np.vstack([x, [[0.05]]]), poor, [True] * 3, pool, costs, 1) == [1], "predicted to be no good"
    assert sorted(largest_growths(x, losses, [True] * 3, pool, costs, 5)) == [0, 1, 2]


def test_a_front_that_the_model_does_not_see_counts():
    """What is better than the promising candidate was tried long ago; behind it nothing grows."""
    x = np.array([[0.0], [0.5], [1.0]])
    losses = np.array([[0.9, 1.0], [0.5, 10.0], [0.1, 100.0]])
    pool, costs = np.array([[0.25], [0.75]]), np.array([[math.nan, 3.2], [math.nan, 32.0]])
    for better, pick in ((3.0, 1), (30.0, 0)):
        # far better than any that is seen: also below the least loss
        front = np.array([[0.0, better]])
        assert largest_growths(x, losses, [True] * 3, pool, costs, 1, front) == [pick], better
    assert largest_growths(x, losses, [True] * 3, pool, costs, 1, np.zeros((0, 2))) == largest_growths(
        x, losses, [True] * 3, pool, costs, 1
    )


def test_one_very_bad_trial_hides_no_difference():
    """Beside an error of 50 those of .3 and .1 would be one, and the cheapest candidate all that is left to gain."""
    x = np.array([[0.0], [0.2], [0.4], [0.6], [1.0]])
    losses = np.array([[0.3, 10.0], [0.25, 11.0], [0.2, 12.0], [0.15, 13.0], [50.0, 20.0]])
    pool, costs = np.array([[0.6], [0.0]]), np.array([[math.nan, 10.5], [math.nan, 9.95]])
    assert largest_growths(x, losses, [True] * 5, pool, costs, 1) == [0]


def test_picks_of_one_ask_lie_apart():
    """Twins of the best pick add nothing once it is picked."""
    x = np.array([[0.0], [0.5], [1.0]])
    losses = np.array([[0.9, 1.0], [0.5, 10.0], [0.1, 100.0]])
    pool = np.array([[0.25], [0.25], [0.25], [0.75]])
    costs = np.column_stack([np.full(4, np.nan), [3.2, 3.2, 3.2, 32.0]])
    assert set(largest_growths(x, losses, [True] * 3, pool, costs, 2)) == {0, 3}


def test_where_nothing_adds_anything_the_least_known_is_picked():
    """A front of certain points, and candidates that others are better than; the places of the first are known well."""
    x = np.linspace(0, 0.5, 6)[:, None]
    losses = np.column_stack([np.full(6, 0.5), np.full(6, 1.0)])
    pool, costs = np.array([[0.25], [3.0]]), np.array([[math.nan, 1e6], [math.nan, 1e6]])
    for order in ([0, 1], [1, 0]):
        (pick,) = largest_growths(x, losses, [True] * 6, pool[order], costs, 1)
        assert pool[order][pick, 0] == 3.0


def test_losses_that_only_trainings_tell():
    """No known cost: a process each."""
    x = np.linspace(0, 1, 6)[:, None]
    losses = np.column_stack([(x[:, 0] - 0.2) ** 2, (x[:, 0] - 0.8) ** 2])
    pool = np.linspace(0, 1, 51)[:, None]
    picks = largest_growths(x, losses, [True] * 6, pool, np.full((51, 2), np.nan), 4)
    assert all(0.15 < pool[i, 0] < 0.85 for i in picks)
