"""Controller: what to try next, as a pure function of what was tried. Stopper: whether a trial goes on at a rung."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal

from kdsearch.errors import PluginError
from kdsearch.kinds.options import Capability, Dim, O, Value
from kdsearch.kinds.space import SearchSpace


@dataclass(frozen=True, slots=True)  # there are thousands of them
class Trial:
    """One evaluated candidate.

    Args:
        number: from 0, in the order of asking.
        values: dimension path -> value.
        spec: canonical architecture spec, or None where the architecture is among `values`.
        losses: objectives, all to be minimised (a maximised one is negated); empty unless complete.
        state: `running`, and `paused` at a rung until it is judged; the others are how it ended.
        violations: one a constraint, <= 0 where it holds.
        over: the limit that ended it, where one did: its key below `run`, and its value then.
        curve: (share of the whole length, objectives as losses) at each rung where it had them.
    """

    number: int
    values: Mapping[str, Value]
    spec: Mapping[str, Any] | None = None
    state: Literal["running", "paused", "complete", "pruned", "failed"] = "complete"
    losses: tuple[float, ...] = ()
    violations: tuple[float, ...] = ()
    curve: tuple[tuple[float, tuple[float, ...]], ...] = ()
    error: str = ""
    over: tuple[str, float] | None = None

    @property
    def is_over(self) -> bool:
        return self.state not in ("running", "paused")

    def at(self, share: float) -> tuple[float, ...] | None:
        """The objectives as losses at this share of its length, None where it had none there."""
        return next((losses for at, losses in self.curve if math.isclose(at, share)), None)


@dataclass(frozen=True)
class Ask:
    """One candidate to evaluate."""

    values: Mapping[str, Value] = field(default_factory=dict)
    spec: Mapping[str, Any] | None = None


def check_asks(given: object) -> None:
    """Raise PluginError for what `ask` gave where that is nothing to take candidates from."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        problem = f"`ask` of the controller gives a {type(given).__name__}"
        raise PluginError(problem, expected="a list of kdsearch.kinds.Ask")


class Controller(Capability, Generic[O]):
    """Telling is a row in the study's storage. Not its work: state, threads, storage.

    reads_facts: it chooses by the facts of a range's choices, so hundreds are welcome; any other is offered a short list.
    """

    reads_facts: ClassVar[bool] = False

    def __init__(self, options: O) -> None:
        self.options = options

    def preflight(self, n_objectives: int) -> None:
        """Before any work: raise UserError for what is not installed or does not work here, and for so many objectives if it cannot
        search for them. `path` of the error: an option's name, or "".
        """

    @abstractmethod
    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        """At most n candidates: fewer where it wants to be told these first, none when it has no more.

        Equal arguments, equal answer: what it keeps between asks is a cache. Searches are long, so an ask should not go over
        the whole history each time. Trials that are `running` have nothing but what was asked: it is not asked again.

        `space` given: architectures are asked as `Ask.spec`; `dims`: further dimensions, asked as `Ask.values`.
        """


class Stopper(Capability, Generic[O]):
    """Decides at rungs (shares of a trial's whole length) whether a trial goes on. Not its work: clocks, workers."""

    def __init__(self, options: O) -> None:
        self.options = options

    @abstractmethod
    def rungs(self) -> tuple[float, ...]:
        """Increasing shares in (0, 1); empty = trials run through."""

    @abstractmethod
    def go_on(self, rung: float, trial: Trial, others: Sequence[Trial]) -> bool:
        """Whether the trial, whose curve reaches to this rung, continues. Equal arguments, equal answer.

        others: all trials of lower numbers, in order: the older ones as they ended, the younger ones `running`, their curves
            cut at this rung. One that was stopped before, or failed, has no losses at it (`Trial.at`).
        """
