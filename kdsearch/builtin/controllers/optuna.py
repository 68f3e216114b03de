"""Optuna's samplers as a pure function of the history: a fresh in-memory study is filled with the finished trials and asked.

Constraints are hard: TPE, NSGA-II and GP prefer what keeps them, whatever the losses. Infeasible candidates that were never
measured enter with their violations alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kdsearch.builtin.controllers.drawing import Distinct, Tried, drawn, generator, new_ones
from kdsearch.builtin.controllers.folded import in_order
from kdsearch.builtin.controllers.optuna_trials import Axes, Elites
from kdsearch.builtin.controllers.population import Survival
from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, Options, SearchSpace, Trial

if TYPE_CHECKING:
    import optuna

SEEN = 256  # trials that TPE and GP learn from: the best and the youngest half of so many
DRAWS = 2  # draws for each wanted candidate: TPE takes 5 to 30 ms for one, and repeats itself once it knows


class OptunaOptions(Options):
    sampler: Literal["tpe", "nsga2", "random", "gp"] = Field(
        "tpe", description="gp is for at most a few hundred trials"
    )
    n_startup: int = Field(10, ge=1, description="random trials before tpe or gp use what they saw")
    population: int = Field(16, ge=2, description="of nsga2: trials a generation")
    generation: int = Field(16, ge=1, description="most candidates asked at once, before any of them is told")


class Optuna(Controller[OptunaOptions]):
    """Searches the space's dimensions and further ones together.

    Choices that are all numbers are searched as positions in their order; other choices as categories.

    Raises:
        StudyError: the space has no dimensions to search.
    """

    def __init__(self, options: OptunaOptions) -> None:
        super().__init__(options)
        self._tried = Tried()
        self._best = Survival(SEEN // 2, "best", SEEN // 4)
        self._elites = Elites(options.population)

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        if space is not None and not space.dims:
            raise StudyError(
                f"optuna cannot search '{type(space).__name__}': it declares no dimensions",
                expected="strategy evolution or random",
                fix="For several objectives: {use: evolution, options: {survivors: best, sample: 2}} is NSGA-II by mutation.",
            )
        n, told = min(n, self.options.generation), in_order(history)
        tried = self._tried.of(space, told)
        axes = Axes(space, dims)
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            study = self._study(axes, told, int(generator(seed, history).initial_seed() % 2**32))
            found = _asked(study, axes, tried, n)
        rng = generator(seed + 1, history)
        return found + new_ones(n - len(found), tried, lambda: drawn(space, dims, rng))

    def _study(self, axes: Axes, told: Sequence[Trial], seed: int) -> optuna.Study:
        import optuna

        n_losses = max((len(trial.losses) for trial in told if trial.state == "complete"), default=1)
        sampler = self._sampler(seed)
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * n_losses)
        if self.options.sampler == "nsga2":
            study.add_trials(self._elites.of(axes, told, n_losses))
        elif self.options.sampler != "random":
            shown = {trial.number: trial for trial in told[-SEEN // 2 :]}
            if len(told) > len(shown):
                shown |= {trial.number: trial for trial in self._best.of(told).members}
            study.add_trials([each for _, trial in sorted(shown.items()) if (each := axes.told(trial, n_losses))])
        return study

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        from optuna import samplers

        if self.options.sampler == "tpe":
            return samplers.TPESampler(n_startup_trials=self.options.n_startup, seed=seed)
        if self.options.sampler == "nsga2":
            return samplers.NSGAIISampler(population_size=self.options.population, seed=seed)
        if self.options.sampler == "gp":
            return samplers.GPSampler(n_startup_trials=self.options.n_startup, seed=seed)
        return samplers.RandomSampler(seed=seed)


def _asked(study: optuna.Study, axes: Axes, tried: Distinct, n: int) -> list[Ask]:
    """Up to n new candidates; a sampler that keeps to what was tried is asked for twice as many and no more."""
    from optuna.trial import TrialState

    found: list[Ask] = []
    for _ in range(DRAWS * n if axes.by_path else 1):
        if len(found) == n:
            break
        trial = study.ask()
        ask = axes.asked(trial)
        if ask is not None and tried.add(ask):
            found.append(ask)
        else:
            study.tell(trial, state=TrialState.FAIL)
    return found


class quiet:  # noqa: N801 - used as a word: with quiet()
    """Optuna's own log lines at WARNING and above only; the level is put back."""

    def __enter__(self) -> None:
        from optuna import logging

        self._level = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        from optuna import logging

        logging.set_verbosity(self._level)
