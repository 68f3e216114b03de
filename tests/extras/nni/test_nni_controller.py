"""The contract for each of NNI's tuners, that they are NNI's own, and that a history alone says what they answer."""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

if importlib.util.find_spec("nni") is None:
    pytest.skip("the extra nni is not installed", allow_module_level=True)

from kdsearch_plugins.nni_controller import controller as nni_controller
from kdsearch_plugins.nni_controller import tuners
from kdsearch_plugins.nni_controller.controller import Nni, NniOptions
from kdsearch_plugins.nni_controller.library import nni
from kdsearch_plugins.nni_controller.tuners import seed_of

from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, Range, Trial
from kdsearch.testing.controller import DIMS, ControllerContract, HillSpace, hill_loss

PLANE = (Dim("x", Range(low=0.0, high=1.0)), Dim("y", Range(low=0.0, high=1.0)))


def quadratic(ask: Ask) -> float:
    return (ask.values["x"] - 0.3) ** 2 + (ask.values["y"] - 0.7) ** 2


def made(tuner: str, **options: object) -> Nni:
    return Nni(NniOptions(tuner=tuner, **options))


class TestTpe(ControllerContract):
    most_objectives = 2

    def controller(self) -> Controller:
        return made("TPE", n_startup=4, weights=(1.0, 0.5))


class TestWorstLiar(ControllerContract):
    most_objectives = 2

    def controller(self) -> Controller:
        return made("TPE", n_startup=4, liar="worst", weights=(1.0, 0.5))


class TestEvolution(ControllerContract):
    most_objectives = 2

    def controller(self) -> Controller:
        return made("Evolution", population=16, weights=(1.0, 0.5))


class TestRandom(ControllerContract):
    def controller(self) -> Controller:
        return made("Random")


class TestGridSearch(ControllerContract):
    wants_finite = True  # it takes others too, see below; a seed says nothing to it

    def controller(self) -> Controller:
        return made("GridSearch")


class TestBatch(ControllerContract):
    wants_finite = True

    def controller(self) -> Controller:
        return made("Batch")


NESTED = (
    *DIMS,
    Dim("width", Range(choices=(32, 4, 8))),
    Dim("steps", Range(low=1, high=50, integer=True, log=True)),
)


def by_hand() -> dict:
    """NESTED as a user of NNI would write it; `kind` is a, (b, 2), c, null."""
    extra = {"extra": {"_type": "quniform", "_value": [-0.499, 9.499, 1]}}
    return {
        "rate": {"_type": "loguniform", "_value": [1e-4, 1.0]},
        "kind": {
            "_type": "choice",
            "_value": [{"_name": "0"}, {"_name": "1", **extra}, {"_name": "2", **extra}, {"_name": "3"}],
        },
        "width": {"_type": "choice", "_value": [0, 1, 2]},
        "steps": {"_type": "qloguniform", "_value": [1 - 0.499, 50.499, 1]},
    }


def read(parameters: dict) -> dict:
    kind = parameters["kind"]
    values = {
        "rate": min(max(float(parameters["rate"]), 1e-4), 1.0),
        "kind": ("a", ("b", 2), "c", None)[int(kind["_name"])],
        "width": (32, 4, 8)[int(parameters["width"])],
        "steps": int(parameters["steps"]),
    }
    return {**values, "extra": int(kind["extra"])} if "extra" in kind else values


def loss_of(values: dict) -> float:
    return (
        values["rate"]
        + 0.1 * values.get("extra", 4)
        + 0.01 * values.get("width", 0)
        + abs(values.get("steps", 9) - 9) / 50
    )


def asked_in_turn(controller: Nni, dims: tuple[Dim, ...], n: int, seed: int) -> list[dict]:
    history: list[Trial] = []
    for number in range(n):
        (ask,) = controller.ask(None, dims, history, 1, seed)
        history.append(Trial(number, ask.values, None, "complete", (loss_of(dict(ask.values)),)))
    return [dict(trial.values) for trial in history]


