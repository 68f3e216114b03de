"""The live step: one micro-batch, with every role's forward pass run at first use and shared until weights move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from kdsearch.engine.cache import Live
from kdsearch.errors import PluginError, nearest, one_of
from kdsearch.kinds import IO, Batch, Clock, Model, Outputs, Task, Write
from kdsearch.kinds.forward import run_model, tap_name
from kdsearch.store.hashing import derive, stream


@dataclass(frozen=True)
class Cast:
    """Who plays: models by role, teachers by role (constants), and the taps that are recorded, canonical, by role."""

    task: Task[Any]
    io: IO
    models: Mapping[str, Model]
    teachers: Mapping[str, Live]
    taps: Mapping[str, Sequence[str]]
    device: torch.device
    recorded: Mapping[str, Sequence[str]] = field(init=False)

    def __post_init__(self) -> None:
        """Raise TapError, listing what there is, for a tap that its model lacks."""
        roles = {**self.models, **{role: live.model for role, live in self.teachers.items()}}
        recorded = {
            role: list(dict.fromkeys([*model.outputs, *(tap_name(model, tap) for tap in self.taps.get(role, ()))]))
            for role, model in roles.items()
        }
        object.__setattr__(self, "recorded", recorded)

    def names(self, role: str) -> Sequence[str]:
        """What is recorded of a role. Raise PluginError naming the roles there are."""
        if role not in self.recorded:
            raise PluginError(
                f"no model in the role '{role}'", nearest=nearest(role, self.recorded), expected=one_of(self.recorded)
            )
        return self.recorded[role]


@contextmanager
def frozen_norms(module: nn.Module) -> Iterator[None]:
    """Norms that keep statistics answer by them meanwhile, and keep them as they are."""
    norms = [each for each in module.modules() if getattr(each, "track_running_stats", False) and each.training]
    for each in norms:
        each.training = False
    try:
        yield
    finally:
        for each in norms:
            each.training = True


@dataclass(frozen=True)
class Pass:
    """A kept forward pass. `batch`: of which it is, held so that it keeps its id(). `graph`: it was run where gradients are."""

    batch: Batch
    outputs: Outputs
    graph: bool


@dataclass
class LiveStep:
    """See `kdsearch.kinds.Step`.

    `cached`: stored teacher rows are valid for this batch (nothing augmented it). `gathered`: rows -> those of all ranks.
    `seed`: of what teachers' views draw. `by_sample`: of streams by sample id. `logs`: what was logged, by name.
    `loaded`: `batches` as the data set gave them.
    """

    cast: Cast
    batches: Mapping[str, Batch]
    batch: Batch
    rng: Generator
    clock: Clock
    cached: bool = False
    gathered: Callable[[Tensor], Tensor] = Tensor.detach
    seed: int = 0
    by_sample: int = 0
    roles: tuple[str, str] = ("student", "teacher")
    runs: dict[tuple[str, int, bool], Pass] = field(default_factory=dict)
    logs: dict[str, list[Tensor | float]] = field(default_factory=dict)
    loaded: Mapping[str, Batch] = field(default_factory=dict)

    @property
    def student(self) -> Outputs:
        return self.run(self.roles[0])

    @property
    def teacher(self) -> Outputs:
        return self.run(self.roles[1]).detach()

    def run(
        self,
        role: str,
        batch: Batch | None = None,
        writes: Mapping[str, Write] | None = None,
        frozen_stats: bool = False,
    ) -> Outputs:
        asked = self.batch if batch is None else batch
        key = (role, id(asked), frozen_stats)
        kept = self.runs.get(key) if writes is None else None
        if kept is not None and (kept.graph or not self._learns(role, asked)):
            return kept.outputs
        cast = self.cast
        names = cast.names(role)
        is_upstream = _is_upstream(asked)
        if role in cast.teachers and writes is None and not is_upstream:
            live = cast.teachers[role]
            cached = self.cached and asked is self.batch
            out = live.outputs(asked, names, cast.device, cached, derive(self.seed, role))
        elif role in cast.teachers:
            live = cast.teachers[role]
            out = run_model(live.model, cast.task, live.fed(asked, derive(self.seed, role)), names, writes)
        else:
            model = cast.models[role]
            with frozen_norms(model.module) if frozen_stats else nullcontext():
                out = run_model(model, cast.task, asked, names, writes)
        if writes is None:
            self.runs[key] = Pass(asked, out, torch.is_grad_enabled())
        return out

    def _learns(self, role: str, batch: Batch) -> bool:
        """Whether a pass here and now has a graph."""
        if not torch.is_grad_enabled():
            return False
        model = self.cast.models.get(role) if role not in self.cast.teachers else None
        moved = model is not None and any(each.requires_grad for each in model.module.parameters())
        return moved or _is_upstream(batch)

    def pair(self, student: str, teacher: str) -> LiveStep:
        return replace(self, roles=(student, teacher))

    def on(self, batch: Batch) -> LiveStep:
        return replace(self, batch=batch, cached=False)

    def task(self) -> Tensor:
        return self.cast.task.loss(self.student, self.batch)

    def rows(self, tensor: Tensor, field: str = "logits") -> Tensor:
        answers = replace(self.cast.io, outputs=self.cast.task.answers(self.cast.io))
        return answers.output(field).rows(tensor, self.cast.task.counted(self.batch))

    def truth(self) -> Tensor | None:
        found = self.cast.task.truth(self.batch)
        return None if found is None else self.rows(found)

    def rng_of(self, sample: str) -> Generator:
        return stream(self.by_sample, sample)

    def log(self, name: str, value: Tensor | float) -> None:
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        if shape:
            raise PluginError(f"'{name}' was logged with shape {shape}", expected="a scalar")
        self.logs.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else float(value))

    def gather(self, rows: Tensor) -> Tensor:
        return self.gathered(rows)

    def forget(self) -> None:
        """Weights moved: forward passes run anew. Teachers' stay."""
        for key in [key for key in self.runs if key[0] not in self.cast.teachers]:
            del self.runs[key]


def _is_upstream(batch: Batch) -> bool:
    """Whether gradients reach what made the batch."""
    return any(tensor.requires_grad for tensor in batch.tensors.values())
