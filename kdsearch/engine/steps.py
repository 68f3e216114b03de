"""The steps of a phase: which samples are in them, what a method sees of them, and the turns that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from kdsearch.engine.conduct import Conduct
from kdsearch.engine.feeds import Endless, lengths_of, loaded, order_of
from kdsearch.engine.of_classes import split_of
from kdsearch.engine.spoilt import check_samples
from kdsearch.engine.step import Cast, LiveStep
from kdsearch.engine.terms import Turn, summed
from kdsearch.errors import PluginError, TrialError, nearest, one_of
from kdsearch.kinds import Clock, Phase, Task, Update
from kdsearch.kinds.data import Batch
from kdsearch.store.hashing import derive, stream

END = object()  # of what a step yields


class Steps:
    """Those of one phase: a function of (seed, phase, epoch, index), whatever ran before.

    `lengths`: micro-batches of each epoch; `steps_before`: optimiser steps before each, the last entry all of them.
    """

    def __init__(self, conduct: Conduct, phase: Phase) -> None:
        self.conduct, self.phase, self.setup = conduct, phase, conduct.setup
        self.device = conduct.device
        self.weights = {**self.setup.weights, **phase.weights}
        self.first = next(iter(phase.feeds))
        self.feed = phase.feeds[self.first]
        self.seed = derive(self.setup.seed, phase.name)
        self.split = split_of(self.setup, self.feed)
        self.others = {
            name: Endless(feed, name, split_of(self.setup, feed), self.seed)
            for name, feed in phase.feeds.items()
            if name != self.first
        }
        self.cast = Cast(
            self.setup.task, self.setup.io, self.setup.models, self.setup.teachers, self._taps(), self.device.torch
        )
        self.lengths = lengths_of(self.feed, self.first, self.split.ids, phase.epochs, self.seed)
        self.batches_before = [0, *accumulate(self.lengths)]
        self.steps_before = [0, *accumulate(-(-length // self.device.accumulate) for length in self.lengths)]

    def _taps(self) -> dict[str, list[str]]:
        """What the phase and the distillers read, by role."""
        setup = self.setup
        known = {**setup.models, **setup.teachers}
        for role in self.phase.taps:
            if role not in known:
                raise PluginError(
                    f"phase '{self.phase.name}' reads taps of '{role}'",
                    nearest=nearest(role, known),
                    expected=one_of(known),
                )
        taps = {role: list(names) for role, names in self.phase.taps.items()}
        for name, distiller in setup.distillers.items():
            for role, names in distiller.taps().items():
                target = setup.teacher_of.get(name, "teacher") if role == "teacher" else role
                taps.setdefault(target, []).extend(names)
        return taps

    def order(self, epoch: int) -> list[list[int]]:
        """Index lists of an epoch, one a micro-batch."""
        return order_of(self.feed, self.first, self.split.ids, epoch, self.seed)

    def batches(self, epoch: int, orders: list[list[int]], workers: int = 0) -> Iterator[Batch]:
        """The first feed's batches at these index lists, as this epoch augments them."""
        seed = derive(self.setup.seed, self.phase.name, "augment", epoch)
        return loaded(self.split, orders, self.feed.augment, seed, workers)

    def live(self, epoch: int, index: int, batch: Batch, progress: float | None = None) -> LiveStep:
        """What a method sees of the micro-batch at `index` of an epoch. It seeds the global generators."""
        phase, setup = self.phase, self.setup
        self.conduct.seed(phase.name, epoch, index, 0)
        rng = stream(setup.seed, phase.name, epoch, index, "step")
        position = self.batches_before[epoch] + index
        raw = {self.first: batch} | {name: feed.at(position) for name, feed in self.others.items()}
        placed = {name: each.to(self.device.torch) for name, each in raw.items()}
        ready = {name: setup.task.prepare(each, rng) for name, each in placed.items()}
        step = self.steps_before[epoch] + index // self.device.accumulate
        clock = Clock(epoch, step, step / self.steps_before[-1] if progress is None else progress, phase.epochs)
        cached = not (self.feed.augment and setup.augment) and self._unchanged(placed[self.first], ready[self.first])
        seed = derive(setup.seed, phase.name, epoch, index, "view")
        by_sample = derive(setup.seed, phase.name, epoch, "sample")
        return LiveStep(
            self.cast, ready, ready[self.first], rng, clock, cached, seed=seed, by_sample=by_sample, loaded=raw
        )

    def turns(self, step: LiveStep, scales: Mapping[str, float]) -> Iterator[tuple[tuple[Update, ...], Turn]]:
        """Each yield of the phase's step. Autocast ends with every turn: it keeps casts of weights that then move.

        Raises:
            TrialError: a term is not finite. DataError: because of a number that a sample holds.
        """
        turns = iter(self.phase.step(step))
        while True:
            with self.conduct.precision.autocast():
                yielded: Any = next(turns, END)
                if yielded is END:
                    return
                together = yielded if isinstance(yielded, tuple) else (yielded,)
                if not all(isinstance(each, Update) for each in together):
                    problem = f"the step of phase '{self.phase.name}' yields a {type(yielded).__name__}"
                    raise PluginError(problem, expected="a kdsearch.kinds.Update, or a tuple of them")
                turn = self._summed(step, together, scales)
            yield together, turn

    def _summed(self, step: LiveStep, together: tuple[Update, ...], scales: Mapping[str, float]) -> Turn:
        try:
            return summed(together, self.weights, scales, step.clock, self.phase.name)
        except TrialError:
            check_samples(self.setup, [(step.loaded[name], given) for name, given in step.batches.items()])
            raise

    def _unchanged(self, raw: Batch, ready: Batch) -> bool:
        """Whether the task's `prepare` left what a teacher reads alone, so that its stored rows are of this batch.

        A field that is added is read by none but a task that calls models in its own way, or a teacher's view.
        """
        if raw is ready:
            return True
        own = type(self.setup.task).call is not Task.call
        if own or any(live.view is not None for live in self.setup.teachers.values()):
            pairs = (raw.tensors, ready.tensors), (raw.lists, ready.lists), (raw.texts, ready.texts)
            if any(before.keys() != after.keys() for before, after in pairs):
                return False
        return all(ready.tensors.get(name) is tensor for name, tensor in raw.tensors.items())