def test_tpe_is_nni_s_own() -> None:
    """Its class, driven as NNI drives it with a search space written by hand, asks for the same candidates."""
    tuner = nni("algorithms.hpo.tpe_tuner").TpeTuner("minimize", 0, {"n_startup_jobs": 5})
    extra = {"extra": {"_type": "uniform", "_value": [0.0, 9.0]}}
    nested = [{"_name": "0"}, {"_name": "1", **extra}, {"_name": "2", **extra}, {"_name": "3"}]
    rate = {"_type": "loguniform", "_value": [1e-4, 1.0]}
    tuner.update_search_space({"rate": rate, "kind": {"_type": "choice", "_value": nested}})
    expected = []
    for number in range(40):
        tuner.rng = np.random.default_rng(seed_of(3, number, 0))
        parameters = tuner.generate_parameters(number)
        kind = dict(parameters["kind"])
        name = ("a", ("b", 2), "c", None)[int(kind.pop("_name"))]
        expected.append({"rate": parameters["rate"], "kind": name, **kind})
        tuner.receive_trial_result(number, parameters, loss_of(expected[-1]))
    dims = (DIMS[0], replace(DIMS[1], range=Range(low=0.0, high=9.0)), DIMS[2])
    assert asked_in_turn(made("TPE", n_startup=5), dims, 40, 3) == expected


def test_evolution_is_nni_s_own() -> None:
    """Its class with both of its generators seeded; a mutation that changes nothing is drawn anew, as nothing is tried twice."""
    tuner = nni("algorithms.hpo.evolution_tuner").EvolutionTuner("minimize", 0)
    tuner.update_search_space(by_hand())
    tuner.population_size = 6
    tuner.random_state = np.random.RandomState(seed_of(3, "population"))
    for _ in range(6):
        tuner._random_generate_individual()
    expected, before = [], random.getstate()
    for number in range(40):
        population = list(tuner.population)
        for attempt in range(10):
            tuner.population = list(population)
            random.seed(seed_of(3, number, attempt))
            tuner.random_state = np.random.RandomState(seed_of(3, number, attempt))
            parameters = tuner.generate_parameters(number)
            if (values := read(parameters)) not in expected:
                break
        if attempt:  # who left is drawn by the number alone
            own, tuner.population = tuner.running_trials[number], list(population)
            random.seed(seed_of(3, number, 0))
            tuner.random_state = np.random.RandomState(seed_of(3, number, 0))
            tuner.generate_parameters(number)
            tuner.running_trials[number] = own
        expected.append(values)
        tuner.receive_trial_result(number, parameters, loss_of(values))
    random.setstate(before)
    assert asked_in_turn(made("Evolution", population=6), NESTED, 40, 3) == expected


def test_random_covers_its_ranges_evenly() -> None:
    dims = (Dim("n", Range(low=0, high=3, integer=True)), Dim("u", Range(low=0.0, high=1.0)))
    asks = [ask for seed in range(5) for ask in made("Random", generation=200).ask(None, dims, [], 200, seed)]
    counts = Counter(ask.values["n"] for ask in asks)
    assert set(counts) == {0, 1, 2, 3}
    assert all(200 < count < 300 for count in counts.values())  # 250 +- 13.7
    assert statistics.mean(ask.values["u"] for ask in asks) == pytest.approx(0.5, abs=0.03)


CUBE = tuple(Dim(f"x{i}", Range(low=0.0, high=1.0)) for i in range(5))


def bowl(ask: Ask) -> float:
    """Least, 0, at x0 = 1/6, x1 = 2/6, ..., x4 = 5/6."""
    return sum((ask.values[f"x{i}"] - (i + 1) / 6) ** 2 for i in range(5))


def best_of(controller: Controller, on_hill: bool, seed: int) -> float:
    space, dims, loss, n = (HillSpace(), DIMS, hill_loss, 64) if on_hill else (None, CUBE, bowl, 100)
    history: list[Trial] = []
    while len(history) < n:
        for ask in controller.ask(space, dims, history, 4, seed):
            history.append(Trial(len(history), ask.values, ask.spec, "complete", (loss(ask),)))
    return min(trial.losses[0] for trial in history)


@pytest.mark.parametrize("options", [{"tuner": "TPE", "n_startup": 10}, {"tuner": "Evolution", "population": 10}])
@pytest.mark.parametrize(("on_hill", "share"), [(False, 0.5), (True, 0.75)], ids=["quadratic", "hill"])
def test_beats_random_over_seeds(options: dict, on_hill: bool, share: float) -> None:
    seeds = range(8)
    found = [best_of(made(**options), on_hill, seed) for seed in seeds]
    by_chance = [best_of(made("Random"), on_hill, seed) for seed in seeds]
    assert statistics.mean(found) < share * statistics.mean(by_chance)


