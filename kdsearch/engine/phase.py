"""One phase from its position to its end: passes, steps, turns, what follows a step and an epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdsearch.engine import at_start
from kdsearch.engine.averages import as_shipped, follow
from kdsearch.engine.checkpoint import Position, collect, read_checkpoint, rest_of, restore, write_checkpoint
from kdsearch.engine.conduct import Conduct
from kdsearch.engine.feeds import Micro, micro_batches
from kdsearch.engine.forgetting import Classes
from kdsearch.engine.gradients import TermGradients
from kdsearch.engine.modes import freeze_all_but, set_modes
from kdsearch.engine.optim import Bound, factor_at
from kdsearch.engine.ranks import SharedBuffers
from kdsearch.engine.recorded import groups_of, row_of, validation
from kdsearch.engine.step import LiveStep
from kdsearch.engine.steps import Steps
from kdsearch.engine.terms import Turn, logged
from kdsearch.errors import ArtifactError, InterruptedRun, PluginError, TrialError, nearest, one_of
from kdsearch.kinds import Clock, Phase, Update
from kdsearch.kinds.data import Batch
from kdsearch.store.hashing import tensor_digest

# Of a micro-batch: its terms' values by name, their weighted sum, and what was logged by name.
Taken = tuple[list[tuple[str, float]], float, list[tuple[str, float]]]


class PhaseRun:
    """One phase of a training.

    Args:
        held: everything whose state a checkpoint carries, by name.
        file: the phase's checkpoint.
        at: where it stands; changed as it goes on.
        past: epochs of the phases before.
        start: digests of what no optimiser moves, as the phase found it: a checkpoint leaves out what is still so.
        before: rows of the phases before. learnt: classes of those among them that have some, by phase.
    """

    def __init__(
        self,
        conduct: Conduct,
        phase: Phase,
        optims: Mapping[str, Bound],
        held: Mapping[str, nn.Module],
        file: Path,
        at: Position,
        past: int,
        start: Mapping[str, str] | None = None,
        before: Sequence[Mapping[str, Any]] = (),
        learnt: Classes | None = None,
    ) -> None:
        self.conduct, self.phase, self.optims, self.held, self.file, self.at = conduct, phase, optims, held, file, at
        self.setup, self.device, self.ranks, self.past = conduct.setup, conduct.device, conduct.ranks, past
        self.buffers = SharedBuffers(self.ranks, [model.module for model in self.setup.models.values()])
        self.moved = {id(parameter) for bound in optims.values() for parameter in bound.parameters.values()}
        self.steps = Steps(conduct, phase)
        self.start, self.before, self.learnt = start or {}, before, dict(learnt or {})
        self.named: dict[str, None] = {}  # optimisers that have been given gradients since weights moved
        self.written = time.monotonic()

    def train(self) -> Position:
        """To the phase's end, or to the epoch at which the training is to pause."""
        phase, at = self.phase, self.at
        for epoch in range(at.epoch, phase.epochs):
            if self._pauses():
                self._write()
                return at
            if epoch == at.epoch and not at.prepared:
                self._prepare()
            self._epoch(epoch)
            self._end_epoch(epoch)
        if phase.keep == "best" and phase.epochs and self.setup.enforce is None:  # early weights lack zeros
            self._take_best()
        self._check_weights()
        self._judge_classes()
        at.done = True
        self._write()
        self._all_eval()
        return at

    def _pauses(self) -> bool:
        """Whether enough epochs are trained for now, also when asked again after a pause."""
        trained, until = self.past + self.at.epoch, self.conduct.until
        return until < 1.0 and trained > 0 and trained / max(self.setup.epochs, 1) >= until

    def _prepare(self) -> None:
        self._modes()
        if self.phase.normalize:
            self.at.scales = self.ranks.first(lambda: at_start.scales(self.steps, self.held))
        self.at.prepared = True

    def _modes(self) -> None:
        freeze_all_but(self.held, self.moved)
        set_modes(self.phase, self.held, self.moved)

    def _all_eval(self) -> None:
        for module in self.held.values():
            module.eval()

    def _epoch(self, epoch: int) -> None:
        self._modes()
        at, ranks = self.at, self.ranks
        orders = self.steps.order(epoch)
        micros = micro_batches(at.index, len(orders), self.device.accumulate, ranks.rank, ranks.world)
        batches = self.steps.batches(epoch, [orders[micro.index] for micro in micros], self.device.workers)
        taken: list[Taken | None] = []
        for micro, batch in zip(micros, batches, strict=True):
            taken.append(self._step(epoch, micro, batch))
            if micro.last:
                at.index, at.step = micro.begin + micro.group, at.step + 1
                self._account(taken)
                taken = []

    def _account(self, taken: Sequence[Taken | None]) -> None:
        """Sum what the micro-batches of all ranks gave, in their order; then stop, or write a checkpoint, all at once."""
        is_due = time.monotonic() - self.written >= self.device.checkpoint_s
        told = self.ranks.told({"taken": taken, "stop": self.conduct.stop(), "write": is_due})
        sums, total = self.at.sums, 0.0
        for each in (each["taken"][nth] for nth in range(len(taken)) for each in told):
            if each is None:
                continue
            terms, total, logs = each
            named = [(f"term:{name}", number) for name, number in terms]
            for name, number in logs:
                named += [(f"log:{name}", number), (f"times:{name}", 1.0)]
            for name, number in (*named, ("loss", total), ("batches", 1.0)):
                sums[name] = sums.get(name, 0.0) + number
        self.conduct.report.step(self.phase.name, self.at.step, self.steps.steps_before[-1], total)
        if any(each["stop"] for each in told):
            self._write()
            raise InterruptedRun("stopped after a checkpoint")
        if told[0]["write"]:
            self._write()

    def _step(self, epoch: int, micro: Micro, batch: Batch) -> Taken | None:
        """Run a micro-batch; with a step's last one, move. Returns what it gave, None where it does not count."""
        step = self.steps.live(epoch, micro.index, batch)
        if self.ranks.world > 1:
            step.gathered = lambda rows: self.ranks.gather(rows, micro.counting)
        if micro.first:
            for bound in self.optims.values():
                bound.torch.zero_grad(set_to_none=True)
                bound.set_rates(step.clock.progress)
        terms: list[tuple[str, float]] = []
        total = 0.0
        for nth, (together, turn) in enumerate(self.steps.turns(step, self.at.scales)):
            if nth and self.device.accumulate > self.ranks.world:
                expected = f"recipe.train.accumulate: {self.ranks.world}"
                raise PluginError(f"phase '{self.phase.name}' takes turns", expected=expected)
            if micro.counts:
                self._backward(together, turn, micro.group)
            self.named |= dict.fromkeys(name for update in together for name in self._names(update))
            if micro.last:
                self._move(step)
            terms += turn.terms
            total += turn.total
        while micro.last and self._move(step, done=True):
            pass  # other ranks take turns that this one's batch has none of
        if micro.last:
            self.buffers.settle()
            self._end_step(step)
        return (terms, total, logged(step.logs)) if micro.counts else None

    def _move(self, step: LiveStep, done: bool = False) -> bool:
        """Move what any rank's turns since the last move are of. `done`: no turn is left here. Returns whether one is elsewhere."""
        told = self.ranks.told([list(self.named), done])
        self.named = {}
        if named := dict.fromkeys(name for names, _ in told for name in names):
            bounds = [self.optims[name] for name in named]
            self.ranks.add_gradients(bounds)
            self.conduct.precision.move(bounds)
            step.forget()
        return not all(each for _, each in told)

    def _backward(self, together: Sequence[Update], turn: Turn, group: int) -> None:
        """Gradients of each update reach the parameters of its own optimisers only.

        Raises:
            PluginError: something in the step has switched gradients off: nothing would be learnt, and nothing said.
        """
        if not torch.is_grad_enabled():
            torch.set_grad_enabled(True)  # for whoever comes next
            problem = "something in this step has switched gradients off, and not on again"
            raise PluginError(
                problem, path="recipe", fix="Use `with torch.no_grad():`, not `torch.set_grad_enabled(False)`."
            )
        for number, (update, loss) in enumerate(zip(together, turn.losses, strict=True)):
            parameters = [p for name in self._names(update) for p in self.optims[name].parameters.values()]
            if loss.requires_grad:
                retain = number < len(together) - 1
                scaled = loss if group == 1 else loss / group
                self.conduct.precision.backward(scaled, parameters, retain)

    def _names(self, update: Update) -> list[str]:
        if update.train is None:
            return list(self.optims)
        named = [update.train] if isinstance(update.train, str) else list(update.train)
        for name in named:
            if name not in self.optims:
                raise PluginError(
                    f"phase '{self.phase.name}' has no optimiser '{name}'",
                    nearest=nearest(name, self.optims),
                    expected=one_of(self.optims),
                )
        return named

    def _end_step(self, step: LiveStep) -> None:
        self._enforce((step.clock.step + 1) / self.steps.steps_before[-1] * self.phase.epochs)
        for ema in self.phase.ema:
            follow(ema, factor_at(ema.decay, step.clock.progress))
        for distiller in self.setup.distillers.values():
            distiller.on_step_end(step)

    def _enforce(self, epochs: float) -> None:
        """What a compressor demands of the weights after so many epochs of this phase."""
        if self.setup.enforce is not None:
            self.setup.enforce(min(1.0, (self.past + epochs) / max(self.setup.epochs, 1)))

    def _end_epoch(self, epoch: int) -> None:
        at, phase = self.at, self.phase
        self.conduct.seed(phase.name, epoch, "end")
        clock = Clock(epoch + 1, at.step, (epoch + 1) / phase.epochs, phase.epochs)
        for distiller in self.setup.distillers.values():
            distiller.on_epoch_end(clock)
        if phase.on_epoch_end is not None:
            phase.on_epoch_end(clock)
        row = self.ranks.first(lambda: self._row(epoch))
        if "validation" in row:
            at.best = row["validation"] if at.best is None else min(at.best, row["validation"])
        self.ranks.check_equal(self.held)
        at.history.append(row)
        at.epoch, at.index, at.sums = epoch + 1, 0, {}
        self.conduct.report.epoch(row)

    def _row(self, epoch: int) -> dict[str, Any]:
        """What the first rank records of an epoch; it keeps the weights of the best one."""
        at = self.at
        with as_shipped(self.phase.ema, lambda: self._enforce(epoch + 1)):
            row = row_of(self.conduct, self.phase, self.past + epoch + 1, at.sums)
            if self.phase.keep == "best":
                row["validation"] = validation(self.steps, self.held, epoch, at.scales)
        if "validation" in row and (at.best is None or row["validation"] < at.best):
            position = Position(owner=at.owner, epoch=epoch + 1)
            write_checkpoint(self._best_file(), collect(self.held, {}), position)
        return row

    def _judge_classes(self) -> None:
        """The last row says what is known of each group of classes, where the phase names one."""
        if self.phase.classes is None or not self.at.history:
            return
        learnt = {**self.learnt, self.phase.name: self.phase.classes}
        with as_shipped(self.phase.ema, lambda: self._enforce(self.phase.epochs)):
            found = self.ranks.first(lambda: groups_of(self.conduct, self.phase, learnt, self.before))
        if found is not None:
            self.at.history[-1]["classes"] = found

    def _best_file(self) -> Path:
        return self.file.with_suffix(".best.safetensors")

    def _take_best(self) -> None:
        file = self._best_file()
        saved = read_checkpoint(file)
        if saved is None or saved[1].owner != self.at.owner:
            raise ArtifactError(
                "the best epoch's weights are gone",
                file=file,
                fix=f"Delete {self.file.name} too; the phase starts anew.",
            )
        restore(saved[0], self.held, {}, file)

    def gradients(self, batches: int) -> TermGradients | None:
        """Of every term on the first batches, with respect to the parameters of the study's models that this phase moves.

        None where it moves none.
        """
        self._modes()
        mine = [p for model in self.setup.models.values() for p in model.module.parameters() if id(p) in self.moved]
        return at_start.gradients(self.steps, self.held, mine, batches) if mine else None

    def _check_weights(self) -> None:
        """The last step's weights have met no term that would have told, nor have statistics: what is divided by infinity is 0."""
        for bound in self.optims.values():
            for name, parameter in bound.parameters.items():
                if not bool(torch.isfinite(parameter).all()):
                    raise TrialError(
                        f"weight '{name}' is not finite after phase '{self.phase.name}'", fix="Lower the learning rate."
                    )
        for role, model in self.setup.models.items():
            saved = model.module.state_dict()
            for name, buffer in model.module.named_buffers():
                if name not in saved or not buffer.is_floating_point() or bool(torch.isfinite(buffer).all()):
                    continue
                if self.start.get(f"role:{role}/{name}") != tensor_digest(buffer):  # a mask of -inf is as it was
                    raise TrialError(
                        f"buffer '{role}.{name}' is not finite after phase '{self.phase.name}'",
                        fix="Lower the learning rate.",
                    )

    def _write(self) -> None:
        if self.ranks.is_first:
            self.at.scaler, self.at.notes = self.conduct.precision.state(), list(self.setup.notes)
            tensors = collect(self.held, {} if self.at.done else self.optims, self.start)
            self.at.rest = rest_of(tensors, self.start)
            write_checkpoint(self.file, tensors, self.at)
        self.written = time.monotonic()
