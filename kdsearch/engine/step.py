"""The live step: one micro-batch, with every role's forward pass run at first use and shared until weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from kdsearch.engine.cache import Live
from kdsearch.engine.taps import run_model, tap_name
from kdsearch.kinds import Batch, Clock, Model, Outputs, Task, Write


@dataclass(frozen=True)
class Cast:
    """Who plays: models by role, teachers by role (constants), and the taps that are recorded, canonical, by role."""

    task: Task[Any]
    models: Mapping[str, Model]
    teachers: Mapping[str, Live]
    taps: Mapping[str, Sequence[str]]
    device: torch.device
    rank_gather: Any = None

    def names(self, role: str) -> list[str]:
        model = self.teachers[role].model if role in self.teachers else self.models[role]
        return list(dict.fromkeys([*model.outputs, *(tap_name(model, tap) for tap in self.taps.get(role, ()))]))


@dataclass
class LiveStep:
    """See `kdsearch.kinds.Step`. `cached`: stored teacher rows are valid for this batch (nothing augmented it)."""

    cast: Cast
    batches: Mapping[str, Batch]
    batch: Batch
    rng: Generator
    clock: Clock
    cached: bool = False
    roles: tuple[str, str] = ("student", "teacher")
    runs: dict[tuple[str, tuple[str, ...], int], Outputs] = field(default_factory=dict)

    @property
    def student(self) -> Outputs:
        return self.run(self.roles[0])

    @property
    def teacher(self) -> Outputs:
        return self.run(self.roles[1]).detach()

    def run(self, role: str, batch: Batch | None = None, writes: Mapping[str, Write] | None = None) -> Outputs:
        asked = self.batch if batch is None else batch
        key = (role, asked.ids, id(asked))
        if writes is None and key in self.runs:
            return self.runs[key]
        cast = self.cast
        names = cast.names(role)
        if role in cast.teachers and writes is None:
            live = cast.teachers[role]
            out = live.outputs(asked, names, cast.device, cached=self.cached and asked is self.batch)
        else:
            model = cast.teachers[role].model if role in cast.teachers else cast.models[role]
            out = run_model(model, cast.task, asked, names, writes)
        if writes is None:
            self.runs[key] = out
        return out

    def pair(self, student: str, teacher: str) -> LiveStep:
        return replace(self, roles=(student, teacher))

    def on(self, batch: Batch) -> LiveStep:
        return replace(self, batch=batch, cached=False)

    def task(self) -> Tensor:
        return self.cast.task.loss(self.student, self.batch)

    def gather(self, rows: Tensor) -> Tensor:
        rows = rows.detach()
        return rows if self.cast.rank_gather is None else self.cast.rank_gather(rows)

    def forget(self) -> None:
        """Weights moved: forward passes run anew. Teachers' stay."""
        for key in [key for key in self.runs if key[0] not in self.cast.teachers]:
            del self.runs[key]