@pytest.mark.parametrize("tuner", ["TPE", "Evolution"])
def test_learns_what_is_feasible(tuner: str) -> None:
    """What breaks a constraint (x above 0.2) is never measured; its amount alone is told."""
    history: list[Trial] = []
    controller = made(tuner, population=16, n_startup=16)
    while len(history) < 96:
        for ask in controller.ask(None, PLANE, history, 4, 1):
            broken, number = ask.values["x"] - 0.2, len(history)
            if broken > 0:
                history.append(Trial(number, ask.values, None, "pruned", (), (broken,)))
            else:
                history.append(Trial(number, ask.values, None, "complete", (-ask.values["x"],), (broken,)))
    early, late = history[:16], history[-32:]
    shares = [statistics.mean(trial.state == "complete" for trial in part) for part in (early, late)]
    assert shares[1] > 0.6 > 0.4 > shares[0]


def mixed(number: int, ask: Ask) -> Trial:
    """A trial of the plane: complete, infeasible, stopped or failed."""
    loss = quadratic(ask)
    trial = Trial(number, ask.values, None, "complete", (loss,), (0.5 if number % 7 == 3 else -0.5,))
    if number % 5 == 4:
        trial = replace(trial, state="failed", losses=())
    if number % 4 == 1:
        trial = replace(trial, state="pruned", losses=(), violations=(), curve=((0.5, (loss,)),))
    return trial


