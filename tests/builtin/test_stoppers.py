"""Who goes on, counted by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsearch.builtin.stoppers import Halving, HalvingOptions, Median, MedianOptions, Unstopped
from kdsearch.errors import StudyError
from kdsearch.kinds import NoOptions, Trial
from kdsearch.kinds.options import validate

LOSSES = {4: 0.3, 5: 0.1, 6: math.nan, 7: 0.2, 8: 0.1}


@pytest.mark.parametrize(("keep", "expected"), [(0.2, {5}), (0.4, {5, 8}), (0.5, {5, 8, 7}), (1.0, {4, 5, 7, 8})])
def test_halving_keeps_the_best_share_rounded_up(keep: float, expected: set[int]) -> None:
    assert Halving(HalvingOptions(keep=keep)).go_on(0.34, LOSSES, []) == expected


@given(st.dictionaries(st.integers(0, 50), st.floats(-10, 10), min_size=1), st.floats(0.05, 1.0))
def test_halving_never_stops_a_better_one_than_it_keeps(losses: dict[int, float], keep: float) -> None:
    kept = Halving(HalvingOptions(keep=keep)).go_on(0.5, losses, [])
    assert len(kept) == math.ceil(keep * len(losses))
    assert all(losses[a] <= losses[b] for a in kept for b in set(losses) - kept)


def test_median_counts_earlier_trials_at_the_same_rung() -> None:
    history = [Trial(i, {}, None, "pruned", curve=((0.25, 9.0), (0.5, loss))) for i, loss in enumerate([0.0, 0.1, 0.3])]
    stopper = Median(MedianOptions(rungs=[0.25, 0.5], warmup=5))
    # at 0.5: 0, .1, .3 and .15, .2 -> median .15
    assert stopper.go_on(0.5, {3: 0.15, 4: 0.2}, history) == {3}
    # at 0.25 all earlier ones had 9.0
    assert stopper.go_on(0.25, {3: 0.15, 4: 0.2}, history) == {3, 4}
    assert stopper.go_on(0.5, {3: math.nan}, history) == set()


def test_median_waits_for_its_warmup() -> None:
    assert Median(MedianOptions(warmup=3)).go_on(0.34, {0: 1.0, 1: 2.0, 2: math.nan}, []) == {0, 1}
    assert Median(MedianOptions(warmup=0)).go_on(0.34, {0: math.nan}, []) == set()


def test_none_stops_only_what_failed() -> None:
    stopper = Unstopped(NoOptions())
    assert stopper.rungs() == ()
    assert stopper.go_on(0.5, LOSSES, []) == {4, 5, 7, 8}


@pytest.mark.parametrize("rungs", [[0.5, 0.5], [0.5, 0.2], [0.0], [1.0]])
def test_rungs_that_do_not_increase_are_refused(rungs: list[float]) -> None:
    with pytest.raises(StudyError, match="increasing shares"):
        validate(HalvingOptions, {"rungs": rungs})


def test_rungs_are_read_from_json() -> None:
    assert Halving(validate(HalvingOptions, {"rungs": [0.25, 0.5]})).rungs() == (0.25, 0.5)
