"""NNI's tuners as functions of a history: filled with trials by number, and asked under a seed of each candidate's own.

NNI tells a tuner what became of its own parameters, as results come in. Here it is told every trial by number, with the parameters
that were tried, whoever chose them: of a whole number this is the rounded one, where NNI's TPE remembers what it rounded.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from kdsearch.kit.streams import stream
from kdsearch_plugins.nni_controller.library import nni

Json = dict[str, Any]
Tuner = Literal["TPE", "Evolution", "Random", "GridSearch", "Batch"]
_DRAWS = threading.Lock()


def seed_of(seed: int, *names: object) -> int:
    """In [0, 2**32): what NumPy takes."""
    return int(stream(seed, "nni", *names).initial_seed()) % 2**32


class Learner(ABC):
    """A tuner that draws, with what it was told. Pickled, it is copied."""

    @abstractmethod
    def tell(self, number: int, parameters: Json, loss: float | None, is_over: bool) -> None:
        """A trial, in order of number. `loss` None: it runs, or it failed."""

    @abstractmethod
    def propose(self, number: int, attempt: int) -> Json | None:
        """Parameters for the trial of this number, which runs from now on; None where others must be told first."""

    @abstractmethod
    def drop(self, number: int) -> None:
        """The last proposal is not tried."""


class Tpe(Learner):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), as NNI has written them."""

    def __init__(self, json: Json, seed: int, n_startup: int, liar: str) -> None:
        arguments = {"n_startup_jobs": n_startup, "constant_liar_type": liar}
        self._seed = seed
        self._tuner = nni("algorithms.hpo.tpe_tuner").TpeTuner("minimize", 0, arguments)
        self._tuner.update_search_space(json)

    def tell(self, number: int, parameters: Json, loss: float | None, is_over: bool) -> None:
        formatted = nni("common.hpo_utils").format_parameters(parameters, self._tuner.space)
        self._tuner._running_params[number] = formatted
        if loss is not None:
            self._tuner.receive_trial_result(number, parameters, loss)
        elif is_over:
            self._tuner.trial_end(number, False)

    def propose(self, number: int, attempt: int) -> Json | None:
        self._tuner.rng = np.random.default_rng(seed_of(self._seed, number, attempt))
        return _generated(self._tuner, number)

    def drop(self, number: int) -> None:
        self._tuner.trial_end(number, False)


class Random(Learner):
    """Uniform draws, which nothing is told."""

    def __init__(self, json: Json, seed: int) -> None:
        self._seed = seed
        self._tuner = nni("algorithms.hpo.random_tuner").RandomTuner(0)
        self._tuner.update_search_space(json)

    def tell(self, number: int, parameters: Json, loss: float | None, is_over: bool) -> None:
        pass

    def propose(self, number: int, attempt: int) -> Json | None:
        self._tuner.rng = np.random.default_rng(seed_of(self._seed, number, attempt))
        return _generated(self._tuner, number)

    def drop(self, number: int) -> None:
        pass


class Evolution(Learner):
    """Tournaments of two in a population (Real et al., ICML 2017, as NNI has written it): the loser leaves, the winner mutates.

    Every trial told has had its turn: who leaves for it is drawn anew from its number, so that a history alone says who is left.
    """

    def __init__(self, json: Json, seed: int, population: int) -> None:
        self._seed, self._json = seed, json
        self._module = nni("algorithms.hpo.evolution_tuner")
        self._tuner = self._module.EvolutionTuner(
            "minimize", 0
        )  # its first population is drawn without a seed: none of it
        self._tuner.update_search_space(json)
        self._tuner.population_size = population
        self._before: list[Any] = []
        with self._drawing("population"):
            for _ in range(population):
                self._tuner._random_generate_individual()

    def __getstate__(self) -> Json:
        return {name: value for name, value in self.__dict__.items() if name != "_module"}

    def __setstate__(self, state: Json) -> None:
        self.__dict__ |= state
        self._module = nni("algorithms.hpo.evolution_tuner")

    def tell(self, number: int, parameters: Json, loss: float | None, is_over: bool) -> None:
        with self._drawing(number, 0):
            if self._tuner.population:
                self._tuner.generate_parameters(number)
            self._tuner.running_trials[number] = self._module.Individual(_indexed(self._json, parameters))
            if loss is not None:
                self._tuner.receive_trial_result(number, parameters, loss)
            elif is_over:
                self._tuner.trial_end(number, False)

    def propose(self, number: int, attempt: int) -> Json | None:
        # NNI's own rule, which it keeps where it hands out several at once
        if len(self._tuner.running_trials) >= self._tuner.population_size:
            return None
        self._before = list(self._tuner.population)
        with self._drawing(number, attempt):
            return _generated(self._tuner, number)

    def drop(self, number: int) -> None:
        self._tuner.population = self._before
        del self._tuner.running_trials[number]

    @contextmanager
    def _drawing(self, *names: object) -> Iterator[None]:
        """What the tuner draws is of this stream: by its generator, and by the module `random`, which ours stands in for."""
        seed = seed_of(self._seed, *names)
        self._tuner.random_state = np.random.RandomState(seed)
        with _DRAWS:
            self._module.random = random.Random(seed)
            try:
                yield
            finally:
                self._module.random = random


def learner(name: str, json: Json, seed: int, n_startup: int, liar: str, population: int) -> Learner:
    """The tuner TPE, Evolution or Random over a search space, told nothing yet."""
    if name == "TPE":
        return Tpe(json, seed, n_startup, liar)
    if name == "Evolution":
        return Evolution(json, seed, population)
    return Random(json, seed)


def grid(json: Json) -> Iterator[Json]:
    """Choices by all combinations, numbers by their middle, then quarters, then eighths: endless, unless the space is finite."""
    tuner = nni("algorithms.hpo.gridsearch_tuner").GridSearchTuner()
    tuner.update_search_space(json)
    return _all_of(tuner)


def batch(listed: list[Json]) -> Iterator[Json]:
    """What is listed, in its order."""
    tuner = nni("algorithms.hpo.batch_tuner").BatchTuner()
    tuner.update_search_space({"candidates": {"_type": "choice", "_value": listed}})
    return _all_of(tuner)


def _all_of(tuner: Any) -> Iterator[Json]:
    number = 0
    while (found := _generated(tuner, number)) is not None:
        yield found
        number += 1


def _generated(tuner: Any, number: int) -> Json | None:
    try:
        found: Json = tuner.generate_parameters(number)
    except nni().NoMoreTrialError:
        return None
    return found


def _indexed(json: Json, parameters: Mapping[str, Any]) -> Json:
    """Parameters as the evolution tuner keeps them: a choice with its position."""
    found: Json = {}
    for name, entry in json.items():
        value = parameters[name]
        if entry["_type"] != "choice":
            found[name] = value
        elif isinstance(value, dict):
            at = int(value["_name"])
            nested = {child: each for child, each in entry["_value"][at].items() if child != "_name"}
            found[name] = {"_index": at, "_value": {"_name": value["_name"], **_indexed(nested, value)}}
        else:
            found[name] = {"_index": value, "_value": value}
    return found
