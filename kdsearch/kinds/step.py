"""Step: one micro-batch as a method sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Generator, Tensor

from kdsearch.kinds.data import Batch
from kdsearch.kinds.model import Outputs

Write = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Clock:
    """Where training stands: `step` counts optimiser steps; progress in [0, 1) over the phase; epochs of the phase."""

    epoch: int
    step: int
    progress: float
    epochs: int


class Step(Protocol):
    """Not its work: optimisers, devices, the epoch loop."""

    @property
    def batch(self) -> Batch:
        """The first feed's batch, after the task's `prepare`."""
        ...

    @property
    def batches(self) -> Mapping[str, Batch]:
        """Every feed's batch by name."""
        ...

    @property
    def rng(self) -> Generator:
        """A CPU stream that is a function of (seed, phase, epoch, index of the micro-batch)."""
        ...

    def rng_of(self, sample: str) -> Generator:
        """A CPU stream that is a function of (seed, phase, epoch, the sample's id): the same in whatever batch the sample is."""

    @property
    def clock(self) -> Clock: ...
    @property
    def student(self) -> Outputs:
        """Output fields and requested taps; the forward pass runs at first use."""
        ...

    @property
    def teacher(self) -> Outputs:
        """The same of the teacher, as constants."""
        ...

    def run(
        self,
        role: str,
        batch: Batch | None = None,
        writes: Mapping[str, Write] | None = None,
        frozen_stats: bool = False,
    ) -> Outputs:
        """A role's outputs with graph, run once a micro-batch; first asked for under `no_grad`, once more where a graph is needed.

        Args:
            writes: tap -> function whose result replaces it.
            frozen_stats: its batch norms answer by their running statistics and take none from this pass.
        """

    def pair(self, student: str, teacher: str) -> Step:
        """The same step for another pair of roles."""

    def on(self, batch: Batch) -> Step:
        """The same step on replayed, generated or mixed data."""

    def task(self) -> Tensor:
        """The task's loss of the student on this batch, scalar."""

    def rows(self, tensor: Tensor, field: str = "logits") -> Tensor:
        """Logits (B, ...) of an output field as (N, K), labels at its positions as (N,): a row for each position that counts.

        The task says where the classes are (`Field.classes_at`) and which positions count (`Task.counted`).
        """

    def truth(self) -> Tensor | None:
        """(N,) the class of each of the rows of `logits`, HIDDEN where nobody knows it; None where the batch has no such target."""

    def log(self, name: str, value: Tensor | float) -> None:
        """A diagnostic that is no loss, a scalar: its mean over an epoch stands beside the losses, in JSON and page."""

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of all devices that run this step, one after another, constant. Alone: these rows."""
