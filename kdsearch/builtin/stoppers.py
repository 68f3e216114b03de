"""Stoppers: whether a trial goes on at a rung. One whose objectives are not finite there never does.

Trials are compared by all objectives: one is behind those of better fronts, and in its own front behind those that are best in an
objective or add more to the hypervolume, the earlier ones of those that add as much. Of those that are equal in all objectives, as
few samples give them, none is stopped for another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, field_validator

from kdsearch.kinds import NoOptions, Options, Stopper, Trial
from kdsearch.kit.pareto import contributions, fronts


class Rungs(Options):
    rungs: list[float] = Field([0.34], description="shares of a trial's whole length at which it is judged, increasing")

    @field_validator("rungs")
    @classmethod
    def _increasing(cls, value: list[float]) -> list[float]:
        if any(not 0 < each < 1 for each in value) or sorted(set(value)) != value:
            raise ValueError("increasing shares between 0 and 1")
        return value


class HalvingOptions(Rungs):
    keep: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of all that reached a rung, itself included, among which a trial goes on; of several objectives one "
        "that none is better than in all goes on, too",
    )


class Halving(Stopper[HalvingOptions]):
    """Goes on in the best share of all that reached this rung before it and itself, rounded up; of several objectives also where
    none of these is better: a search that goes along a front would lose it, half at each rung.

    Sources: successive halving without waiting (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020,
    algorithm 2), the order of numbers in place of that of time; of several objectives, fronts ordered by hypervolume
    contribution (Emmerich, Beume and Naujoks, SMS-EMOA, EMO 2005).
    """

    def rungs(self) -> tuple[float, ...]:
        return tuple(self.options.rungs)

    def go_on(self, rung: float, trial: Trial, others: Sequence[Trial]) -> bool:
        own, had = reached(rung, trial, others)
        places = math.ceil(round(self.options.keep * (1 + len(had)), 9))  # .28 * 25 is a little more than 7
        return all(map(math.isfinite, own)) and behind(own, had) < places


class MedianOptions(Rungs):
    warmup: int = Field(4, ge=0, description="trials that must have reached a rung before it stops any")


class Median(Stopper[MedianOptions]):
    """Goes on unless more than half of all that reached this rung before are of a better front (Golovin et al., Vizier, KDD 2017).

    Of one objective: unless its loss is above the median of these and its own.
    """

    def rungs(self) -> tuple[float, ...]:
        return tuple(self.options.rungs)

    def go_on(self, rung: float, trial: Trial, others: Sequence[Trial]) -> bool:
        own, had = reached(rung, trial, others)
        if not all(map(math.isfinite, own)):
            return False
        return len(had) + 1 < self.options.warmup or len(better(own, had)[0]) <= len(had) / 2


class Unstopped(Stopper[NoOptions]):
    """Every trial runs through."""

    def rungs(self) -> tuple[float, ...]:
        return ()

    def go_on(self, rung: float, trial: Trial, others: Sequence[Trial]) -> bool:
        return all(map(math.isfinite, trial.at(rung) or ()))


def reached(rung: float, trial: Trial, others: Sequence[Trial]) -> tuple[tuple[float, ...], list[tuple[float, ...]]]:
    """The trial's objectives at the rung, and those of the others that have finite ones there."""
    had = [losses for each in others if (losses := each.at(rung)) is not None and all(map(math.isfinite, losses))]
    return trial.at(rung) or (), had


def behind(own: tuple[float, ...], had: Sequence[tuple[float, ...]]) -> int:
    """How many of those that came before are of a better front, or, of several objectives, before it in its own; no equal one.

    None, where it is in the first front of several objectives.
    """
    had = [losses for losses in had if losses != own]
    ahead, mates = better(own, had)
    if len(own) < 2 or not ahead:
        return len(ahead)
    front = [*(had[i] for i in mates), own]
    ends = [any(each[k] == min(losses[k] for losses in front) for k in range(len(own))) for each in front]
    added = contributions(front, box=[*had, own])
    places = [(not is_end, -share, i) for i, (is_end, share) in enumerate(zip(ends, added, strict=True))]
    return len(ahead) + sum(place < places[-1] for place in places)


def better(own: tuple[float, ...], had: Sequence[tuple[float, ...]]) -> tuple[list[int], list[int]]:
    """Indices of those of better fronts than the own one, and of those in its front."""
    ahead: list[int] = []
    for members in fronts([*had, own]):
        if len(had) in members:
            return ahead, members[:-1]
        ahead += members
    raise AssertionError("each is in a front")
