"""The schedule, with made-up trials in place of trainings: any workers, any durations, any kill, one result."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import multi_fidelity
from kdsearch.builtin.controllers.random import Random
from kdsearch.builtin.controllers.surrogate import Surrogate, SurrogateOptions
from kdsearch.builtin.stoppers import Halving, HalvingOptions, Unstopped
from kdsearch.errors import PluginError
from kdsearch.kinds import Ask, Dim, NoOptions, Range, Stopper, Trial
from kdsearch.search.schedule import Schedule, epochs_at
from kdsearch.search.trials import Board, TrialLog

DIMS = (Dim("x", Range(low=0.0, high=1.0)), Dim("kind", Range(choices=("a", "b", "c"))))
BOARD = Board({"a": "min", "b": "min"}, dims={dim.path: dim for dim in DIMS})
RUNGS = (0.25, 0.5)


def losses(values, share):
    """Two objectives, nearer to their ends with every rung."""
    far = abs(values["x"] - 0.7) + 0.1 * (values["kind"] != "b")
    return (far + 0.5 * (1 - share), far)


def finish(trial):
    return replace(trial, state="complete", losses=trial.at(1.0), violations=(-1.0,))


class Saying(Stopper[NoOptions]):
    """Says the same of every trial."""

    def __init__(self, said):
        super().__init__(NoOptions())
        self.said = said

    def rungs(self):
        return RUNGS

    def go_on(self, rung, trial, others):
        return self.said


class World:
    """Trials that take as long as a stream of its own says, on so many workers; a clock of its own."""

    def __init__(self, n=20, window=4, controller=None, rungs=RUNGS, known=(), fails=(), told=lambda trial: None):
        self.controller = controller or Random(NoOptions())
        self.asked: list[list[Trial]] = []
        stopper = Halving(HalvingOptions(rungs=list(rungs))) if rungs else Unstopped(NoOptions())
        self.schedule = Schedule(self.ask, stopper, rungs, n, window, finish, told, known)
        self.fails = set(fails)

    def ask(self, history):
        self.asked.append(list(history))
        return next(iter(self.controller.ask(None, DIMS, history, 1, 11)), None)

    def run(self, workers=1, seconds=lambda piece: 1.0, at_most=10**9):
        """Until it is over, or so many outcomes were told. Returns the share of the workers' time that was idle."""
        now, busy, running, n = 0.0, 0.0, [], 0
        while not self.schedule.is_over and n < at_most:
            while len(running) < workers and (piece := self.schedule.next()) is not None:
                took = seconds(piece)
                busy += took
                heapq.heappush(running, (now + took, piece.number, piece))
            if not running:  # a controller that has no more
                assert self.schedule.is_over
                break
            now, _, piece = heapq.heappop(running)
            error = "it broke" if (piece.number, piece.until) in self.fails else ""
            self.schedule.tell(piece.number, None if error else losses(piece.values, piece.until), error)
            n += 1
        return 1 - busy / (workers * now) if now else 0.0


def unequal(seed):
    rng = random.Random(seed)
    return lambda piece: (piece.until - piece.since) * rng.choice([0.1, 1.0, 1.0, 7.0])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.sets(st.tuples(st.integers(0, 19), st.sampled_from([0.25, 0.5, 1.0]))),
)
def test_workers_and_durations_change_nothing(workers, window, seed, fails):
    one = World(window=window, fails=fails)
    one.run()
    many = World(window=window, fails=fails)
    many.run(workers, unequal(seed))
    assert many.schedule.trials == one.schedule.trials
    assert many.asked == one.asked
    assert len(one.schedule.trials) == 20
    assert {trial.state for trial in one.schedule.trials} <= {"complete", "pruned", "failed"}


def test_a_surrogate_answers_alike_for_any_number_of_workers():
    found = []
    for workers, seed in ((1, 0), (2, 1), (4, 2)):
        world = World(n=10, controller=Surrogate(SurrogateOptions(pool=64)))
        world.run(workers, unequal(seed))
        found.append(world.schedule.trials)
    assert found[0] == found[1] == found[2]


