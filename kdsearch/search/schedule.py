"""Which trial runs next, and how far: a function of trial numbers and outcomes alone, so that results do not depend on workers.

Trial n is asked for once every trial up to n - `window` has ended. The controller sees these as they ended, and the ones between
as `running`, however far they are by then: equal for one worker and for ten. A controller that answers nothing is asked again when
the next of them has ended.

At a rung, trial n is judged once every trial of a lower number has reached that rung or has ended. The stopper sees trials up to
n - `window` as they ended, and the others as they were at the rung. Until then the trial is `paused`: its worker takes another,
and the lowest number goes first, as it is the one that others wait for. So nobody waits at a barrier: of w workers none is idle
while a trial takes less than `window` / (w - 1) times as long as the others.

Source: successive halving without a barrier (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020), which
goes by who came first; here numbers stand in for the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from kdsearch.errors import PluginError
from kdsearch.kinds import Ask, Stopper, Trial
from kdsearch.kinds.options import Value

PLACE = "refine.stopper"  # where a study names what is asked here


def epochs_at(rung: float, epochs: int) -> int:
    """After how many of a trial's epochs it is at a rung: with the first that reaches this share of it, as training asks."""
    first = max(1, int(rung * epochs))  # the product may be rounded up: .28 * 25 is more than 7
    return first if first / epochs >= rung else first + 1


def rungs_of(stopper: Stopper[Any], epochs: int) -> list[float]:
    """Where a stopper judges trials of so many epochs: of several rungs in one epoch the last one, and none at the end.

    Raises:
        PluginError: `rungs` gives something else than increasing shares.
    """
    rungs: Any = stopper.rungs()
    shares: Sequence[Any] = rungs if isinstance(rungs, list | tuple) else (None,)
    is_right = all(isinstance(each, float) and 0 < each < 1 for each in shares)
    if not is_right or any(not a < b for a, b in pairwise(shares)):
        raise PluginError(
            f"`rungs` of the stopper gives {rungs!r}", path=PLACE, expected="increasing shares between 0 and 1"
        )
    at = {epochs_at(rung, epochs): rung for rung in shares}
    return [rung for after, rung in at.items() if after < epochs]


@dataclass(frozen=True)
class Piece:
    """A part of a trial to run: from the share `since` of its length to `until`."""

    number: int
    values: Mapping[str, Value]
    spec: Mapping[str, Any] | None
    since: float
    until: float


