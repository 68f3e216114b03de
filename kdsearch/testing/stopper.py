"""What every stopper keeps. A test class inherits `StopperContract` and says how to make one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from kdsearch.kinds import Stopper, Trial
from kdsearch.testing.contract import require


class StopperContract:
    """Set `stopper`."""

    def stopper(self) -> Stopper[Any]:
        raise NotImplementedError

    def others(self, rung: float, n: int, n_losses: int) -> list[Trial]:
        """Random trials in every state, some of which never reached the rung."""
        rng = torch.Generator().manual_seed(7)
        states = ("complete", "pruned", "failed", "running")
        found = []
        for number in range(n):
            losses = tuple(torch.rand(n_losses, generator=rng).tolist())
            curve = () if number % 5 == 4 else ((rung, losses),)
            state = states[min(number % 7, 3)]
            found.append(Trial(number, {"x": number}, state=state, curve=curve))  # type: ignore[arg-type]
        return found

    def goes_on(self, losses: Sequence[float], n: int = 12) -> list[bool]:
        """What it says of a trial with these losses at each of its rungs, among n others."""
        stopper = self.stopper()
        return [
            stopper.go_on(
                rung, Trial(n, {}, None, "paused", curve=((rung, tuple(losses)),)), self.others(rung, n, len(losses))
            )
            for rung in stopper.rungs()
        ]

    def test_rungs_increase_within_a_trial(self) -> None:
        rungs = self.stopper().rungs()
        require(
            all(0 < rung < 1 for rung in rungs), f"rungs {list(rungs)}: expected shares of a trial, between 0 and 1"
        )
        require(sorted(set(rungs)) == list(rungs), f"rungs {list(rungs)} do not increase")

    def test_equal_arguments_equal_answer(self) -> None:
        for losses in ((0.5,), (0.4, 0.6), (0.2, 0.9, 0.5)):
            require(
                self.goes_on(losses) == self.goes_on(losses), f"losses {losses}: asked twice, it answers differently"
            )

    def test_what_is_no_number_never_goes_on(self) -> None:
        for losses in ((math.nan,), (math.inf,), (0.1, math.nan), (-math.inf, 0.1)):
            require(not any(self.goes_on(losses)), f"a trial whose losses are {losses} goes on")

    def test_the_first_and_the_best_of_all_go_on(self) -> None:
        for n_losses in (1, 2, 3):
            require(
                all(self.goes_on((0.5,) * n_losses, n=0)), f"with {n_losses} objectives, the first trial is stopped"
            )
            require(all(self.goes_on((-1.0,) * n_losses)), f"with {n_losses} objectives, the best of all is stopped")

    def test_better_objectives_never_end_a_trial(self) -> None:
        for n_losses in (1, 2, 3):
            said = [self.goes_on((step / 20,) * n_losses) for step in range(21)]
            for better, worse in pairwise(said):
                holds = all(b or not w for b, w in zip(better, worse, strict=True))
                require(holds, f"with {n_losses} objectives, a trial is stopped where one that is worse goes on")
