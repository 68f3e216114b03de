"""Controller: what to try next, as a pure function of what was tried. Stopper: who goes on at a rung."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from kdsearch.kinds.options import Capability, Dim, O, Value
from kdsearch.kinds.space import SearchSpace


@dataclass(frozen=True)
class Trial:
    """One evaluated candidate.

    Args:
        number: from 0, in the order of asking.
        values: dimension path -> value.
        spec: canonical architecture spec, or None where the architecture is among `values`.
        losses: objectives, all to be minimised (a maximised one is negated); empty unless complete.
        violations: one a constraint, <= 0 where it holds.
        curve: (share of the whole length, first objective as loss) at each rung it reached.
    """

    number: int
    values: Mapping[str, Value]
    spec: Mapping[str, Any] | None = None
    state: Literal["complete", "pruned", "failed"] = "complete"
    losses: tuple[float, ...] = ()
    violations: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Ask:
    """One candidate to evaluate."""

    values: Mapping[str, Value] = field(default_factory=dict)
    spec: Mapping[str, Any] | None = None


class Controller(Capability, Generic[O]):
    """Telling is a row in the study's storage. Not its work: state, threads, storage."""

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        """At most n candidates: fewer where it wants to be told these first, none when it has no more.

        Equal arguments, equal answer: what it keeps between asks is a cache. Searches are long, so an ask should not go over
        the whole history each time.

        `space` given: architectures are asked as `Ask.spec`; `dims`: further dimensions, asked as `Ask.values`.
        """


class Stopper(Capability, Generic[O]):
    """Decides at rungs (shares of a trial's whole length) which trials of a generation go on."""

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def rungs(self) -> tuple[float, ...]:
        """Increasing shares in (0, 1); empty = trials run through."""

    @abstractmethod
    def go_on(self, rung: float, losses: Mapping[int, float], history: Sequence[Trial]) -> set[int]:
        """Trial number -> first objective's loss at this rung (NaN = failed); returns those that continue."""
