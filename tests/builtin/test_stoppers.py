"""Who goes on, counted by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.builtin.stoppers import Halving, HalvingOptions, Median, MedianOptions, Unstopped
from kdsearch.errors import StudyError
from kdsearch.kinds import NoOptions, Stopper, Trial
from kdsearch.kinds.options import validate
from kdsearch.testing.stopper import StopperContract

RUNG = 0.34


class TestHalving(StopperContract):
    def stopper(self) -> Stopper:
        return Halving(HalvingOptions(rungs=[0.25, 0.5]))


class TestMedian(StopperContract):
    def stopper(self) -> Stopper:
        return Median(MedianOptions(warmup=2))


class TestUnstopped(StopperContract):
    def stopper(self) -> Stopper:
        return Unstopped(NoOptions())


def trial(number, *losses, rung=RUNG):
    return Trial(number, {}, None, "running", curve=((rung, losses),))


def said(stopper, losses, rung=RUNG):
    """Of trials with these losses (a number or a vector each) in order of number, which go on."""
    trials = [trial(i, *(each if isinstance(each, tuple) else (each,)), rung=rung) for i, each in enumerate(losses)]
    return [number for number, each in enumerate(trials) if stopper.go_on(rung, each, trials[:number])]


@pytest.mark.parametrize(("keep", "expected"), [(0.2, [0, 1, 4]), (0.4, [0, 1, 3, 4]), (1.0, [0, 1, 3, 4])])
def test_halving_keeps_the_best_share_rounded_up(keep, expected):
    """Number 3 is the second of three, 4 as good as the best of four."""
    assert said(Halving(HalvingOptions(keep=keep)), [0.3, 0.1, math.nan, 0.2, 0.1]) == expected


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(0.05, 1.0))
def test_halving_of_one_objective_is_a_rank(losses, keep):
    found = said(Halving(HalvingOptions(keep=keep)), losses)
    for number, loss in enumerate(losses):
        rank = sum(each < loss for each in losses[:number])
        assert (number in found) == (rank < math.ceil(round(keep * (number + 1), 9)))


@pytest.mark.parametrize(
    ("keep", "n", "places"), [(0.28, 25, 7), (0.14, 50, 7), (0.56, 25, 14), (0.07, 100, 7), (0.5, 5, 3)]
)
def test_halving_rounds_no_whole_number_up(keep, n, places):
    """The last of n trials goes on in that place, and not in the next one."""
    stopper, others = Halving(HalvingOptions(keep=keep)), [trial(i, float(i)) for i in range(n - 1)]
    assert stopper.go_on(RUNG, trial(n, places - 1.5), others)
    assert not stopper.go_on(RUNG, trial(n, places - 0.5), others)


def test_of_equal_ones_none_is_stopped_for_another():
    """As where a few samples are judged: eight trials at chance."""
    assert said(Halving(HalvingOptions()), [-0.1] * 8) == list(range(8))
    assert said(Halving(HalvingOptions()), [-0.1] * 3 + [-0.2] * 5) == list(range(8))
    assert said(Halving(HalvingOptions()), [-0.2, -0.1, -0.1, -0.1]) == [0, 2, 3], "half of all, which are two of three"


@given(st.lists(st.integers(-10, 10), min_size=1, max_size=30))
def test_median_of_one_objective_is_the_median(losses):
    from statistics import median

    found = said(Median(MedianOptions(warmup=0)), losses)
    assert found == [n for n, loss in enumerate(losses) if loss <= median(losses[: n + 1])]


def test_several_objectives_stop_what_is_behind_in_all():
    """A small network, worse in accuracy than all before it and better in size, goes on."""
    losses = [(0.1, 9.0), (0.2, 8.0), (0.3, 7.0), (0.4, 1.0), (0.25, 8.5), (0.3, 8.0)]
    # 4 and 5 are of the second front, behind 4
    assert said(Halving(HalvingOptions(keep=0.5)), losses) == [0, 1, 2, 3]
    assert said(Halving(HalvingOptions(keep=1.0)), losses) == [0, 1, 2, 3, 4, 5]
    assert said(Median(MedianOptions(warmup=0)), losses) == [0, 1, 2, 3]


def test_only_trials_at_the_same_rung_count():
    stopper = Median(MedianOptions(rungs=[0.25, 0.5], warmup=0))
    others = [Trial(i, {}, None, "pruned", curve=((0.25, (9.0,)), (0.5, (loss,)))) for i, loss in enumerate([0.0, 0.1])]
    others.append(Trial(2, {}, None, "failed", curve=((0.25, (9.0,)),), error="it broke"))
    assert not stopper.go_on(0.5, trial(3, 0.2, rung=0.5), others)
    assert stopper.go_on(0.25, trial(3, 0.2, rung=0.25), others)


def test_median_waits_for_its_warmup():
    assert said(Median(MedianOptions(warmup=3)), [1.0, 2.0, 3.0]) == [0, 1]
    assert said(Median(MedianOptions(warmup=4)), [1.0, 2.0, math.nan]) == [0, 1]


def test_none_stops_only_what_is_no_number():
    stopper = Unstopped(NoOptions())
    assert stopper.rungs() == ()
    assert said(stopper, [0.3, 9.0, math.nan]) == [0, 1]


@pytest.mark.parametrize("rungs", [[0.5, 0.5], [0.5, 0.2], [0.0], [1.0]])
def test_rungs_that_do_not_increase_are_refused(rungs):
    with pytest.raises(StudyError, match="increasing shares"):
        validate(HalvingOptions, {"rungs": rungs})


def test_rungs_are_read_from_json():
    assert Halving(validate(HalvingOptions, {"rungs": [0.25, 0.5]})).rungs() == (0.25, 0.5)


def test_halving_keeps_what_none_is_better_than():
    """A search that goes along a front would lose it otherwise, the more rungs there are."""
    front = [(0.1, 9.0), (0.9, 1.0), (0.11, 8.9), (0.4, 4.0), (0.12, 8.8)]
    assert said(Halving(HalvingOptions(keep=0.2)), front) == [0, 1, 2, 3, 4]
    assert said(Halving(HalvingOptions(keep=0.2)), [*front, (0.4, 4.1), (0.3, 5.0), (math.nan, 0.1)]) == [
        0,
        1,
        2,
        3,
        4,
        6,
    ]


def test_halving_of_a_later_front_keeps_its_ends_and_what_adds_most():
    """All but number 0 are the second front. Number 3 is hard by number 1, number 4 lies in the middle of a gap."""
    losses = [(0.05, 0.5), (0.1, 9.0), (0.9, 1.0), (0.11, 8.9), (0.4, 4.0), (0.12, 8.8)]
    # 3: fourth of four, of which three go on; 4: fourth of five and 5, which adds more than 3, fifth of six
    assert said(Halving(HalvingOptions(keep=0.7)), losses) == [0, 1, 2, 4, 5]
    assert said(Halving(HalvingOptions(keep=0.2)), losses) == [0]
    assert said(Halving(HalvingOptions(keep=1.0)), losses) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
@pytest.mark.parametrize("stopper", [Halving(HalvingOptions()), Median(MedianOptions(warmup=0))])
def test_equal_ones_stop_no_other_by_any_number_of_objectives(stopper, n_objectives):
    """As of one network of a fixed size, at chance in its first epochs."""
    assert said(stopper, [(1.0,) * n_objectives] * 10) == list(range(10))


def test_halving_treats_two_alike_alike():
    losses = [(0.05, 0.5), (0.1, 9.0), (0.9, 1.0), (0.4, 4.0), (0.4, 4.0), (0.4, 4.0)]
    assert said(Halving(HalvingOptions(keep=0.8)), losses) == [0, 1, 2, 3, 4, 5], "each is fourth, as the first of them"
    assert said(Halving(HalvingOptions(keep=0.6)), losses)[-1:] == [5], "the last is fourth of six"
    assert 3 not in said(Halving(HalvingOptions(keep=0.6)), losses), "and the first fourth of four"