@pytest.mark.parametrize("tuner", ["TPE", "Evolution"])
def test_what_is_kept_answers_as_a_fresh_one_and_is_told_each_trial_once(
    tuner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what TPE looks at, too; with trials that run, and where histories change."""
    monkeypatch.setattr(nni_controller, "SEEN", 12)
    monkeypatch.setattr(nni_controller, "RENEWED", 5)
    cls: type[tuners.Learner] = {"TPE": tuners.Tpe, "Evolution": tuners.Evolution}[tuner]
    tell, n_told, sizes = cls.tell, [0], []

    def counted(self: tuners.Learner, *arguments: object) -> None:
        n_told[0] += 1
        tell(self, *arguments)

    monkeypatch.setattr(cls, "tell", counted)
    kept = made(tuner, n_startup=4, population=8)
    history: list[Trial] = []
    for number in range(40):
        running = [replace(each, state="running", losses=(), curve=()) for each in history[-1:]]
        told = [*history[:-1], *running] if number % 3 == 2 else history
        n_told[0] = 0
        asks = kept.ask(None, PLANE, told, 2, 7)
        sizes.append(n_told[0])
        assert asks == made(tuner, n_startup=4, population=8).ask(None, PLANE, told, 2, 7), number
        history.append(mixed(number, asks[0]))
    most = {"TPE": 12 + 5 + 1, "Evolution": 2}[tuner]  # at most: all that is looked at, when that is chosen anew
    assert max(sizes) <= most
    assert statistics.median(sizes) <= 2
    other = [each.ask(None, PLANE, history, 2, 8) for each in (kept, made(tuner, n_startup=4, population=8))]
    assert other[0] == other[1] != kept.ask(None, PLANE, history, 2, 7), "another seed has another population"
    shorter = history[:6]
    fresh = made(tuner, n_startup=4, population=8)
    assert kept.ask(None, PLANE, shorter, 2, 7) == fresh.ask(None, PLANE, shorter, 2, 7)
    assert kept.ask(HillSpace(), DIMS, [], 2, 7) == fresh.ask(HillSpace(), DIMS, [], 2, 7)


@pytest.mark.parametrize("tuner", ["TPE", "Evolution"])
def test_outcomes_are_told_as_nni_tells_them(tuner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name = {"TPE": ("tpe_tuner", "TpeTuner"), "Evolution": ("evolution_tuner", "EvolutionTuner")}[tuner]
    cls, calls = getattr(nni(f"algorithms.hpo.{module}"), name), []

    def spied(method: str) -> Callable[..., None]:
        own = getattr(cls, method)

        def call(self: object, number: int, *arguments: object) -> None:
            calls.append((method, number, arguments[-1]))
            own(self, number, *arguments)

        return call

    for method in ("receive_trial_result", "trial_end"):
        monkeypatch.setattr(cls, method, spied(method))
    at = {"x": 0.5, "y": 0.5}
    history = [
        Trial(0, at, None, "complete", (3.0, 4.0), (-1.0,)),
        Trial(1, at, None, "pruned", (), (), ((0.2, (9.0, 9.0)), (0.5, (5.0, 2.0)))),
        Trial(2, at, None, "failed", error="NaN"),
        Trial(3, at, None, "complete", (1.0, 1.0), (1.0, -2.0)),
        Trial(4, {"x": 7.0, "y": 0.5}, None, "complete", (0.0, 0.0)),  # outside what is searched now
        Trial(5, at, None, "running"),
    ]
    controller = made(tuner, weights=(1.0, 0.5))
    controller.ask(None, PLANE, history, 1, 0)
    told = [call for call in calls if call[1] < 6]
    assert told == [
        ("receive_trial_result", 0, 5.0),
        ("receive_trial_result", 1, 6.0),
        ("trial_end", 2, False),
        ("receive_trial_result", 3, 2e30),
    ]


def test_evolution_waits_where_its_whole_population_runs() -> None:
    controller = made("Evolution", population=4)
    first = controller.ask(None, PLANE, [], 16, 0)
    assert len(first) == 4
    running = [Trial(i, ask.values, None, "running") for i, ask in enumerate(first)]
    assert controller.ask(None, PLANE, running, 16, 0) == []
    told = [replace(running[0], state="complete", losses=(1.0,)), *running[1:]]
    assert len(controller.ask(None, PLANE, told, 16, 0)) == 1


def run_through(controller: Controller, space: HillSpace | None, dims: tuple[Dim, ...], n: int, most: int) -> list[Ask]:
    history: list[Trial] = []
    while len(history) < most and (asks := controller.ask(space, dims, history, n, 0)):
        history += [Trial(len(history) + i, ask.values, ask.spec, "complete", (0.0,)) for i, ask in enumerate(asks)]
    return [Ask(trial.values, trial.spec) for trial in history]


@pytest.mark.parametrize("tuner", ["GridSearch", "Batch"])
@pytest.mark.parametrize("n", [1, 7])
def test_a_finite_grid_is_covered_once_and_then_nothing_more_is_asked(tuner: str, n: int) -> None:
    dims = (
        Dim("kind", Range(choices=("a", "b", None))),
        Dim("extra", Range(low=2, high=5, integer=True), when=(("kind", ("b",)),)),
        Dim("width", Range(choices=(16, 4, 8))),
        Dim("steps", Range(low=1, high=6, integer=True, log=True)),
    )
    expected = [
        {"kind": kind, "width": width, "steps": steps, **({"extra": extra} if kind == "b" else {})}
        for kind, width, steps in product(("a", "b", None), (16, 4, 8), range(1, 7))
        for extra in (range(2, 6) if kind == "b" else [0])
    ]
    found = run_through(made(tuner), None, dims, n, most=1000)
    keys = [json.dumps(dict(ask.values), sort_keys=True) for ask in found]
    assert len(keys) == len(set(keys)) == 108
    assert set(keys) == {json.dumps(values, sort_keys=True) for values in expected}


def test_a_grid_goes_through_a_space_s_networks() -> None:
    space = HillSpace()
    found = run_through(made("GridSearch"), space, (), 16, most=2000)
    assert len(found) == 512
    assert {space.key(space.parse(dict(ask.spec or {}))) for ask in found} == {space.key(s) for s in space.every()}


def test_a_grid_of_numbers_is_halved_again_and_again() -> None:
    dims = (Dim("kind", Range(choices=("a", "b"))), Dim("x", Range(low=0.0, high=8.0)))
    found = run_through(made("GridSearch"), None, dims, 1, most=14)
    assert [(ask.values["kind"], ask.values["x"]) for ask in found] == [
        *(("a", 4.0), ("b", 4.0), ("a", 2.0), ("a", 6.0), ("b", 2.0), ("b", 6.0)),
        *(("a", 1.0), ("a", 3.0), ("a", 5.0), ("a", 7.0), ("b", 1.0), ("b", 3.0), ("b", 5.0), ("b", 7.0)),
    ]


def test_a_grid_ends_where_only_a_number_that_never_counts_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nni_controller, "STALE", 200)
    dims = (
        Dim("a", Range(choices=("p", "q"))),
        Dim("b", Range(choices=(0, 1))),
        Dim("x", Range(low=0.0, high=1.0), when=(("a", ("q",)), ("b", (2,)))),
    )
    assert len(run_through(made("GridSearch"), None, dims, 3, most=100)) == 4


def test_a_batch_is_tried_in_its_order_crossed_with_what_it_leaves_out() -> None:
    dims = (*PLANE, Dim("kind", Range(choices=("a", ("b", 2)))))
    sets = ({"x": 0.9, "y": 0.1}, {"y": 0.2, "x": 0.3, "kind": ["b", 2]})
    controller = made("Batch", sets=sets)
    assert [dict(ask.values) for ask in run_through(controller, None, dims, 2, most=10)] == [
        {"x": 0.9, "y": 0.1, "kind": "a"},
        {"x": 0.9, "y": 0.1, "kind": ("b", 2)},
        {"x": 0.3, "y": 0.2, "kind": ("b", 2)},
    ]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (({"x": 0.5},), "'y' is left out, and its range is not finite"),
        (({"x": 0.5, "y": 0.5}, {"x": 0.5, "z": 1}), "'z' is not searched"),
        (({"x": 0.5, "y": 1.5},), "'y' is 1.5. Expected 0 to 1"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_by_its_number(sets: tuple, words: str) -> None:
    with pytest.raises(StudyError, match=words) as caught:
        made("Batch", sets=sets).ask(None, PLANE, [], 1, 0)
    assert caught.value.path == f"sets[{len(sets) - 1}]"


def test_a_batch_of_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nni_controller, "MOST", 500)
    with pytest.raises(StudyError, match="more than 500 candidates"):
        made("Batch").ask(HillSpace(), (), [], 1, 0)


@pytest.mark.parametrize("tuner", ["TPE", "Evolution", "Random", "GridSearch"])
def test_deep_conditions_hold(tuner: str) -> None:
    """A condition on a dimension that has one itself, and two conditions at once."""
    dims = (
        Dim("a", Range(choices=(0, 1))),
        Dim("b", Range(choices=("p", "q")), when=(("a", (1,)),)),
        Dim("c", Range(low=0.0, high=1.0), when=(("b", ("q",)),)),
        Dim("d", Range(choices=(7, 8)), when=(("a", (1,)), ("e", (True,)))),
        Dim("e", Range(choices=(False, True))),
    )
    history: list[Trial] = []
    while len(history) < 40:
        asks = made(tuner, n_startup=5, population=8).ask(None, dims, history, 4, 2)
        assert asks
        for ask in asks:
            v = ask.values
            assert ("b" in v) == (v["a"] == 1)
            assert ("c" in v) == (v.get("b") == "q")
            assert ("d" in v) == (v["a"] == 1 and v["e"] is True)
            history.append(Trial(len(history), v, None, "complete", (v.get("c", 1.0),)))
    assert len({json.dumps(dict(trial.values), sort_keys=True) for trial in history}) == len(history)


def test_several_objectives_need_weights_where_a_tuner_learns() -> None:
    for tuner in ("TPE", "Evolution"):
        with pytest.raises(StudyError, match="minimises one number; there are 2 objectives, and 0 weights"):
            made(tuner).preflight(2)
        made(tuner, weights=(1.0, 2.0)).preflight(2)
        made(tuner).preflight(1)
    for tuner in ("Random", "GridSearch", "Batch"):
        made(tuner).preflight(3)


def test_a_space_without_dimensions_names_other_strategies() -> None:
    class Blocks(HillSpace):
        @property
        def dims(self) -> tuple[Dim, ...]:
            return ()

    with pytest.raises(StudyError, match="evolution or random"):
        made("TPE").ask(Blocks(), (), [], 4, 0)


def test_global_generators_are_left_alone() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    for tuner in ("TPE", "Evolution", "Random"):
        made(tuner, population=8).ask(HillSpace(), DIMS, ControllerContract.history(TestRandom()), 4, 0)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert nni("algorithms.hpo.evolution_tuner").random is random
