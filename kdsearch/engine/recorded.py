"""What is recorded of a phase: a row an epoch, and at its end what it knows of each group of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdsearch.engine.conduct import Conduct
from kdsearch.engine.feeds import in_order
from kdsearch.engine.forgetting import Classes, by_classes
from kdsearch.engine.of_classes import split_of
from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.step import LiveStep
from kdsearch.engine.steps import Steps
from kdsearch.engine.terms import with_prefix
from kdsearch.errors import PluginError, TrialError
from kdsearch.kinds import HIDDEN, Batch, Phase
from kdsearch.kinds.targets import unknown

TASK = "task"  # the term that is the task's own loss


def row_of(conduct: Conduct, phase: Phase, epoch: int, sums: Mapping[str, float]) -> dict[str, Any]:
    """Of one epoch, from its sums (`Position.sums`): means of loss, terms and what was logged, and the scores now.

    epoch: of the whole training, from 1.

    Raises:
        TrialError: a score is no finite number.
    """
    terms = {name: value / sums["batches"] for name, value in with_prefix(sums, "term:")}
    row: dict[str, Any] = {"phase": phase.name, "epoch": epoch, "loss": sums["loss"] / sums["batches"], "terms": terms}
    if logs := {name: total / sums[f"times:{name}"] for name, total in with_prefix(sums, "log:")}:
        row["logs"] = logs
    if phase.score and conduct.objective:
        scores = {role: _score(conduct, conduct.objective, role, epoch) for role in scored(phase)}
        first = scored(phase)[0]
        row["score"] = scores[first]
        row |= {"scores": scores} if len(scores) > 1 else {}
        beside = {name: _score(conduct, name, first, epoch) for name in conduct.beside}
        row |= {"beside": beside} if beside else {}
    return row


def _score(conduct: Conduct, metric: str, role: str, epoch: int) -> float:
    value = conduct.setup.score(metric, role)
    if not math.isfinite(value):
        raise TrialError(f"{metric} of '{role}' on validation is {value} after epoch {epoch}")
    return value


def scored(phase: Phase) -> list[str]:
    """The roles whose objective it records."""
    return [phase.score] if isinstance(phase.score, str) else list(phase.score)


def groups_of(
    conduct: Conduct, phase: Phase, learnt: Classes, before: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The objective by group of classes, on validation; None where the phase names no classes, or there is no objective.

    Args:
        learnt: classes of the phases so far, this one last. before: rows of the phases before.

    Raises:
        PluginError: no role is scored, or the objective knows no groups of classes.
    """
    if phase.classes is None or not conduct.objective:
        return None
    if not phase.score:
        raise PluginError(f"phase '{phase.name}' has `classes` and no `score`", expected="the role that learns them")
    name, setup = conduct.objective, conduct.setup
    found = setup.measured(name, scored(phase)[0], "val")
    of_classes = getattr(found, "of_classes", None)
    if of_classes is None:
        raise PluginError(
            f"metric '{name}' has no value of a group of classes, which phase '{phase.name}' asks for",
            expected="a metric whose Measurement has `of_classes`, such as accuracy or miou, as the first objective",
        )
    known = [row["classes"] for row in before if "classes" in row]
    return by_classes(of_classes, learnt, known, setup.metrics[name].direction)


def validation(steps: Steps, held: Mapping[str, nn.Module], epoch: int, scales: Mapping[str, float]) -> float:
    """Mean total of the phase's own step on the validation split, of the feed's classes, in eval mode; buffers stay as they are.

    The term `task` is a mean over known targets, every other one over samples, whatever the size of a batch.
    """
    for module in held.values():
        module.eval()
    buffers = [(buffer, buffer.clone()) for module in held.values() for buffer in module.buffers()]
    sums, counts = dict[tuple[int, str], float](), dict[tuple[int, str], int]()
    for index, batch in enumerate(in_order(split_of(steps.setup, steps.feed, "val"), steps.feed.batch_size)):

        def live(batch: Batch = batch, at: int = steps.lengths[epoch] + index) -> LiveStep:
            return steps.live(epoch, at, batch, progress=(epoch + 1) / steps.phase.epochs)

        step = live()
        known = _known(steps.setup, step)
        for at, terms in enumerate(_terms(steps, step, live, scales)):
            for name, value in terms:
                n = known if name == TASK else len(batch)
                sums[at, name] = sums.get((at, name), 0.0) + n * value
                counts[at, name] = counts.get((at, name), 0) + n
    for buffer, saved in buffers:
        buffer.copy_(saved)
    return sum(value / max(counts[each], 1) for each, value in sums.items())


def _known(setup: LiveSetup, step: LiveStep) -> int:
    """Known targets of a batch; all samples of a task without any."""
    if (truth := step.truth()) is not None:
        return int((truth != HIDDEN).sum())
    targets = [each.name for each in setup.task.targets(setup.data.fields) if each.name in step.batch]
    return sum(int((~unknown(step.batch[name])).sum()) for name in targets) if targets else len(step.batch)


def _terms(
    steps: Steps, step: LiveStep, again: Callable[[], LiveStep], scales: Mapping[str, float]
) -> list[Sequence[tuple[str, float]]]:
    """What each yield of the phase's step is summed of. A loss that differentiates inside is computed along a graph."""
    try:
        with torch.no_grad():
            return [turn.weighted for _, turn in steps.turns(step, scales)]
    except Exception as error:
        cause = error if isinstance(error, RuntimeError) else error.__cause__  # told with its distiller
        if not isinstance(cause, RuntimeError):
            raise
        with torch.enable_grad():
            return [turn.weighted for _, turn in steps.turns(again(), scales)]