def test_a_controller_knows_what_ended_a_window_before_and_what_runs():
    world = World(n=9, window=3)
    world.run(2, unequal(4))
    for n, history in enumerate(world.asked):
        assert [trial.number for trial in history] == list(range(n))
        known = max(n - 2, 0)
        assert history[:known] == world.schedule.trials[:known]
        assert all(trial == Trial(trial.number, trial.values, None, "running") for trial in history[known:])


def test_a_trial_is_judged_by_lower_numbers_at_its_rung():
    seen = []

    class Spy(Halving):
        def go_on(self, rung, trial, others):
            seen.append((rung, trial, others))
            return super().go_on(rung, trial, others)

    world = World(n=12, window=4)
    world.schedule._stopper = Spy(HalvingOptions(rungs=list(RUNGS)))
    world.run(3, unequal(1))
    ended = world.schedule.trials
    for rung, trial, others in seen:
        assert [each.number for each in others] == list(range(trial.number))
        for each in others:
            if each.number <= trial.number - 4 or each.at(rung) is None:
                assert each == ended[each.number]
            else:
                assert (each.state, max(share for share, _ in each.curve)) == ("running", rung)
    states = [trial.state for trial in ended]
    assert states.count("pruned") >= 3
    for trial in ended:
        assert [share for share, _ in trial.curve][-1] == 1.0 or trial.state == "pruned"


@pytest.mark.parametrize(("workers", "window"), [(1, 1), (2, 2), (2, 4), (4, 4)])
def test_equal_trials_leave_nobody_idle(workers, window):
    assert World(n=16, window=window, rungs=()).run(workers) < 1e-9


def test_a_slow_trial_is_no_barrier():
    """One trial three times as long as the others: a generation of 4 would leave the other worker idle until it ends."""
    slow = World(n=16, window=4, rungs=()).run(2, lambda piece: 3.0 if piece.number == 4 else 1.0)
    assert slow < 1e-9


def test_a_trial_without_losses_at_a_rung_is_not_judged():
    world = World(n=3, rungs=(0.5,))
    for number in range(3):
        piece = world.schedule.next()
        world.schedule.tell(piece.number, None)
        assert world.schedule.trials[number].state == "running"
        assert world.schedule.next().until == 1.0
        world.schedule.tell(number, (1.0 + number, 0.0))
    assert [trial.state for trial in world.schedule.trials] == ["complete"] * 3


@pytest.mark.parametrize("without", [{0.25}, {0.5}, {0.25, 0.5}])
@pytest.mark.parametrize("cut", range(1, 10))
def test_cut_off_after_a_rung_without_losses_it_goes_on_to_the_same_end(without, cut):
    """It is asked again of such a rung where none follows that had some, and tells the same: no rung is there twice."""

    def run(world, at_most=10**9):
        asked = []
        while not world.schedule.is_over and len(asked) < at_most:
            piece = world.schedule.next()
            asked.append((piece.number, piece.until))
            at = None if piece.until in without else losses(piece.values, piece.until)
            world.schedule.tell(piece.number, at)
        return asked

    whole, cut_off = World(n=4), World(n=4)
    order = run(whole)
    known = run(cut_off, cut)
    again = World(n=4, known=cut_off.schedule.trials)
    rest = run(again)
    assert again.schedule.trials == whole.schedule.trials
    told = [each for each in known if each[1] not in without]
    assert not {*told} & {*rest}, "what had losses is not asked again"
    assert {*known, *rest} == {*order}
    for number, until in rest:
        assert all(until > at for other, at in told if other == number)


def test_a_controller_that_wants_to_be_told_first_is_asked_again():
    """It answers nothing while anything runs, and no more than 5 in all."""

    class Careful(Random):
        def ask(self, space, dims, history, n, seed):
            if len(history) == 5 or any(not trial.is_over for trial in history):
                return []
            return super().ask(space, dims, history, n, seed)

    found = []
    for workers in (1, 3):
        world = World(window=4, controller=Careful(NoOptions()))
        world.run(workers, unequal(workers))
        assert world.schedule.is_over
        found.append(world.schedule.trials)
    assert len(found[0]) == 5
    assert found[0] == found[1]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_controller_that_answered_nothing_is_asked_alike_after_a_stop(cut):
    """It waits until four have ended, and then says how many it knew."""

    class Late(Random):
        def ask(self, space, dims, history, n, seed):
            ended = sum(trial.is_over for trial in history)
            if len(history) == 5 and ended < 4:
                return []
            found = super().ask(space, dims, history, n, seed)
            return [replace(each, values={**each.values, "x": ended / 100}) for each in found]

    whole, cut_off = (World(n=10, rungs=(), controller=Late(NoOptions())) for _ in range(2))
    whole.run()
    cut_off.run(at_most=cut)
    again = World(n=10, rungs=(), controller=Late(NoOptions()), known=cut_off.schedule.trials)
    again.run()
    assert again.schedule.trials == whole.schedule.trials


