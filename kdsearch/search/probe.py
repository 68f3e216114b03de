"""What all candidates are scored on: one batch, and the teacher's side of it, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor, nn

from kdsearch.kinds import IO, Batch, Model, Outputs, Task
from kdsearch.kinds.forward import run_model, tap_name
from kdsearch.kinds.proxy import Taps, taps_of
from kdsearch.ops import layout
from kdsearch.ops.seeding import seed_generators
from kdsearch.ops.undisturbed import undisturbed
from kdsearch.search.trace import Trace
from kdsearch.store.hashing import derive, stream

V = TypeVar("V")


class LiveProbe:
    """The `Probe` that proxies are handed. It is bound to one candidate at a time with `bind`.

    Args:
        batch: fixed; 4-D inputs are kept channels-last.
        teacher: randomly initialised, or None.
        taps: names that the proxies read from `run` and `teacher`, or by role; each model resolves them (`stage[-1]`) by its
            own taps.
        seed: of the probe's own draws (dropout in the teacher's pass).
        teacher_fed: what the teacher is fed of the batch; None = the batch.

    Raises:
        TapError: teacher or student lacks a tap.
    """

    def __init__(
        self,
        batch: Batch,
        io: IO,
        task: Task[Any],
        teacher: Model | None = None,
        taps: Taps = (),
        seed: int = 0,
        teacher_fed: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self._teacher_fed = teacher_fed
        self.batch, self.io, self.task = channels_last(batch), io, task
        self._untouched = {name: tensor.clone() for name, tensor in self.batch.tensors.items()}
        self.rng: Generator = stream(seed, "probe")
        self.teacher_model = teacher
        self._taps = {role: tuple(dict.fromkeys(taps_of(taps, role))) for role in ("student", "teacher")}
        self._seed = seed
        self._made: dict[str, Any] = {}
        self._teacher: Outputs | None = None
        self._bound: tuple[nn.Module, Trace, int] | None = None
        self._shared: Outputs | None = None
        self._made_for_candidate: dict[str, Any] = {}
        if teacher is not None:
            layout.channels_last(teacher.module)

    @property
    def teacher(self) -> Outputs | None:
        if self._teacher is None and self.teacher_model is not None:
            self._teacher = self._forward(self.teacher_model, derive(self._seed, "teacher"), "teacher")
        return self._teacher

    def fed(self, batch: Batch) -> Batch:
        return batch if self._teacher_fed is None else self._teacher_fed(batch)

    def once(self, key: str, make: Callable[[], V]) -> V:
        if key not in self._made:
            candidates = self.rng  # what all share is no function of the candidate that came first
            self.rng = stream(self._seed, "once", key)
            try:
                with torch.random.fork_rng(devices=[]):
                    seed_generators(derive(self._seed, "once", key))
                    self._made[key] = make()
            finally:
                self.rng = candidates
        made: V = self._made[key]
        return made

    def bind(self, student: Model, trace: Trace, seed: int) -> None:
        """Go on with this fresh candidate, whose untouched state is `trace`; drops the last candidate's shared pass."""
        self._bound, self._shared, self._made_for_candidate = (student.module, trace, seed), None, {}
        self.rng = Generator().manual_seed(seed)

    def rebind(self, student: Model, trace: Trace) -> None:
        """The same candidate built anew: the shared pass stays, the stream starts again."""
        assert self._bound is not None
        self._bound = (student.module, trace, self._bound[2])
        self.rng = Generator().manual_seed(self._bound[2])

    def put_back(self) -> list[str]:
        """Which tensors of the batch a proxy has written into; they are as they were again, for all that follow."""
        written = [name for name, tensor in self.batch.tensors.items() if not _same(tensor, self._untouched[name])]
        for name in written:
            with torch.no_grad():
                self.batch.tensors[name].copy_(self._untouched[name])
        return written

    def release(self) -> None:
        """Let go of the last candidate; the stream is the probe's own again, from its start."""
        self._bound, self._shared, self._made_for_candidate = None, None, {}
        self.rng = stream(self._seed, "probe")

    def run(self, student: Model) -> Outputs:
        """One train-mode forward pass without graph, shared by all proxies; it leaves no trace in the student.

        A student that is not the bound one, or that a proxy has changed or hooked since, is run for that caller alone: what
        a proxy gets does not depend on which proxies came before.
        """
        seed = self._bound[2] if self._bound else self._seed
        if not self._is_untouched(student):
            return self._forward(student, seed)
        if self._shared is None:
            self._shared = self._forward(student, seed)
        return self._shared

    def shared(self, student: Model, key: str, make: Callable[[], V]) -> V:
        """See `Probe.shared`; what is made never depends on which proxies came before."""
        known = self._made_for_candidate if self._is_untouched(student) else {}
        if key not in known:
            seed, asking = self._bound[2] if self._bound else self._seed, self.rng
            self.rng = Generator().manual_seed(seed)
            try:
                with torch.random.fork_rng(devices=[]):
                    seed_generators(seed)
                    known[key] = make()
            finally:
                self.rng = asking
        made: V = known[key]
        return made

    def _is_untouched(self, student: Model) -> bool:
        """Whether it is the candidate at hand, as it was built."""
        return self._bound is not None and student.module is self._bound[0] and self._bound[1].unchanged(student.module)

    def _forward(self, model: Model, seed: int, role: str = "student") -> Outputs:
        names = dict.fromkeys(tap_name(model, name) for name in self._taps[role])
        batch = self.fed(self.batch) if role == "teacher" else self.batch
        with undisturbed(model.module):
            seed_generators(seed)
            return run_model(model, self.task, batch, names, copies=True).detach()


def _same(tensor: Tensor, known: Tensor) -> bool:
    """Whether all is equal; missing numbers are NaN in both."""
    return torch.equal(tensor, known) or bool(((tensor == known) | ((tensor != tensor) & (known != known))).all())


def channels_last(batch: Batch) -> Batch:
    """The batch with its 4-D tensors stored channels-last: equal values, faster convolutions on a CPU."""
    tensors = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for name, tensor in batch.tensors.items()
    }
    return batch.having(**tensors)
