"""The one training loop. A method never drives: it answers questions, this drives.

Everything random is a function of (seed, phase, epoch, index, use), so a training that was killed goes on from its last
checkpoint to a bit-equal end. A checkpoint lies between two optimiser steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdsearch.engine.checkpoint import Position, read_checkpoint, rest_of, restore, start_of
from kdsearch.engine.conduct import Conduct, Device, Report
from kdsearch.engine.forgetting import Classes
from kdsearch.engine.gradients import TermGradients
from kdsearch.engine.modes import gradients_given_back
from kdsearch.engine.optim import Bound, bind
from kdsearch.engine.phase import PhaseRun
from kdsearch.engine.precision import Precision
from kdsearch.engine.ranks import ALONE, Ranks
from kdsearch.engine.setup import LiveSetup
from kdsearch.errors import ArtifactError, PluginError
from kdsearch.kinds import Optim, Phase, Procedure
from kdsearch.ops.layout import channels_last, guarded


@dataclass(frozen=True)
class Trained:
    """How a training ended: rows of its epochs, whether it is through or waits at a rung, the scales of normalised terms, notes."""

    history: list[dict[str, Any]]
    done: bool
    scales: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass
class Training:
    """One training of a procedure in a folder of its own.

    Its models and procedure must be as freshly made: what the folder holds is loaded into them.

    Args:
        owner: hash of what the training is made from; a checkpoint of another one is refused.
        until: pause at the end of the epoch at which this share of the recipe's length is reached.
        stop: asked after every step; True = checkpoint and raise InterruptedRun.
        objective: metric recorded each epoch on validation for a phase with `score`; "" = none.
        beside: further metrics, recorded of the same role.
        ranks: the processes that share it, each with such a Training on the same folder; the first one writes.
        recovers: the phases are those after pruning.
        most_epochs: of each phase, to see whether it trains at all; None = all.
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
    beside: tuple[str, ...] = ()
    ranks: Ranks = ALONE
    recovers: bool = False
    most_epochs: int | None = None
    conduct: Conduct = field(init=False)

    def run(self) -> Trained:
        """Train every phase that is not trained yet. Raises TrialError for NaN, InterruptedRun when asked to stop."""
        with generators_restored():
            return self._run()

    def gradients_at_start(self, batches: int) -> TermGradients | None:
        """Of the terms of the first phase, on its first batches; None where it moves none of the study's models.

        Nothing is trained and nothing is written. Raises TrialError for NaN.
        """
        with generators_restored():
            self._begin()
            self.conduct.seed("phases", 0)
            phase = next(iter(self.procedure.phases(self.setup)))
            self._place_trained(phase)
            held = self._held(phase)
            with gradients_given_back(held.values()):
                optims = {optim.name: self._bind(phase, optim) for optim in phase.train}
                self._prepare_distillers()
                at = Position(owner=self.owner)
                return PhaseRun(self.conduct, phase, optims, held, self._file(phase, 0), at, 0).gradients(batches)

    def _run(self) -> Trained:
        self._begin()
        history: list[dict[str, Any]] = []
        names: set[str] = set()
        scales: dict[str, float] = {}
        learnt: dict[str, Collection[int]] = {}
        past = 0  # epochs of finished phases
        phases = (self.procedure.recovery if self.recovers else self.procedure.phases)(self.setup)
        while True:
            self.conduct.seed("phases", len(names))
            phase = next(phases, None)
            if phase is None:
                if not names:
                    method = "recovery" if self.recovers else "phases"
                    who = type(self.procedure).__name__
                    raise PluginError(f"`{method}` of the procedure ({who}) yields no phase", expected="at least one")
                return Trained(history, True, scales, tuple(self.setup.notes))
            if phase.name in names:
                raise PluginError(f"two phases are called '{phase.name}'", expected="names that are unique")
            if self.most_epochs is not None:
                phase = replace(phase, epochs=min(phase.epochs, self.most_epochs))
            self._place_trained(phase)
            position = self._phase(phase, len(names), past, history, learnt)
            history += position.history
            scales |= position.scales
            past += phase.epochs
            if not position.done:
                return Trained(history, False, scales, tuple(self.setup.notes))
            names.add(phase.name)
            learnt |= {} if phase.classes is None else {phase.name: phase.classes}

    def _begin(self) -> None:
        precision = Precision(self.device.precision, self.device.accelerator)
        asked = (self.objective, self.beside)
        self.conduct = Conduct(
            self.setup, self.device, precision, self.ranks, *asked, self.until, self.stop, self.report
        )
        self.setup.device = self.device.torch
        for live in self.setup.teachers.values():
            placed(live.model.module, self.device.torch).requires_grad_(False).eval()

    def _place_trained(self, phase: Phase) -> None:
        for model in self.setup.models.values():
            placed(model.module, self.device.torch)
        for module in (self.procedure, *self.setup.distillers.values(), *(ema.target for ema in phase.ema)):
            guarded(module.to(self.device.torch))  # their layers read the maps of models

    def _file(self, phase: Phase, number: int) -> Path:
        return self.folder / f"phase-{number}-{phase.name}.safetensors"

    def _prepare_distillers(self) -> None:
        self.conduct.seed("prepare")
        for distiller in self.setup.distillers.values():
            distiller.prepare(self.setup)

    def _phase(
        self, phase: Phase, number: int, past: int, before: Sequence[Mapping[str, Any]], learnt: Classes
    ) -> Position:
        file = self._file(phase, number)
        held = self._held(phase)
        with gradients_given_back(held.values()):
            optims = {optim.name: self._bind(phase, optim) for optim in phase.train}
            moved = {id(parameter) for bound in optims.values() for parameter in bound.parameters.values()}
            start = start_of(held, moved)
            saved = read_checkpoint(file)
            if saved is None:
                at = Position(owner=self.owner)
                if number == 0:
                    self._prepare_distillers()
            else:
                tensors, at = saved
                if at.owner != self.owner:
                    raise ArtifactError(
                        "is a checkpoint of another study or recipe", file=file, fix="Delete it; training starts anew."
                    )
                if at.rest != rest_of(tensors, start):
                    problem = "what it goes on from, frozen weights or earlier phases, is not what it was"
                    raise ArtifactError(problem, file=file, fix="Delete it; training starts anew.")
                restore(tensors, held, {} if at.done else optims, file, start)
                for text in at.notes:
                    self.setup.note(text)
                self.conduct.precision.load(at.scaler)  # of a phase that is done, too: the next one goes on with it
            if at.done:
                for module in held.values():
                    module.eval()
                return at
            return PhaseRun(self.conduct, phase, optims, held, file, at, past, start, before, learnt).train()

    def _bind(self, phase: Phase, optim: Optim) -> Bound:
        try:
            return bind(optim)
        except ValueError as error:
            raise PluginError(f"phase '{phase.name}': {error}") from None

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


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device, convolutions channels-last: 1.4 times as fast in a training step of a small ResNet on a CPU."""
    return channels_last(module.to(device))


@contextmanager
def generators_restored() -> Iterator[None]:
    """Training seeds the global generators; the caller's own streams go on as if it had not."""
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.set_rng_state(saved[0])
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)
        np.random.set_state(saved[1])
        random.setstate(saved[2])