@pytest.mark.parametrize("workers", [1, 3])
def test_cut_off_anywhere_it_goes_on_to_the_same_end(workers, tmp_path: Path):
    """What the log holds after each outcome is enough, paused trials included."""
    whole = World(n=10)
    whole.run()
    paused = 0
    for cut in range(1, 25):
        path = tmp_path / f"{cut}.journal"
        log = TrialLog(path, "k", BOARD)
        World(n=10, told=log.put).run(workers, unequal(cut), at_most=cut)
        known = TrialLog(path, "k", BOARD).read()
        paused += sum(trial.state == "paused" for trial in known)
        again = World(n=10, known=known)
        again.run(2, unequal(cut + 1))
        assert again.schedule.trials == whole.schedule.trials
    assert (paused > 0) == (workers > 1)


def test_done_counts_ended_trials_and_shares_of_the_others():
    world = World(n=4)
    assert world.schedule.done == 0
    world.run(at_most=1)
    assert world.schedule.done == 0.25
    world.run()
    assert world.schedule.done == 4


def test_asks_begin_nothing_twice():
    world = World(n=3)
    pieces = [world.schedule.next() for _ in range(4)]
    assert [each.number for each in pieces[:3]] == [0, 1, 2]
    assert pieces[3] is None


@pytest.mark.parametrize(
    ("rung", "epochs", "expected"),
    [(0.34, 3, 2), (0.34, 9, 4), (1 / 3, 9, 3), (0.34, 12, 5), (0.34, 30, 11), (0.1, 1, 1), (0.28, 25, 7)],
)
def test_a_rung_is_after_the_epoch_that_reaches_it(rung, epochs, expected):
    assert epochs_at(rung, epochs) == expected


@pytest.mark.parametrize("epochs", [1, 3, 7, 25, 49, 100, 300])
def test_a_rung_is_where_a_training_pauses(epochs):
    """`engine.phase` asks after each epoch whether the share that is trained reaches the rung."""
    for rung in (*(at / 100 for at in range(1, 101)), *(at / epochs for at in range(1, epochs + 1))):
        assert epochs_at(rung, epochs) == next(at for at in range(1, epochs + 1) if at / epochs >= rung)


def test_the_benchmark_of_rungs_judges_where_trials_are_judged():
    """By default after four of nine epochs."""
    curves = {(x,): [(0.5, 1.0)] * 9 for x in (0, 1)}
    table = multi_fidelity.Table(Path("table.csv"), {"x": (0, 1)}, curves, "latency_ms")
    run = multi_fidelity.scheduled(
        table, Halving(HalvingOptions()), multi_fidelity.in_order([(0,)], table), 1, add=False
    )
    assert [(each.epochs, each.complete) for each in run] == [(4, False), (5, True)]


def at_first_rung(said):
    schedule = Schedule(lambda history: Ask({"x": 0.5, "kind": "a"}), Saying(said), RUNGS, 1, 1, finish)
    piece = schedule.next()
    schedule.tell(piece.number, (0.5, 0.5))
    return schedule.trials[0].state


@pytest.mark.parametrize(
    ("said", "state"), [(True, "running"), (np.True_, "running"), (False, "pruned"), (np.False_, "pruned")]
)
def test_a_stopper_says_yes_or_no(said, state):
    assert at_first_rung(said) == state


@pytest.mark.parametrize("said", [None, "no", 1])
def test_what_a_stopper_says_beside_that_ends_no_trial(said):
    with pytest.raises(PluginError, match="`go_on` of the stopper gives"):
        at_first_rung(said)
