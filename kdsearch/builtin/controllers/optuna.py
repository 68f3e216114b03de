"""Optuna's samplers as a pure function of the history: an in-memory study is filled with the finished trials and asked.

Constraints are hard: TPE, NSGA-II and GP prefer what keeps them, whatever the losses. Infeasible candidates that were never
measured enter with their violations alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kdsearch.builtin.controllers.optuna_trials import Axes, Elites
from kdsearch.builtin.controllers.population import Survival
from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, Options, SearchSpace, Trial
from kdsearch.kit.candidates import Distinct, Tried, drawn, generator, new_ones
from kdsearch.kit.histories import in_order

if TYPE_CHECKING:
    import optuna

# trials that TPE and GP learn from: the best and the youngest half of so many, and up to RENEWED younger ones
SEEN = 256
RENEWED = 64  # trials after which these are chosen anew: a study is filled by copies, which takes longer than asking it
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
        self._filled = Filled()
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
        return found + new_ones(n - len(found), tried, lambda: drawn(space, dims, rng), space, dims)

    def _study(self, axes: Axes, told: Sequence[Trial], seed: int) -> optuna.Study:
        import optuna

        n_losses = next((len(trial.losses) for trial in told if trial.state == "complete"), 1)
        if self.options.sampler in ("tpe", "gp"):
            study = self._filled.of(axes, told, n_losses, self._shown)
        else:
            study = optuna.create_study(directions=["minimize"] * n_losses)
            if self.options.sampler == "nsga2":
                study.add_trials(self._elites.of(axes, told, n_losses))
        study.sampler = self._sampler(seed)
        return study

    def _shown(self, told: Sequence[Trial]) -> list[Trial]:
        """The best and the youngest half of SEEN, by number."""
        best = self._best.of(told).members if len(told) > SEEN // 2 else ()
        return [trial for _, trial in sorted({each.number: each for each in (*told[-SEEN // 2 :], *best)}.items())]

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        from optuna import samplers

        if self.options.sampler == "tpe":
            return samplers.TPESampler(n_startup_trials=self.options.n_startup, seed=seed)
        if self.options.sampler == "nsga2":
            return samplers.NSGAIISampler(population_size=self.options.population, seed=seed)
        if self.options.sampler == "gp":
            return samplers.GPSampler(n_startup_trials=self.options.n_startup, seed=seed)
        return samplers.RandomSampler(seed=seed)


class Filled:
    """A study that holds trials of the history, kept while that goes on; only a cache, so equal histories give equal answers.

    What was asked of it before has failed in it: neither TPE nor GP looks at such trials.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._told: list[Trial] = []
        self._study: optuna.Study | None = None

    def of(
        self, axes: Axes, told: Sequence[Trial], n_losses: int, shown: Callable[[Sequence[Trial]], Sequence[Trial]]
    ) -> optuna.Study:
        """told: by number. shown: of the settled ones, those that are looked at."""
        import optuna

        n = len(self._told)
        goes_on = list(told[:n]) == self._told
        ended = [*(self._told if goes_on else ()), *(trial for trial in told[n if goes_on else 0 :] if trial.is_over)]
        settled = 0 if len(ended) <= SEEN else len(ended) // RENEWED * RENEWED
        key = (axes.space, axes.dims, n_losses, settled)
        study, self._study = self._study, None  # an error below leaves nothing half filled behind
        if study is None or key != self._key or not goes_on:
            study = optuna.create_study(directions=["minimize"] * n_losses)
            new = [*shown(ended[:settled]), *ended[settled:]]
        else:
            new = ended[n:]
        study.add_trials([each for trial in new if (each := axes.told(trial, n_losses))])
        self._key, self._told, self._study = key, ended, study
        return study


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
        study.tell(trial, state=TrialState.FAIL)  # its outcome is told by the history
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
