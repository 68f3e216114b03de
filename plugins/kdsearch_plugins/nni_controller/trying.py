"""Which of NNI's tuners work with the libraries that are installed, as found by trying them, and why the others do not."""

from __future__ import annotations

import pickle
import warnings
from functools import lru_cache
from typing import Any, get_args

from kdsearch.errors import FOREIGN, KdsearchError, one_of, told
from kdsearch.kinds import Dim, Range, Trial
from kdsearch_plugins.nni_controller.axes import Axes
from kdsearch_plugins.nni_controller.library import nni, quiet
from kdsearch_plugins.nni_controller.tuners import Learner, Tuner, batch, grid, learner

ROUNDS = 24

DIMS = (
    Dim("kind", Range(choices=("a", "b", None))),
    Dim("extra", Range(low=0, high=9, integer=True), (("kind", ("b",)),)),
    Dim("width", Range(choices=(4, 8, 16, 32))),
    Dim("steps", Range(low=1, high=1000, log=True, integer=True)),
    Dim("momentum", Range(low=0.0, high=1.0)),
    Dim("rate", Range(low=1e-4, high=1.0, log=True)),
)

# Of NNI's other tuners: its class and arguments, to be tried; or why there is no use in trying
OTHERS: dict[str, tuple[str, dict[str, Any]] | str] = {
    "Anneal": ("hyperopt_tuner:HyperoptTuner", {"algorithm_name": "anneal"}),
    "GP": ("gp_tuner:GPTuner", {"selection_num_warm_up": 64, "selection_num_starting_points": 2}),
    "Metis": ("metis_tuner:MetisTuner", {"cold_start_num": 4}),
    "SMAC": ("smac_tuner:SMACTuner", {}),
    "DNGO": ("dngo_tuner:DNGOTuner", {}),
    "PPO": ("ppo_tuner:PPOTuner", {}),
    "RegularizedEvolution": ("regularized_evolution_tuner:RegularizedEvolutionTuner", {"population_size": 4}),
    "NetworkMorphism": "it searches networks of its own, which it writes to files",
    "BOHB": "it hands out budgets through NNI's own manager",
    "Hyperband": "it hands out budgets through NNI's own manager",
    "PBT": "it copies checkpoints between trials through NNI's own manager",
}
UNSEEDED = "it passes its self-test, but takes no seed, so that a study could not go on where it stopped"


def why_not(name: str) -> str:
    """Why this tuner of NNI is not to be had here, "" where it is.

    Raises:
        PluginError: NNI is not installed.
    """
    other = OTHERS.get(name)
    if isinstance(other, str):
        return other
    nni()  # each time: it may have gone
    return _tried(name)


@lru_cache
def _tried(name: str) -> str:
    other = OTHERS.get(name)
    try:
        with quiet():
            if not isinstance(other, tuple):
                return _try_own(name)
            _try_other(*other)
    except KdsearchError:
        raise
    except FOREIGN as error:
        return f"it fails its self-test with what is installed: {told(error)}"
    return UNSEEDED


def those_that_work() -> str:
    """`A, B or C`."""
    return one_of(name for name in get_args(Tuner) if not why_not(name))


def _try_own(name: str) -> str:
    axes = Axes(None, DIMS, ordered=name == "TPE")
    if name == "GridSearch":
        found = [each for each, _ in zip(grid(axes.json), range(ROUNDS), strict=False)]
        asks = [axes.asked(each) for each in found]
        again = [each for each, _ in zip(grid(axes.json), range(ROUNDS), strict=False)]
        is_whole = len({repr(each) for each in asks}) == ROUNDS
        return "" if found == again and is_whole else "its grid repeats itself"
    if name == "Batch":
        listed = [{"a": i} for i in range(ROUNDS)]
        return "" if list(batch(listed)) == listed else "it does not give what is listed"
    first, second = (
        _course(learner(name, axes.json, seed=1, n_startup=4, liar="best", population=6), axes) for _ in range(2)
    )
    return "" if first == second else "equal seeds, other answers"


def _course(tuner: Learner, axes: Axes) -> list[Any]:
    """What it asks for, told in turn. Raise ValueError for what lies outside the ranges."""
    asks: list[Any] = []
    for number in range(ROUNDS):
        tuner = pickle.loads(pickle.dumps(tuner))
        parameters = tuner.propose(number, 0)
        ask = axes.asked(parameters or {})
        if ask is None or axes.parameters(Trial(number, ask.values)) is None:
            raise ValueError(f"it gives {parameters}")
        tuner.drop(number)
        tuner.tell(number, parameters or {}, ask.values["momentum"] if number % 5 else None, True)
        asks.append(ask)
    return asks


def _try_other(target: str, arguments: dict[str, Any]) -> None:
    """Raise what it raises on numbers and choices, without conditions."""
    warnings.simplefilter(
        "ignore"
    )  # within `quiet`, which puts the filters back: libraries of others, older ones among them
    module, _, name = target.partition(":")
    tuner = getattr(nni(f"algorithms.hpo.{module}"), name)(**arguments)
    json = Axes(None, [dim for dim in DIMS if not dim.when], ordered=True).json
    tuner.update_search_space(json)
    for number in range(ROUNDS):
        parameters = tuner.generate_parameters(number)
        tuner.receive_trial_result(number, parameters, float(number % 7))
