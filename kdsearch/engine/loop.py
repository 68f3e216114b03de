"""The one training loop. A method never drives: it answers questions, this drives.

Everything random is a function of (seed, phase, epoch, index, use), so a training that was killed goes on from its last
checkpoint to a bit-equal end. A checkpoint lies between two optimiser steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.engine.checkpoint import Position, collect, read_checkpoint, restore, write_checkpoint
from kdsearch.engine.feeds import Endless, in_order, loaded, order_of
from kdsearch.engine.optim import Bound, bind, factor_at
from kdsearch.engine.setup import LiveSetup
from kdsearch.engine.step import Cast, LiveStep
from kdsearch.errors import ArtifactError, InterruptedRun, PluginError, TrialError
from kdsearch.kinds import Clock, Phase, Procedure, Update
from kdsearch.kinds.data import Batch
from kdsearch.store.hashing import derive, stream

NORMALIZE_BATCHES = 8


@dataclass(frozen=True)
class Device:
    """Where and how training computes."""

    accelerator: str = "cpu"  # cpu or cuda
    precision: str = "fp32"  # fp32, bf16 or fp16 (autocast)
    accumulate: int = 1
    workers: int = 0
    checkpoint_s: float = 30.0

    @property
    def torch(self) -> torch.device:
        return torch.device(self.accelerator)


def resolve_device(name: str) -> str:
    """auto -> cuda where there is one. Raise PluginError for cuda where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise PluginError("device 'cuda'", path="run.device", expected="cpu or auto: torch sees no CUDA device here")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


@dataclass
class Report:
    """Progress that a person sees: called after every optimiser step and at every epoch's end."""

    step: Callable[[str, int, int, float], None] = lambda phase, at, of, loss: None
    epoch: Callable[[Mapping[str, Any]], None] = lambda row: None


@dataclass(frozen=True)
class Trained:
    """How a training ended: rows of its epochs, and whether it is through or waits at a rung."""

    history: list[dict[str, Any]]
    done: bool


@dataclass
class Training:
    """One training of a procedure in a folder of its own.

    Args:
        owner: hash of what the training is made from; a checkpoint of another one is refused.
        until: pause at the end of the epoch at which this share of the recipe's length is reached.
        stop: asked after every step; True = checkpoint and raise InterruptedRun.
        seen_by: metric recorded each epoch on validation for a phase with `score`; "" = none.
    """

    procedure: Procedure[Any]
    setup: LiveSetup
    folder: Path
    owner: str
    device: Device = field(default_factory=Device)
    until: float = 1.0
    stop: Callable[[], bool] = lambda: False
    report: Report = field(default_factory=Report)
    objective: str = ""

    def run(self) -> Trained:
        """Train every phase that is not trained yet. Raises TrialError for NaN, InterruptedRun when asked to stop."""
        with _global_generators_restored():
            return self._run()

    def _run(self) -> Trained:
        from lightning_fabric import Fabric

        precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[self.device.precision]
        self.fabric = Fabric(accelerator=self.device.accelerator, devices=1, precision=precision)  # type: ignore[arg-type]
        for model in self.setup.models.values():
            placed(model.module, self.device.torch)
        for live in self.setup.teachers.values():
            placed(live.model.module, self.device.torch).requires_grad_(False).eval()
        for distiller in self.setup.distillers.values():
            distiller.to(self.device.torch)
        history: list[dict[str, Any]] = []
        past = 0  # epochs of finished phases
        phases = self.procedure.phases(self.setup)
        number = 0
        while True:
            self._seed("phases", number)
            phase = next(phases, None)
            if phase is None:
                return Trained(history, True)
            self.procedure.to(self.device.torch)
            position = self._phase(phase, number, past)
            history += position.history
            past += phase.epochs
            if not position.done:
                return Trained(history, False)
            number += 1

    def _phase(self, phase: Phase, number: int, past: int) -> Position:
        file = self.folder / f"phase-{number}-{phase.name}.safetensors"
        optims = {optim.name: self._bind(phase, optim) for optim in phase.train}
        held = self._held(phase)
        saved = read_checkpoint(file)
        if saved is None:
            at = Position(owner=self.owner)
            self._seed(phase.name, "prepare")
            for distiller in self.setup.distillers.values():
                distiller.prepare(self.setup)
        else:
            tensors, at = saved
            if at.owner != self.owner:
                raise ArtifactError(
                    "is a checkpoint of another study or recipe", file=file, fix="Delete it; training starts anew."
                )
            restore(tensors, held, {} if at.done else optims, file)
        if at.done:
            self._modes(phase, training=False)
            return at
        run = _PhaseRun(self, phase, number, optims, held, file, at, past)
        return run.train()

    def _bind(self, phase: Phase, optim: Any) -> Bound:
        try:
            bound = bind(optim)
        except ValueError as error:
            raise PluginError(f"phase '{phase.name}': {error}") from None
        bound.torch = self.fabric.setup_optimizers(bound.torch)
        return bound

    def _held(self, phase: Phase) -> dict[str, nn.Module]:
        """Everything whose state a checkpoint must carry."""
        held: dict[str, nn.Module] = {f"role:{role}": model.module for role, model in self.setup.models.items()}
        held |= {f"distiller:{name}": each for name, each in self.setup.distillers.items()}
        held |= {f"ema:{i}": ema.target for i, ema in enumerate(phase.ema)}
        held["procedure"] = self.procedure
        known = {id(p) for module in held.values() for p in module.parameters()}
        for optim in phase.train:
            for key, module in optim.modules.items():
                if any(id(p) not in known for p in module.parameters()):
                    problem = f"phase '{phase.name}' trains '{key}', which no model, distiller or procedure holds"
                    raise PluginError(problem, fix="Make it an attribute of the procedure, so that it is checkpointed.")
        return held

    def _modes(self, phase: Phase, training: bool) -> None:
        """Frozen = no gradient and eval mode; what an optimiser names trains, but for `keep_eval`."""
        moved = {
            id(p) for optim in phase.train for m in optim.modules.values() for p in m.parameters() if p.requires_grad
        }
        for module in self._held(phase).values():
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(id(parameter) in moved and training)
        if training:
            for optim in phase.train:
                for module in optim.modules.values():
                    module.train()
            for module in phase.keep_eval:
                module.eval()

    def _seed(self, *names: Any) -> None:
        import random

        import numpy as np

        seed = derive(self.setup.seed, *names)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)


