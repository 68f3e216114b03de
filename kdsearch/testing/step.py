"""A Step made by hand: a distiller used, or tested, without a study.

step = HandStep(student={"logits": z_s}, teacher={"logits": z_t}, batch={"label": y})
loss = Kd(KdOptions(temperature=2.0)).terms(step)["kl"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Generator, Tensor
from torch.nn import functional as F

from kdsearch.kinds import HIDDEN, Batch, Clock, Field, Outputs, Step, Write
from kdsearch.store.hashing import stream

Run = Callable[[Batch, Mapping[str, Write]], Mapping[str, Tensor]]
Loss = Callable[[Outputs, Batch], Tensor]
START = Clock(epoch=0, step=0, progress=0.0, epochs=1)


def as_batch(tensors: Mapping[str, Tensor] | Batch, n: int) -> Batch:
    """A batch of these tensors; its ids count from 0."""
    return tensors if isinstance(tensors, Batch) else Batch(tuple(str(i) for i in range(n)), dict(tensors))


class HandStep:
    """A Step of given tensors.

    Args:
        student, teacher: output fields and taps by name, (B, ...); the teacher's are handed on as constants.
        batch: the batch's tensors, or a Batch.
        clock: where training stands.
        seed: of `rng`.
        roles: what `run(role)` gives, for further roles than "student" and "teacher".
        runs: role -> function of (batch, writes), for distillers that run a role on another batch or with writes.
        fields: output fields, for `rows`, where the classes are not where a `Field` of that shape expects them.
        counted: (B, ...) positions that count; None = all.
        loss: `task()`; default: cross-entropy of the student's `logits`, mean over the samples whose `label` is known.
        truth: the batch's field of the class at each position of `logits`, where there is one.
    """

    def __init__(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor] | None = None,
        batch: Mapping[str, Tensor] | Batch | None = None,
        clock: Clock = START,
        seed: int = 0,
        roles: Mapping[str, Mapping[str, Tensor]] | None = None,
        runs: Mapping[str, Run] | None = None,
        loss: Loss | None = None,
        fields: Sequence[Field] = (),
        counted: Tensor | None = None,
        truth: str = "label",
    ) -> None:
        self.student = outputs(student, "the student")
        self.teacher = outputs(teacher or {}, "the teacher").detach()
        n = len(next(iter({**self.student, **self.teacher}.values()), ()))
        self.batch = as_batch(batch or {}, n)
        self.clock, self.rng = clock, Generator().manual_seed(seed)
        self.logs: dict[str, list[float]] = {}
        self._seed, self._roles, self._runs, self._loss = seed, dict(roles or {}), dict(runs or {}), loss
        self._fields, self._counted, self._truth = {each.name: each for each in fields}, counted, truth

    @property
    def batches(self) -> Mapping[str, Batch]:
        return {"train": self.batch}

    def run(
        self,
        role: str,
        batch: Batch | None = None,
        writes: Mapping[str, Write] | None = None,
        frozen_stats: bool = False,
    ) -> Outputs:
        """Raise KeyError naming the roles there are, or what would make another batch or writes possible."""
        if role in self._runs:
            return outputs(self._runs[role](batch or self.batch, writes or {}), role)
        given = {"student": self.student, "teacher": self.teacher, **self._roles}
        if role not in given:
            raise KeyError(f"role '{role}': this step has {', '.join({**given, **self._runs})}")
        if batch is not None or writes:
            raise KeyError(f"role '{role}' has fixed outputs; another batch or writes need runs={{'{role}': ...}}")
        return outputs(given[role], role)

    def pair(self, student: str, teacher: str) -> Step:
        return self._like(self.run(student), self.run(teacher), self.batch)

    def on(self, batch: Batch) -> Step:
        return self._like(self.run("student", batch), self.run("teacher", batch), batch)

    def _like(self, student: Outputs, teacher: Outputs, batch: Batch) -> Step:
        return HandStep(
            student,
            teacher,
            batch,
            self.clock,
            self._seed,
            self._roles,
            self._runs,
            self._loss,
            tuple(self._fields.values()),
            self._counted,
            self._truth,
        )

    def task(self) -> Tensor:
        if self._loss:
            return self._loss(self.student, self.batch)
        logits, label = self.student["logits"], self.batch["label"]
        known = (label != HIDDEN).sum().clamp(min=1)
        return F.cross_entropy(logits, label, ignore_index=HIDDEN, reduction="sum") / known

    def rows(self, tensor: Tensor, field: str = "logits") -> Tensor:
        found = self._fields.get(field) or Field(field, "logits", tuple(self.student[field].shape[1:]))
        return found.rows(tensor, self._counted)

    def truth(self) -> Tensor | None:
        found = self.batch.tensors.get(self._truth)
        return None if found is None else self.rows(found)

    def rng_of(self, sample: str) -> Generator:
        return stream(self._seed, sample)

    def log(self, name: str, value: Tensor | float) -> None:
        self.logs.setdefault(name, []).append(float(value))

    def gather(self, rows: Tensor) -> Tensor:
        return rows.detach()


def outputs(tensors: Mapping[str, Tensor], owner: str) -> Outputs:
    return tensors if isinstance(tensors, Outputs) else Outputs(tensors, owner=owner)
