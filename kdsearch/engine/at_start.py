"""What is measured on a phase's first batches before it moves anything: the terms' sizes, and their gradients."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor, nn

from kdsearch.engine.checkpoint import collect, restore
from kdsearch.engine.gradients import TermGradients, gradients_of, means_of, measured, scales_of
from kdsearch.engine.step import LiveStep
from kdsearch.engine.steps import Steps

NORMALIZE_BATCHES = 8
SEEKING_BATCHES = 10 * NORMALIZE_BATCHES


def scales(steps: Steps, held: Mapping[str, nn.Module]) -> dict[str, float]:
    """|task| / |term| over the first batches, everything restored afterwards; a term that is 0 keeps scale 1.

    Where labels are so few that none of them shows one, the batches until the first that does count, too.
    """
    batches: list[dict[str, float]] = []
    most = SEEKING_BATCHES if "labeled" in steps.setup.data.splits else NORMALIZE_BATCHES
    with closing(_first_steps(steps, held, most)) as first:
        for step in first:
            batches.append({})
            for _, turn in steps.turns(step, {}):
                for name, number in turn.terms:
                    batches[-1][name] = batches[-1].get(name, 0.0) + number
            if len(batches) >= NORMALIZE_BATCHES and any(batch.get("task", 1.0) for batch in batches):
                break
    means = means_of(batches)
    found = scales_of(means)
    for name, value in means.items():
        if value and name != "task" and found[name] == 1.0 and abs(value) < abs(means.get("task", 0.0)):
            steps.setup.note(
                f"Term '{name}' is {value:.1g} at first, all but 0: its weight counts as it is, not in units of the task's loss."
            )
    return found


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


def _first_steps(steps: Steps, held: Mapping[str, nn.Module], batches: int) -> Generator[LiveStep]:
    """Steps on the first batches of the phase; once it is closed, everything is as it was before."""
    before = collect(held, {})
    try:
        for index, batch in enumerate(steps.batches(0, steps.order(0)[:batches])):
            yield steps.live(0, index, batch)
    finally:
        restore(before, held, {}, Path(steps.phase.name))
