"""Stoppers: who goes on at a rung. Ties go to the lower trial number; a trial whose loss is NaN never goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from pydantic import Field, field_validator

from kdsearch.kinds import NoOptions, Options, Stopper, Trial


class Rungs(Options):
    rungs: list[float] = Field([0.34], description="shares of a trial's whole length at which it is judged, increasing")

    @field_validator("rungs")
    @classmethod
    def _increasing(cls, value: list[float]) -> list[float]:
        if any(not 0 < each < 1 for each in value) or sorted(set(value)) != value:
            raise ValueError("increasing shares between 0 and 1")
        return value


class HalvingOptions(Rungs):
    keep: float = Field(0.5, gt=0, le=1, description="share of a generation that goes on at each rung, rounded up")


class Halving(Stopper[HalvingOptions]):
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016) within a generation."""

    def rungs(self) -> tuple[float, ...]:
        return tuple(self.options.rungs)

    def go_on(self, rung: float, losses: Mapping[int, float], history: Sequence[Trial]) -> set[int]:
        alive = sorted((loss, number) for number, loss in losses.items() if not math.isnan(loss))
        return {number for _, number in alive[: math.ceil(self.options.keep * len(losses))]}


class MedianOptions(Rungs):
    warmup: int = Field(4, ge=0, description="trials that must have reached a rung before it stops any")


class Median(Stopper[MedianOptions]):
    """Goes on unless the loss is above the median of all that reached this rung (Golovin et al., Vizier, KDD 2017)."""

    def rungs(self) -> tuple[float, ...]:
        return tuple(self.options.rungs)

    def go_on(self, rung: float, losses: Mapping[int, float], history: Sequence[Trial]) -> set[int]:
        had = [loss for trial in history for share, loss in trial.curve if math.isclose(share, rung)]
        alive = {number: loss for number, loss in losses.items() if not math.isnan(loss)}
        seen = [each for each in [*had, *alive.values()] if not math.isnan(each)]
        if len(seen) < self.options.warmup or not seen:
            return set(alive)
        bar = median(seen)
        return {number for number, loss in alive.items() if loss <= bar}


class Unstopped(Stopper[NoOptions]):
    """Every trial runs through."""

    def rungs(self) -> tuple[float, ...]:
        return ()

    def go_on(self, rung: float, losses: Mapping[int, float], history: Sequence[Trial]) -> set[int]:
        return {number for number, loss in losses.items() if not math.isnan(loss)}