class _PhaseRun:
    """One phase from its position to its end."""

    def __init__(
        self,
        training: Training,
        phase: Phase,
        number: int,
        optims: dict[str, Bound],
        held: dict[str, nn.Module],
        file: Path,
        at: Position,
        past: int,
    ) -> None:
        self.training, self.phase, self.optims, self.held, self.file, self.at = training, phase, optims, held, file, at
        self.setup, self.device, self.past, self.number = training.setup, training.device, past, number
        self.first = next(iter(phase.feeds))
        self.split = self.setup.data.split(phase.feeds[self.first].split)
        self.others = {
            name: Endless(feed, name, self.setup.data.split(feed.split), derive(self.setup.seed, phase.name))
            for name, feed in phase.feeds.items()
            if name != self.first
        }
        taps: dict[str, list[str]] = {role: list(names) for role, names in phase.taps.items()}
        for name, distiller in self.setup.distillers.items():
            for role, names in distiller.taps().items():
                target = self.setup.teacher_of.get(name, "teacher") if role == "teacher" else role
                taps.setdefault(target, []).extend(names)
        self.cast = Cast(self.setup.task, self.setup.models, self.setup.teachers, taps, self.device.torch)
        self.per_pass = len(self._order(0))
        self.steps_per_pass = math.ceil(self.per_pass / self.device.accumulate)
        self.written = time.monotonic()

    def _order(self, epoch: int) -> list[list[int]]:
        feed = self.phase.feeds[self.first]
        return order_of(feed, self.first, self.split.ids, epoch, derive(self.setup.seed, self.phase.name))

    def train(self) -> Position:
        phase, at = self.phase, self.at
        self.training._modes(phase, training=True)
        if phase.normalize and not at.scales:
            at.scales = self._scales()
        for epoch in range(at.epoch, phase.epochs):
            self._epoch(epoch)
            self._end_epoch(epoch)
            share = (self.past + at.epoch) / max(self.setup.epochs, 1)
            if at.epoch < phase.epochs and share >= self.training.until:
                self._write()
                return at
        if phase.keep == "best":
            self._take_best()
        at.done = True
        self._write()
        self.training._modes(phase, training=False)
        return at

    def _epoch(self, epoch: int) -> None:
        at, feed = self.at, self.phase.feeds[self.first]
        orders = self._order(epoch)
        seed = derive(self.setup.seed, self.phase.name, "augment", epoch)
        batches = loaded(self.split, orders[at.index :], feed.augment, seed, self.device.workers)
        size = self.device.accumulate
        for index, batch in enumerate(batches, start=at.index):
            group = min(size, len(orders) - index // size * size)
            last = index % size == size - 1 or index == len(orders) - 1
            self._step(epoch, index, batch, group, first=index % size == 0, last=last)
            if last:
                at.index, at.step = index + 1, at.step + 1
                self._maybe_write()

    def _live(self, epoch: int, index: int, batch: Batch, progress: float | None = None) -> LiveStep:
        phase, setup = self.phase, self.setup
        self.training._seed(phase.name, epoch, index, 0)
        rng = stream(setup.seed, phase.name, epoch, index, "step")
        position = epoch * self.per_pass + index
        raw = {self.first: batch} | {name: feed.at(position) for name, feed in self.others.items()}
        ready = {name: setup.task.prepare(each.to(self.device.torch), rng) for name, each in raw.items()}
        total = self.steps_per_pass * phase.epochs
        step = epoch * self.steps_per_pass + index // self.device.accumulate
        clock = Clock(epoch, step, step / total if progress is None else progress, phase.epochs)
        cached = not (phase.feeds[self.first].augment and setup.augment)
        return LiveStep(self.cast, ready, ready[self.first], rng, clock, cached)

    def _step(self, epoch: int, index: int, batch: Batch, group: int, first: bool, last: bool) -> None:
        step = self._live(epoch, index, batch)
        if first:
            for bound in self.optims.values():
                bound.torch.zero_grad(set_to_none=True)
                bound.set_rates(step.clock.progress)
        turns = 0
        total = 0.0
        with self.training.fabric.autocast():
            for yielded in self.phase.step(step):
                together = yielded if isinstance(yielded, tuple) else (yielded,)
                turns += 1
                if turns > 1 and self.device.accumulate > 1:
                    raise PluginError(f"phase '{self.phase.name}' takes turns", expected="recipe.train.accumulate: 1")
                losses = [self._total(update, step.clock) for update in together]
                for number, (update, loss) in enumerate(zip(together, losses, strict=True)):
                    parameters = self._parameters(update)
                    if not loss.requires_grad:
                        continue
                    retain = number < len(together) - 1
                    self.training.fabric.backward(loss / group, inputs=parameters, retain_graph=retain)
                    total += float(loss.detach())
                if last:
                    for name in dict.fromkeys(name for update in together for name in self._names(update)):
                        self._move(self.optims[name])
                    step.forget()
        self.at.sums["loss"] = self.at.sums.get("loss", 0.0) + total
        self.at.sums["batches"] = self.at.sums.get("batches", 0.0) + 1
        if last:
            self._end_step(step)
            done = step.clock.step + 1
            self.training.report.step(self.phase.name, done, self.steps_per_pass * self.phase.epochs, total)
            if self.training.stop():
                self.at.index = index + 1
                self.at.step += 1
                self._write()
                raise InterruptedRun("stopped after a checkpoint")

    def _names(self, update: Update) -> list[str]:
        if update.train is None:
            return list(self.optims)
        return [update.train] if isinstance(update.train, str) else list(update.train)

    def _parameters(self, update: Update) -> list[nn.Parameter]:
        named = self._names(update)
        unknown = [name for name in named if name not in self.optims]
        if unknown:
            raise PluginError(
                f"phase '{self.phase.name}' has no optimiser '{unknown[0]}'", expected=", ".join(self.optims)
            )
        return [parameter for name in named for parameter in self.optims[name].parameters.values()]

    def _weight(self, term: str, clock: Clock) -> float:
        owner = term.partition(".")[0]
        weights = {**self.setup.weights, **self.phase.weights}
        weight = weights.get(term, weights.get(owner, 1.0))
        return weight(clock) if callable(weight) else weight

    def _total(self, update: Update, clock: Clock) -> Tensor:
        """Weighted sum of the terms; the first that is not finite fails the trial before any backward."""
        total: Tensor | float = 0.0
        for name, value in update.terms.items():
            number = float(value.detach())
            if not math.isfinite(number):
                where = f"phase '{self.phase.name}', epoch {clock.epoch}, step {clock.step}"
                raise TrialError(
                    f"term '{name}' is {number} in {where}", fix="Lower the learning rate or this term's weight."
                )
            self.at.sums[f"term:{name}"] = self.at.sums.get(f"term:{name}", 0.0) + number
            total = total + self._weight(name, clock) * self.at.scales.get(name, 1.0) * value
        assert isinstance(total, Tensor), f"phase '{self.phase.name}' yielded an update without terms"
        return total

    def _move(self, bound: Bound) -> None:
        if bound.declared.clip:
            group = nn.ParameterList(bound.parameters.values())
            self.training.fabric.clip_gradients(
                group, bound.torch, max_norm=bound.declared.clip, error_if_nonfinite=False
            )
        bound.torch.step()
        bound.torch.zero_grad(set_to_none=True)

    def _end_step(self, step: LiveStep) -> None:
        with torch.no_grad():
            for ema in self.phase.ema:
                decay = factor_at(ema.decay, step.clock.progress)
                source = dict(ema.source.state_dict())
                for name, target in ema.target.state_dict().items():
                    if target.dtype.is_floating_point:
                        target.mul_(decay).add_(source[name].to(target), alpha=1 - decay)
                    else:
                        target.copy_(source[name])
        for distiller in self.setup.distillers.values():
            distiller.on_step_end(step)

    def _end_epoch(self, epoch: int) -> None:
        at, phase = self.at, self.phase
        self.training._seed(phase.name, epoch, "end")
        clock = Clock(epoch + 1, at.step, (epoch + 1) / phase.epochs, phase.epochs)
        for distiller in self.setup.distillers.values():
            distiller.on_epoch_end(clock)
        if phase.on_epoch_end is not None:
            phase.on_epoch_end(clock)
        count = max(at.sums.pop("batches", 1.0), 1.0)
        terms = {name.removeprefix("term:"): at.sums[name] / count for name in at.sums if name.startswith("term:")}
        row: dict[str, Any] = {
            "phase": phase.name,
            "epoch": self.past + epoch + 1,
            "loss": at.sums["loss"] / count,
            "terms": terms,
        }
        if phase.score and self.training.objective:
            row["score"] = self.setup.score(self.training.objective, phase.score)
        if phase.keep == "best":
            row["validation"] = self._validation(epoch)
            if at.best is None or row["validation"] < at.best:
                at.best = row["validation"]
                write_checkpoint(self._best_file(), collect(self.held, {}), Position(owner=at.owner, epoch=epoch + 1))
        at.history.append(row)
        at.epoch, at.index, at.sums = epoch + 1, 0, {}
        self.training.report.epoch(row)
        self.training._modes(phase, training=True)

    def _validation(self, epoch: int) -> float:
        """Mean total of the phase's own step on the validation split, nothing moved."""
        self.training._modes(self.phase, training=False)
        sums, total, count = dict(self.at.sums), 0.0, 0
        for index, batch in enumerate(in_order(self.setup.data.split("val"), self.phase.feeds[self.first].batch_size)):
            step = self._live(epoch, self.per_pass + index, batch, progress=(epoch + 1) / self.phase.epochs)
            with torch.no_grad():
                for yielded in self.phase.step(step):
                    for update in yielded if isinstance(yielded, tuple) else (yielded,):
                        total += float(self._total(update, step.clock)) * len(batch)
            count += len(batch)
        self.at.sums = sums
        return total / max(count, 1)

    def _best_file(self) -> Path:
        return self.file.with_suffix(".best.safetensors")

    def _take_best(self) -> None:
        saved = read_checkpoint(self._best_file())
        if saved is not None:
            restore(saved[0], self.held, {}, self._best_file())

    def _scales(self) -> dict[str, float]:
        """|task| / |term| over the first batches, everything restored afterwards; a term that is 0 keeps scale 1."""
        before = collect(self.held, {})
        sums: dict[str, float] = {}
        orders = self._order(0)[:NORMALIZE_BATCHES]
        feed = self.phase.feeds[self.first]
        seed = derive(self.setup.seed, self.phase.name, "augment", 0)
        saved_sums, self.at.sums = self.at.sums, {}
        for index, batch in enumerate(loaded(self.split, orders, feed.augment, seed)):
            step = self._live(0, index, batch)
            with self.training.fabric.autocast():
                for yielded in self.phase.step(step):
                    for update in yielded if isinstance(yielded, tuple) else (yielded,):
                        self._total(update, step.clock)
        for name, value in self.at.sums.items():
            sums[name.removeprefix("term:")] = abs(value) / len(orders)
        self.at.sums = saved_sums
        restore(before, self.held, {}, self.file)
        task = sums.get("task", 0.0)
        return {
            name: task / value if task > 0 and value > 1e-12 and name != "task" else 1.0 for name, value in sums.items()
        }

    def _maybe_write(self) -> None:
        if time.monotonic() - self.written >= self.device.checkpoint_s:
            self._write()

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.file, collect(self.held, {} if self.at.done else self.optims), self.at)
        self.written = time.monotonic()


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device, convolutions channels-last: 1.4 times as fast in a training step of a small ResNet on a CPU."""
    return module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@contextmanager
def _global_generators_restored() -> Iterator[None]:
    """Training seeds the global generators; the caller's own streams go on as if it had not."""
    import random

    import numpy as np

    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])
