"""A Probe made by hand: a proxy used, or tested, without a study.

probe = HandProbe(noise_batch(32), teacher=small_resnet(depth=3))
proxy = Diswot(DiswotOptions())
proxy.fit([student], probe)
print(proxy.score(student, probe), proxy.note)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Generator, Tensor, nn
from torch.nn import functional as F

from kdsearch.kinds import HIDDEN, IO, Batch, Field, Model, NoOptions, Outputs, Tap, Task
from kdsearch.kinds.forward import recorded
from kdsearch.kinds.proxy import Taps, taps_of
from kdsearch.ops.undisturbed import undisturbed
from kdsearch.testing.step import as_batch

V = TypeVar("V")


class HandTask(Task[NoOptions]):
    """Classification of `logits` by `label`: what a HandProbe takes where it is handed no task."""

    def io(self, fields: Sequence[Field], facts: Mapping[str, Any]) -> IO:
        return IO(tuple(each for each in fields if each.use == "input"), (Field("logits", "logits", (None,)),))

    def loss(self, out: Outputs, batch: Batch) -> Tensor:
        return F.cross_entropy(out["logits"], batch["label"], ignore_index=HIDDEN)


class HandProbe:
    """A Probe on given tensors.

    Args:
        batch: the batch's tensors (B, ...), or a Batch.
        teacher: the random teacher of proxies that need one, initialised already.
        task, io: default: classification, with every floating-point tensor of the batch as an input.
        teacher_fed: what the teacher is fed of a batch; None = the batch.
        seed: of `rng`, the candidate's stream, which starts anew at every access.
    """

    def __init__(
        self,
        batch: Mapping[str, Tensor] | Batch,
        teacher: Model | None = None,
        task: Task[Any] | None = None,
        io: IO | None = None,
        seed: int = 0,
        teacher_fed: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self._teacher_fed = teacher_fed
        tensors = batch.tensors if isinstance(batch, Batch) else batch
        self.batch = as_batch(batch, len(next(iter(tensors.values()))))
        self.task: Task[Any] = task or HandTask(NoOptions())
        self.io = io or self.task.io(fields_of(self.batch), {})
        self.teacher_model, self._seed = teacher, seed
        self.taps: Taps | None = (
            None  # that `run` and `teacher` record, as `Proxy.taps` asks for them; None = every one
        )
        self._made: dict[str, Any] = {}
        self._last: tuple[nn.Module, tuple[int, ...], dict[str, Any]] | None = None

    @property
    def rng(self) -> Generator:
        return Generator().manual_seed(self._seed)

    @property
    def teacher(self) -> Outputs | None:
        teacher = self.teacher_model
        return (
            None
            if teacher is None
            else self.once("teacher's outputs", lambda: seen(teacher, self, self.fed(self.batch), "teacher"))
        )

    def fed(self, batch: Batch) -> Batch:
        return batch if self._teacher_fed is None else self._teacher_fed(batch)

    def run(self, student: Model) -> Outputs:
        """All output fields, and taps; a second call runs the student again only where its weights have changed."""
        return self.shared(student, "outputs", lambda: seen(student, self, self.batch, "student"))

    def shared(self, student: Model, key: str, make: Callable[[], V]) -> V:
        """Made anew where it is another student or its weights have changed."""
        versions = tuple(weight._version for weight in student.module.parameters())
        if self._last is None or self._last[0] is not student.module or self._last[1] != versions:
            self._last = (student.module, versions, {})
        known = self._last[2]
        if key not in known:
            known[key] = make()
        found: V = known[key]
        return found

    def once(self, key: str, make: Callable[[], V]) -> V:
        if key not in self._made:
            self._made[key] = make()
        found: V = self._made[key]
        return found


def seen(model: Model, probe: HandProbe, batch: Batch, role: str) -> Outputs:
    """One train-mode pass without graph; buffers, flags, hooks and RNG are as before."""
    taps = model.taps if probe.taps is None else _named(model, taps_of(probe.taps, role))
    with undisturbed(model.module), recorded(model, taps) as tensors:
        fields = probe.task.call(model, batch)
    return Outputs({**tensors, **fields}, lambda name: model.tap(name).name, model.name)


def _named(model: Model, taps: Sequence[str]) -> list[Tap]:
    return [model.tap(tap) for tap in taps if tap not in model.outputs]


def fields_of(batch: Batch) -> tuple[Field, ...]:
    """Inputs are the floating-point tensors, targets the others; "image" where there are three sizes."""
    return tuple(
        Field(
            name,
            "image" if tensor.dim() == 4 else "vector" if tensor.is_floating_point() else "label",
            tuple(tensor.shape[1:]),
            str(tensor.dtype).removeprefix("torch."),
            "input" if tensor.is_floating_point() else "target",
        )
        for name, tensor in batch.tensors.items()
    )
