"""Proxy: a training-free score of a freshly initialised student."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Generator

from kdsearch.kinds.data import Batch
from kdsearch.kinds.model import Model, Outputs
from kdsearch.kinds.options import Capability, O
from kdsearch.kinds.task import IO, Task

V = TypeVar("V")
Taps = Sequence[str] | Mapping[str, Sequence[str]]


def taps_of(taps: Taps, role: str) -> Sequence[str]:
    """What `Proxy.taps` asks of a role."""
    return taps.get(role, ()) if isinstance(taps, Mapping) else taps


class Probe(Protocol):
    """One fixed batch and everything that is computed once for all candidates."""

    @property
    def batch(self) -> Batch: ...
    @property
    def io(self) -> IO: ...
    @property
    def task(self) -> Task[Any]: ...
    @property
    def rng(self) -> Generator:
        """The candidate's stream: a function of (canonical spec, init seed), not of what was scored before."""
        ...

    @property
    def teacher_model(self) -> Model | None:
        """The randomly initialised teacher, or None when no proxy of the study needs one."""
        ...

    @property
    def teacher(self) -> Outputs | None:
        """The randomly initialised teacher's outputs and taps on `batch`, as constants, computed once."""
        ...

    def fed(self, batch: Batch) -> Batch:
        """What the teacher is fed of a batch, for a pass of a proxy's own: its view (`Teacher.view`), or the batch."""
        ...

    def run(self, student: Model) -> Outputs:
        """One train-mode forward pass without graph a candidate, shared by all proxies; taps as the proxies asked."""

    def once(self, key: str, make: Callable[[], V]) -> V:
        """Computed at the first candidate, shared by all: the teacher's side of a score."""
        ...

    def shared(self, student: Model, key: str, make: Callable[[], V]) -> V:
        """Computed once a candidate, shared by all proxies that name the same key, like `run`: a pass with other hooks, gradients.

        `make` leaves no trace in the student and draws from `rng` alone, which it finds at its start whoever asks first. Where
        a proxy has changed the student it is made for that caller alone.
        """
        ...


class Proxy(Capability, Generic[O]):
    """Not its work: building, seeding, cleaning up. The student comes fresh; what a proxy changes in it is undone by the host."""

    needs_teacher: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True  # False: the score reads the model alone (params, macs, l2_norm)
    needs_classes: bool = False  # it reads one class a sample, `label`, or a logit for each; as `init`
    init: str = (
        "default"  # "gaussian": conv and linear weights N(0, 1), biases 0, BN 1/0; an option may set it in __init__
    )
    note: str = ""  # set in `fit`, shown by the study: what this proxy means on these candidates

    def __init__(self, options: O) -> None:
        self.options = options

    def taps(self) -> Taps:
        """Taps that `score` reads from `probe.run` and `probe.teacher`, known from the options; by role where they differ.

        Roles: "student", "teacher".
        """
        return ()

    def fit(self, sample: Sequence[Model], probe: Probe) -> None:
        """Once before the first score, with models drawn from the whole space (never with the candidates at hand)."""

    @abstractmethod
    def score(self, student: Model, probe: Probe) -> float:
        """Higher is better. NaN or infinity: defined by the host as the worst rank."""