class Schedule:
    """Pieces of trials to run, and what follows from their outcomes.

    Args:
        ask: history -> the next candidate; None = no more, or not before more is known.
        rungs: increasing shares of a trial's length at which it is judged.
        n: trials in all. window: see above, at least 1.
        finish: a trial with its whole curve -> as it ended, `complete` or `failed`.
        told: called with each trial whose state changed.
        known: the trials of a schedule that was cut off: it goes on with them.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Trial]], Ask | None],
        stopper: Stopper[Any],
        rungs: Sequence[float],
        n: int,
        window: int,
        finish: Callable[[Trial], Trial],
        told: Callable[[Trial], None] = lambda trial: None,
        known: Sequence[Trial] = (),
    ) -> None:
        self._ask, self._stopper, self._rungs = ask, stopper, (*rungs, 1.0)
        self._n, self._window, self._finish, self._told = n, window, finish, told
        self._empty_handed = -1  # how many ended trials the controller knew when it last had nothing to ask
        self.trials: list[Trial] = [trial for i, trial in enumerate(known) if trial.number == i]
        self._passed = [self._passed_by(trial) for trial in self.trials]
        self._at_work: set[int] = set()
        self._ended = 0  # all trials of a lower number have ended: they never change again
        self._go_past_ended()
        self._judge()

    @property
    def is_over(self) -> bool:
        return self._ended == len(self.trials) and (len(self.trials) >= self._n or self._is_exhausted)

    @property
    def done(self) -> float:
        """Trials that ended, and the shares of those that did not."""
        shares, at = (0.0, *self._rungs), self._ended
        others = zip(self.trials[at:], self._passed[at:], strict=True)
        return at + sum(1.0 if trial.is_over else shares[passed] for trial, passed in others)

    def next(self) -> Piece | None:
        """What a free worker begins now; None = nothing before another outcome is told."""
        for trial in self.trials[self._ended :]:
            if trial.state == "running" and trial.number not in self._at_work:
                return self._begun(trial)
        return self._begun(self.trials[-1]) if self._asked() else None

    def tell(
        self,
        number: int,
        losses: Sequence[float] | None,
        error: str = "",
        over: tuple[str, float] | None = None,
    ) -> None:
        """The outcome of a trial's piece.

        Args:
            losses: the objectives at its end, though the trial may have been further before a stop; None where there are none yet.
            error: of a trial that failed, else "". over: the limit that it failed of, if it did.
        """
        self._at_work.discard(number)
        trial = self.trials[number]
        if error:
            self._change(replace(trial, state="failed", error=error, over=over))
        else:
            rung = self._rungs[self._passed[number]]
            if losses is not None:
                trial = replace(trial, curve=(*trial.curve, (rung, tuple(losses))))
            self._passed[number] += 1
            is_through = self._passed[number] == len(self._rungs)
            self._change(self._finish(trial) if is_through else replace(trial, state="paused"))
        self._judge()

    @property
    def _is_exhausted(self) -> bool:
        return self._empty_handed == len(self.trials)

    def _passed_by(self, trial: Trial) -> int:
        """Rungs up to the last one where it had losses: of those after it, where it had none, it is asked again."""
        return max((i for i, rung in enumerate(self._rungs, start=1) if trial.at(rung) is not None), default=0)

    def _begun(self, trial: Trial) -> Piece:
        self._at_work.add(trial.number)
        at = self._passed[trial.number]
        return Piece(trial.number, trial.values, trial.spec, (0.0, *self._rungs)[at], self._rungs[at])

    def _asked(self) -> bool:
        """Whether another trial begins: its candidate is asked for with the fewest ended trials that suffice."""
        n = len(self.trials)
        if n >= self._n or self._is_exhausted:
            return False
        for k in range(max(n - self._window + 1, self._empty_handed + 1, 0), self._ended + 1):
            running = [Trial(each.number, each.values, each.spec, "running") for each in self.trials[k:]]
            ask = self._ask([*self.trials[:k], *running])
            if ask is not None:
                self._empty_handed = -1
                self.trials.append(Trial(n, ask.values, ask.spec, "running"))
                self._passed.append(0)
                self._told(self.trials[-1])
                return True
            self._empty_handed = k
        return False

    def _judge(self) -> None:
        """Let those paused go on, or end them, whose lower numbers have all come as far."""
        for trial in self.trials[self._ended :]:
            if trial.state == "paused":
                at = self._passed[trial.number]
                before = self.trials[self._ended : trial.number]
                if all(each.is_over or self._passed[each.number] >= at for each in before):
                    goes_on = self._goes_on(trial, self._rungs[at - 1])
                    self._change(replace(trial, state="running" if goes_on else "pruned"))

    def _goes_on(self, trial: Trial, rung: float) -> bool:
        """A trial without losses at the rung is not judged."""
        if trial.at(rung) is None:
            return True
        known = max(trial.number - self._window + 1, 0)
        others = [each if each.number < known else self._as_at(each, rung) for each in self.trials[: trial.number]]
        goes_on: Any = self._stopper.go_on(rung, trial, others)
        if not isinstance(goes_on, bool | np.bool_):
            raise PluginError(
                f"`go_on` of the stopper gives {goes_on!r}",
                path=PLACE,
                expected="True, and the trial goes on, or False",
            )
        return bool(goes_on)

    def _as_at(self, trial: Trial, rung: float) -> Trial:
        """The trial when it had reached the rung; one that ended before is known to have ended."""
        if self._passed[trial.number] <= self._rungs.index(rung):
            return trial
        curve = tuple(point for point in trial.curve if point[0] <= rung)
        return Trial(trial.number, trial.values, trial.spec, "running", curve=curve)

    def _change(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self._go_past_ended()
        self._told(trial)

    def _go_past_ended(self) -> None:
        while self._ended < len(self.trials) and self.trials[self._ended].is_over:
            self._ended += 1
