"""Any workers, any durations, any kill: one table of trials."""

from __future__ import annotations

import heapq
import importlib.util
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

if importlib.util.find_spec("nni") is None:
    pytest.skip("the extra nni is not installed", allow_module_level=True)

from kdsearch_plugins.nni_controller.controller import Nni, NniOptions

from kdsearch.builtin.stoppers import Halving, HalvingOptions
from kdsearch.kinds import Ask, Dim, Range, Trial
from kdsearch.search.schedule import Schedule

DIMS = (
    Dim("x", Range(low=0.0, high=1.0)),
    Dim("kind", Range(choices=("a", "b"))),
    Dim("n", Range(low=1, high=64, integer=True, log=True), when=(("kind", ("b",)),)),
)
RUNGS = (0.25, 0.5)
TUNERS = ("TPE", "Evolution", "Random", "GridSearch")
N = 24


def loss(piece) -> float:
    far = abs(piece.values["x"] - 0.7) + abs(piece.values.get("n", 30) - 8) / 64
    return far + 0.5 * (1 - piece.until)


def table(tuner: str, workers: int, seed: int, known: Sequence[Trial] = (), at_most: int = 10**9) -> list[Trial]:
    """The trials after `at_most` outcomes; pieces take as long as `seed` draws, and every ninth trial fails."""
    controller = Nni(NniOptions(tuner=tuner, n_startup=5, population=6))

    def ask(history: Sequence[Trial]) -> Ask | None:
        return next(iter(controller.ask(None, DIMS, history, 1, 11)), None)

    def finish(trial: Trial) -> Trial:
        return replace(trial, state="complete", losses=trial.at(1.0), violations=(-1.0,))

    schedule = Schedule(ask, Halving(HalvingOptions(rungs=list(RUNGS))), RUNGS, N, 4, finish, known=known)
    rng, now, running = random.Random(seed), 0.0, []
    while not schedule.is_over and at_most:
        while len(running) < workers and (piece := schedule.next()) is not None:
            heapq.heappush(running, (now + rng.choice([0.1, 1.0, 7.0]), piece.number, piece))
        now, number, piece = heapq.heappop(running)
        fails = number % 9 == 8
        schedule.tell(number, None if fails else (loss(piece),), "it broke" if fails else "")
        at_most -= 1
    return schedule.trials


@pytest.mark.parametrize("tuner", TUNERS)
def test_workers_and_durations_change_nothing(tuner: str) -> None:
    expected = table(tuner, workers=1, seed=0)
    assert len(expected) == N
    assert {trial.state for trial in expected} == {"complete", "pruned", "failed"}
    for workers, seed in ((2, 1), (4, 2), (4, 3)):
        assert table(tuner, workers, seed) == expected


@pytest.mark.parametrize("tuner", TUNERS)
def test_what_is_cut_off_goes_on_to_the_same_end(tuner: str) -> None:
    """A fresh process has the trials alone: nothing of the tuner's own."""
    expected = table(tuner, workers=2, seed=0)
    for cut in (1, 13, 30, 37):
        known = table(tuner, workers=4, seed=cut, at_most=cut)
        assert table(tuner, workers=2, seed=5, known=known) == expected
