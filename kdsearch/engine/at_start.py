"""What is measured on a phase's first batches before it moves anything: the terms' sizes, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from kdsearch.engine.checkpoint import collect, restore
from kdsearch.engine.gradients import TermGradients, gradients_of, measured, scales_of
from kdsearch.engine.step import LiveStep
from kdsearch.engine.steps import Steps

NORMALIZE_BATCHES = 8


def scales(steps: Steps, held: Mapping[str, nn.Module]) -> dict[str, float]:
    """|task| / |term| over the first batches, everything restored afterwards; a term that is 0 keeps scale 1."""
    batches = 0
    sums: dict[str, float] = {}
    for step in _first_steps(steps, held, NORMALIZE_BATCHES):
        batches += 1
        for _, turn in steps.turns(step, {}):
            for name, number in turn.terms:
                sums[name] = sums.get(name, 0.0) + number
    return scales_of({name: total / batches for name, total in sums.items()})


def gradients(
    steps: Steps, held: Mapping[str, nn.Module], parameters: Sequence[nn.Parameter], batches: int
) -> TermGradients:
    """Of every term on the first batches, with respect to the parameters."""

    def terms(step: LiveStep) -> dict[str, tuple[float, list[Tensor]]]:
        found = {}
        for together, _ in steps.turns(step, {}):
            for name, value in (pair for update in together for pair in update.terms.items()):
                found[name] = (float(value.detach()), gradients_of(value, parameters))
        return found

    return measured(terms(step) for step in _first_steps(steps, held, batches))


def _first_steps(steps: Steps, held: Mapping[str, nn.Module], batches: int) -> Iterator[LiveStep]:
    """Steps on the first batches of the phase; once they are taken, everything is as it was before."""
    before = collect(held, {})
    for index, batch in enumerate(steps.batches(0, steps.order(0)[:batches])):
        yield steps.live(0, index, batch)
    restore(before, held, {}, Path(steps.phase.name))
