"""Controller `nni`: the tuners of NNI (Neural Network Intelligence 3.0, Microsoft), in this process and by trials that are told.

NNI's own experiment, web server, files and clocks take no part: a tuner is filled with the history and asked.
"""

from __future__ import annotations

import math
import pickle
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kdsearch.errors import KdsearchError, PluginError, StudyError
from kdsearch.kinds import Ask, Controller, Dim, Options, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kit.candidates import Distinct, Tried, drawn, generator, key_of, new_ones
from kdsearch.kit.histories import Folded, in_order
from kdsearch.kit.pareto import violation
from kdsearch_plugins.nni_controller.axes import Axes
from kdsearch_plugins.nni_controller.library import quiet
from kdsearch_plugins.nni_controller.trying import OTHERS, those_that_work, why_not
from kdsearch_plugins.nni_controller.tuners import Learner, Tuner, batch, grid, learner

LEARNERS = ("TPE", "Evolution")  # the others choose without what is told
SEEN = 256  # trials that TPE learns from: the best and the youngest half of so many, and up to RENEWED younger ones
RENEWED = 64  # trials after which these are chosen anew
DRAWS = 10  # proposals for each wanted candidate before uniform draws stand in
MOST = 100_000  # candidates of a list
STALE = 20_000  # grid points in a row that are no new candidate before the grid counts as run through
BROKEN = 1e30  # told of what breaks a constraint, times 1 + by how much: worse than any loss


def _offered(value: Any) -> Any:
    """One of NNI's other tuners is refused with the reason."""
    if value not in OTHERS:
        return value
    try:
        raise ValueError(f"{those_that_work()}; NNI's {value} is not available: {why_not(value)}")
    except KdsearchError as error:  # NNI itself is missing, which is said where it is used
        raise ValueError(f"one of NNI's tuners that are offered; {error}") from error


class NniOptions(Options):
    tuner: Annotated[Tuner, BeforeValidator(_offered)] = Field("TPE", description="NNI's name of it")
    n_startup: int = Field(20, ge=1, description="of TPE: random trials before it uses what it was told")
    liar: Literal["best", "worst"] = Field("best", description="of TPE: as what trials that run are counted")
    population: int = Field(32, ge=2, description="of Evolution: members, those that run among them")
    sets: tuple[Mapping[str, Value], ...] = Field(
        ({},),
        description="of Batch: values by path, in the order of trying; what a set leaves out takes every value of its range",
    )
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (), description="of several objectives, in the study's order: a tuner is told the sum of weight x loss"
    )
    generation: int = Field(16, ge=1, description="most candidates asked at once, before any of them is told")


