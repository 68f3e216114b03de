"""Optuna's samplers as a pure function of the history: a fresh in-memory study is filled with the finished trials and asked.

Constraints are hard: TPE, NSGA-II and GP prefer what keeps them, whatever the losses. Infeasible candidates that were never
measured enter with their violations alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kdsearch.builtin.controllers.drawing import (
    REDRAWS,
    Distinct,
    ask_of,
    draw_values,
    generator,
    is_active,
    parents_first,
)
from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, Options, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.search.axis import Axis

if TYPE_CHECKING:
    import optuna


class OptunaOptions(Options):
    sampler: Literal["tpe", "nsga2", "random", "gp"] = Field(
        "tpe", description="gp is for at most a few hundred trials"
    )
    n_startup: int = Field(10, ge=1, description="random trials before tpe or gp use what they saw")
    population: int = Field(16, ge=2, description="of nsga2: trials a generation")


class Optuna(Controller[OptunaOptions]):
    """Searches the space's dimensions and further ones together.

    Choices that are all numbers are searched as positions in their order; other choices as categories.

    Raises:
        StudyError: the space has no dimensions to search.
    """

    def ask(
        self, space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], n: int, seed: int
    ) -> list[Ask]:
        import optuna

        if space is not None and not space.dims:
            raise StudyError(
                f"optuna cannot search '{type(space).__name__}': it declares no dimensions",
                expected="strategy evolution or random",
            )
        found: list[Ask] = []
        tried = Distinct(space, history)
        axes = {dim.path: Axis(dim) for dim in parents_first([*(space.dims if space else ()), *dims])}
        own = {dim.path for dim in space.dims} if space else set()
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            study = self._study(space, axes, history, seed)
            for _ in range(REDRAWS * n if axes else 1):
                if len(found) == n:
                    break
                trial = study.ask()
                values: dict[str, Value] = {}
                for path, axis in axes.items():
                    if is_active(axis.dim, values):
                        values[path] = axis.suggest(trial)
                ask = self._checked(space, values, own)
                if ask is not None and tried.add(ask):
                    found.append(ask)
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return found + _random_rest(space, dims, history, tried, n - len(found), seed)

    def _checked(self, space: SearchSpace[Any] | None, values: Mapping[str, Value], own: set[str]) -> Ask | None:
        if space is None:
            return ask_of(None, None, values)
        spec = space.at({path: value for path, value in values.items() if path in own})
        others = {path: value for path, value in values.items() if path not in own}
        return ask_of(space, spec, others) if space.is_valid(spec) else None

    def _study(
        self, space: SearchSpace[Any] | None, axes: Mapping[str, Axis], history: Sequence[Trial], seed: int
    ) -> optuna.Study:
        import optuna

        n_losses = max((len(trial.losses) for trial in history if trial.state == "complete"), default=1)
        sampler = self._sampler(int(generator(seed, history).initial_seed() % 2**32))
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * n_losses)
        n_complete = 0
        for trial in sorted(history, key=lambda trial: trial.number):
            told = self._told(space, axes, trial, n_losses, n_complete // self.options.population)
            if told is not None:
                study.add_trial(told)
                n_complete += told.state == optuna.trial.TrialState.COMPLETE
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

    def _told(
        self,
        space: SearchSpace[Any] | None,
        axes: Mapping[str, Axis],
        trial: Trial,
        n_losses: int,
        generation: int,
    ) -> optuna.trial.FrozenTrial | None:
        """The trial as Optuna's; None where it says nothing (failed) or lies outside what is searched now."""
        import optuna
        from optuna.trial import TrialState

        values = dict(trial.values)
        if space is not None and trial.spec is not None:
            values |= space.values(space.parse(dict(trial.spec)))
        params: dict[str, Any] = {}
        for path, axis in axes.items():
            if path in values and is_active(axis.dim, values):
                inner = axis.inner(values[path])
                if inner is None:
                    return None
                params[path] = inner
        broken = sum(max(each, 0.0) for each in trial.violations) > 0
        losses = [each if math.isfinite(each) else 1e30 for each in trial.losses]
        if trial.state == "failed" or not (len(losses) == n_losses or broken or trial.curve):
            return None
        if not losses and broken:
            losses = [0.0] * n_losses  # never compared: infeasible trials are ordered by their violations
        is_complete = trial.state == "complete" or broken
        steps = {round(1000 * share): loss for share, loss in trial.curve if math.isfinite(loss)}
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
            values=losses if is_complete else None,
            params=params,
            distributions={path: axes[path].distribution for path in params},
            constraints={f"c{i}": each for i, each in enumerate(trial.violations)},
            intermediate_values=steps if n_losses == 1 else {},
            # NSGA-II reads the generation from here: without it, every ask of a fresh study were random
            system_attrs={optuna.samplers.NSGAIISampler._get_generation_key(): generation},
        )


def _random_rest(
    space: SearchSpace[Any] | None, dims: Sequence[Dim], history: Sequence[Trial], tried: Distinct, n: int, seed: int
) -> list[Ask]:
    """n more, uniformly, where the sampler only repeats itself."""
    rng = generator(seed + 1, history)
    found: list[Ask] = []
    for _ in range(REDRAWS * n):
        if len(found) == n:
            break
        ask = ask_of(space, space.sample(rng) if space else None, draw_values(dims, rng))
        if tried.add(ask):
            found.append(ask)
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
