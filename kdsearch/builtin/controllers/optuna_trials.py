"""Our trials as Optuna's: the way there, and which of them NSGA-II needs to see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdsearch.kinds import Ask, Dim, SearchSpace, Trial
from kdsearch.kinds.options import Value
from kdsearch.kit.candidates import ask_of
from kdsearch.kit.dims import Axis, is_active, parents_first
from kdsearch.kit.histories import Folded

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


class Axes:
    """The dimensions of the space and the further ones, each after those its conditions name."""

    def __init__(self, space: SearchSpace[Any] | None, dims: Sequence[Dim]) -> None:
        self.space, self.dims = space, tuple(dims)
        own = space.dims if space is not None else ()
        self.by_path = {dim.path: Axis(dim) for dim in parents_first([*own, *dims])}
        self._own = {dim.path for dim in own}

    def asked(self, trial: optuna.Trial) -> Ask | None:
        """The candidate that the sampler picks; None where the space cannot build it."""
        values: dict[str, Value] = {}
        for path, axis in self.by_path.items():
            if is_active(axis.dim, values):
                values[path] = axis.suggest(trial)
        if self.space is None:
            return ask_of(None, None, values)
        spec = self.space.at({path: value for path, value in values.items() if path in self._own})
        others = {path: value for path, value in values.items() if path not in self._own}
        return ask_of(self.space, spec, others) if self.space.is_valid(spec) else None

    def told(self, trial: Trial, n_losses: int) -> FrozenTrial | None:
        """The trial as Optuna's; None where it says nothing (failed) or lies outside what is searched now."""
        import optuna
        from optuna.trial import TrialState

        params = self._params(trial)
        broken = sum(max(each, 0.0) for each in trial.violations) > 0
        losses = [each if math.isfinite(each) else 1e30 for each in trial.losses]
        if params is None or trial.state == "failed" or not (len(losses) == n_losses or broken or trial.curve):
            return None
        if not losses and broken:
            losses = [0.0] * n_losses  # never compared: infeasible trials are ordered by their violations
        is_complete = trial.state == "complete" or broken
        steps = {round(1000 * share): found[0] for share, found in trial.curve if math.isfinite(found[0])}
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
            values=losses if is_complete else None,
            params=params,
            distributions={path: self.by_path[path].distribution for path in params},
            constraints={f"c{i}": each for i, each in enumerate(trial.violations)},
            intermediate_values=steps if n_losses == 1 else {},
            # NSGA-II reads the generation from here: without it, every ask of a fresh study were random
            system_attrs={optuna.samplers.NSGAIISampler._get_generation_key(): 0},
        )

    def _params(self, trial: Trial) -> dict[str, Any] | None:
        values = dict(trial.values)
        if self.space is not None and trial.spec is not None:
            values |= self.space.values(self.space.parse(dict(trial.spec)))
        params: dict[str, Any] = {}
        for path, axis in self.by_path.items():
            if path in values and is_active(axis.dim, values):
                inner = axis.inner(values[path])
                if inner is None:
                    return None
                params[path] = inner
        return params


@dataclass
class _Generations:
    """The parents of the present generation (none in the first), and the complete trials of it so far."""

    parents: list[FrozenTrial] = field(default_factory=list)
    present: list[FrozenTrial] = field(default_factory=list)


class Elites:
    """The parents that Optuna's NSGA-II breeds the next candidates from, found as the history grows.

    Every P complete trials are a generation, in order of number; the parents of the next are the P best of it and its own parents.
    """

    def __init__(self, population: int) -> None:
        self._size = population
        self._folded: Folded[_Generations] = Folded()

    def of(self, axes: Axes, told: Sequence[Trial], n_losses: int) -> list[FrozenTrial]:
        """Trials for a fresh study: the parents as its first generation; before there are any, what was told so far."""
        from optuna.trial import TrialState

        def add(found: _Generations, trial: Trial) -> None:
            frozen = axes.told(trial, n_losses)
            if frozen is None or frozen.state != TrialState.COMPLETE:
                return
            found.present.append(frozen)
            if len(found.present) == self._size:
                found.parents, found.present = self._selected(found.parents + found.present, n_losses), []

        found, others = self._folded.of((axes.space, axes.dims, n_losses), told, _Generations, add)
        if others:
            found = _Generations([*found.parents], [*found.present])
            for trial in others:
                add(found, trial)
        return found.parents or found.present

    def _selected(self, trials: Sequence[FrozenTrial], n_losses: int) -> list[FrozenTrial]:
        """The P best by constraints, front and crowding, in Optuna's order."""
        import optuna

        sampler = optuna.samplers.NSGAIISampler(population_size=self._size)
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * n_losses)
        study.add_trials(trials)  # as its first generation, of which the parents of the second are drawn
        parents: list[FrozenTrial] = sampler.get_parent_population(study, 1)
        return parents