class Nni(Controller[NniOptions]):
    """Searches the space's dimensions and further ones together, for one number.

    A trial that breaks a constraint is told as worse than any loss, the more so the more it breaks; one that was stopped with its
    last losses, as NNI does where it includes intermediate results; one that failed as failed.

    Raises:
        StudyError: the space has no dimensions; several objectives without as many weights; a set that does not fit (Batch).
        PluginError: NNI is not installed, or the tuner does not work with what is.
    """

    def __init__(self, options: NniOptions) -> None:
        super().__init__(options)
        self._tried = Tried()
        self._best: Folded[list[tuple[float, int, Trial]]] = Folded()
        self._learners: Folded[Learner] = Folded()
        self._places: Folded[_Place] = Folded()

    def preflight(self, n_objectives: int) -> None:
        self._check_weights(n_objectives)
        name = self.options.tuner
        if why := why_not(name):
            raise PluginError(f"NNI's {name} is not available: {why}", path="tuner", expected=those_that_work())

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        if space is not None and not space.dims:
            raise StudyError(
                f"nni cannot search '{type(space).__name__}': it declares no dimensions",
                expected="strategy evolution or random",
            )
        n, told = min(n, self.options.generation), in_order(history)
        tried = self._tried.of(space, told)
        axes = Axes(space, dims, ordered=self.options.tuner == "TPE")
        if not axes.by_path:
            return [Ask()] if n and tried.add(Ask()) else []
        with quiet():
            if self.options.tuner in ("GridSearch", "Batch"):
                return self._next_of(axes, told, tried, n)
            tuner = self._filled(axes, told, seed)
            found, has_more = _asked(tuner, axes, tried, len(told), n)
        rng = generator(seed, history)
        return found + new_ones(n - len(found) if has_more else 0, tried, lambda: drawn(space, dims, rng), space, dims)

    def _filled(self, axes: Axes, told: Sequence[Trial], seed: int) -> Learner:
        """A tuner that was told these trials, to be changed: those up to the first that runs are told once as the history grows."""
        o, key = self.options, (axes.space, axes.dims, seed)
        if o.tuner not in LEARNERS:
            return learner(o.tuner, axes.json, seed, o.n_startup, o.liar, o.population)
        n_over = next((i for i, trial in enumerate(told) if not trial.is_over), len(told))
        settled = n_over // RENEWED * RENEWED if o.tuner == "TPE" and n_over > SEEN else 0

        def start() -> Learner:
            return learner(o.tuner, axes.json, seed, o.n_startup, o.liar, o.population)

        def tell(tuner: Learner, trial: Trial) -> None:
            if (parameters := axes.parameters(trial)) is not None:
                tuner.tell(trial.number, parameters, self._loss(trial), trial.is_over)

        seen = [*self._shown(told[:settled]), *told[settled:n_over]]
        tuner: Learner = pickle.loads(pickle.dumps(self._learners.of((*key, settled), seen, start, tell)[0]))
        for trial in told[n_over:]:
            tell(tuner, trial)
        return tuner

    def _shown(self, settled: Sequence[Trial]) -> list[Trial]:
        """The best and the youngest half of SEEN, by number."""

        def add(best: list[tuple[float, int, Trial]], trial: Trial) -> None:
            if (loss := self._loss(trial)) is not None:
                insort(best, (loss, trial.number, trial), key=itemgetter(0, 1))
                del best[SEEN // 2 :]

        best = self._best.of(None, settled, list, add)[0] if settled else []
        return in_order(
            list({each.number: each for each in (*settled[-SEEN // 2 :], *(each for *_, each in best))}.values())
        )

    def _loss(self, trial: Trial) -> float | None:
        """What the tuner is told of a trial; None where nothing is known."""
        if (broken := violation(trial.violations)) > 0:
            return BROKEN * (1 + min(broken, BROKEN))
        losses = trial.losses if trial.state == "complete" else ()
        if trial.state == "pruned" and trial.curve:
            losses = trial.curve[-1][1]
        if not losses or not all(map(math.isfinite, losses)):
            return None
        self._check_weights(len(losses))
        weights = self.options.weights if len(losses) > 1 else (1.0,)
        return math.fsum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    def _check_weights(self, n_objectives: int) -> None:
        name, n_weights = self.options.tuner, len(self.options.weights)
        if name in LEARNERS and n_objectives > 1 and n_weights != n_objectives:
            raise StudyError(
                f"NNI's {name} minimises one number; there are {n_objectives} objectives, and {n_weights} weights for their sum",
                path="weights",
                expected=f"{n_objectives} weights, of the objectives in their order",
                fix="For a front use the controller surrogate, evolution or optuna.",
            )

    def _next_of(self, axes: Axes, told: Sequence[Trial], tried: Distinct, n: int) -> list[Ask]:
        """The next candidates of an enumeration that were not tried: it goes on where it stood."""
        key = (axes.space, axes.dims)
        place, _ = self._places.of(key, told, lambda: _Place(self._every(axes)), lambda *_: None)
        place.given = [ask for ask in place.given if not tried.has_ended(ask)]
        found = list(islice((ask for ask in place.given if tried.add(ask)), n))
        while len(found) < n and (ask := next(place.rest, None)) is not None:
            if not tried.has_ended(ask):
                place.given.append(ask)
            if tried.add(ask):
                found.append(ask)
        return found

    def _every(self, axes: Axes) -> Iterator[Ask]:
        """Each candidate of the tuner once."""
        if self.options.tuner == "Batch":
            asks = map(axes.ask_of, batch(axes.listed(self.options.sets, MOST)))
        else:
            asks = map(axes.asked, grid(axes.json))
        seen: set[str] = set()
        stale = 0
        for ask in asks:
            key = key_of(axes.space, ask.spec, ask.values) if ask is not None else ""
            stale += 1
            if ask is not None and key not in seen:
                seen.add(key)
                stale = 0
                yield ask
            if stale > STALE:  # what is halved again and again is a number that no candidate reads
                return


@dataclass
class _Place:
    """Where an enumeration stands, and what it gave that has not ended."""

    rest: Iterator[Ask]
    given: list[Ask] = field(default_factory=list)


def _asked(tuner: Learner, axes: Axes, tried: Distinct, number: int, n: int) -> tuple[list[Ask], bool]:
    """Up to n new candidates, and whether further ones may be asked before others are told."""
    found: list[Ask] = []
    for _ in range(n):
        for attempt in range(DRAWS):
            parameters = tuner.propose(number + len(found), attempt)
            if parameters is None:
                return found, False
            ask = axes.asked(parameters)
            if ask is not None and tried.add(ask):
                found.append(ask)
                break
            tuner.drop(number + len(found))
    return found, True
