"""The contract for each controller, and whether it finds what random search does not."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest

from kdsearch.builtin.controllers import optuna as optuna_controller
from kdsearch.builtin.controllers.evolution import Evolution, EvolutionOptions
from kdsearch.builtin.controllers.exhaustive import Exhaustive
from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.controllers.random import Random
from kdsearch.builtin.controllers.surrogate import Surrogate, SurrogateOptions
from kdsearch.errors import StudyError
from kdsearch.kinds import Ask, Controller, Dim, NoOptions, Range, Trial
from kdsearch.search.axis import Axis
from kdsearch.testing.controller import DIMS, ControllerContract, HillSpace, hill_loss


class TestRandom(ControllerContract):
    def controller(self) -> Controller:
        return Random(NoOptions())


class TestExhaustive(ControllerContract):
    wants_finite = True

    def controller(self) -> Controller:
        return Exhaustive(NoOptions())

    def test_goes_through_a_space_in_order(self) -> None:
        space = HillSpace()
        every = {space.key(spec) for spec in space.every()}
        asks = self.ask([], n=10_000, dims=())
        assert {space.key(space.parse(ask.spec)) for ask in asks} == every
        assert len(asks) == 512
        history = [Trial(i, {}, ask.spec, "complete", (0.0,)) for i, ask in enumerate(asks[:500])]
        assert self.ask(history, n=100, dims=()) == asks[500:]

    def test_a_continuous_dimension_is_refused_by_name(self) -> None:
        with pytest.raises(StudyError, match="rate is not finite"):
            self.ask([], dims=DIMS)


class TestEvolution(ControllerContract):
    def controller(self) -> Controller:
        return Evolution(EvolutionOptions(population=6, sample=3))

    def test_children_differ_from_the_best_in_one_dimension(self) -> None:
        space = HillSpace()
        specs = [{"x": x, "y": 6, "wet": True, "twin": 0} for x in (3, 9, 1)]
        history = [Trial(i, {}, spec, "complete", (hill_loss(Ask({}, spec)),)) for i, spec in enumerate(specs)]
        greedy = Evolution(EvolutionOptions(population=3, sample=200, crossover=0.0))
        for ask in greedy.ask(space, (), history, 5, 0):
            assert sum(ask.spec[name] != specs[1][name] for name in ask.spec) == 1

    def test_the_oldest_leaves_however_good(self) -> None:
        specs = [
            {"x": 11, "y": 6, "wet": True, "twin": 0},
            *({"x": 0, "y": y, "wet": False, "twin": 0} for y in (20, 22)),
        ]
        history = [Trial(i, {}, spec, "complete", (hill_loss(Ask({}, spec)),)) for i, spec in enumerate(specs)]
        young = Evolution(EvolutionOptions(population=2, sample=200, crossover=0.0)).ask(HillSpace(), (), history, 6, 0)
        assert all(sum(ask.spec[name] != specs[0][name] for name in ask.spec) > 1 for ask in young)

    def test_feasible_parents_before_better_ones(self) -> None:
        fair, foul = {"x": 0, "y": 30, "wet": False, "twin": 0}, {"x": 11, "y": 6, "wet": True, "twin": 0}
        history = [Trial(0, {}, fair, "complete", (5.0,), (-1.0,)), Trial(1, {}, foul, "complete", (0.0,), (0.1,))]
        greedy = Evolution(EvolutionOptions(population=2, n_start=1, sample=200, crossover=0.0))
        for ask in greedy.ask(HillSpace(), (), history, 5, 0):
            assert sum(ask.spec[name] != fair[name] for name in fair) == 1


class TestTpe(ControllerContract):
    def controller(self) -> Controller:
        return Optuna(OptunaOptions(sampler="tpe", n_startup=4))


class TestNsga2(ControllerContract):
    def controller(self) -> Controller:
        return Optuna(OptunaOptions(sampler="nsga2", population=8))


class TestOptunaRandom(ControllerContract):
    def controller(self) -> Controller:
        return Optuna(OptunaOptions(sampler="random"))


@pytest.mark.slow
class TestGp(ControllerContract):
    def controller(self) -> Controller:
        return Optuna(OptunaOptions(sampler="gp", n_startup=4))


class TestSurrogate(ControllerContract):
    def controller(self) -> Controller:
        return Surrogate(SurrogateOptions(first=4, pool=64))


def best_after(controller: Controller, n: int, seed: int, loss: Callable[[Ask], float], generation: int = 8) -> float:
    """The least loss among n candidates, asked in generations."""
    history: list[Trial] = []
    while len(history) < n:
        for ask in controller.ask(HillSpace(), DIMS, history, generation, seed):
            history.append(Trial(len(history), ask.values, ask.spec, "complete", (loss(ask),)))
    return min(trial.losses[0] for trial in history)


@pytest.mark.parametrize(
    ("controller", "n"),
    [
        (Evolution(EvolutionOptions(population=24, sample=8)), 96),
        (Optuna(OptunaOptions(sampler="tpe", n_startup=10)), 64),
        (Optuna(OptunaOptions(sampler="nsga2", population=8)), 160),
    ],
    ids=["evolution", "tpe", "nsga2"],
)
def test_beats_random_on_a_smooth_hill_over_seeds(controller: Controller, n: int) -> None:
    seeds = range(8)
    found = [best_after(controller, n, seed, hill_loss) for seed in seeds]
    by_chance = [best_after(Random(NoOptions()), n, seed, hill_loss) for seed in seeds]
    assert statistics.mean(found) < 0.75 * statistics.mean(by_chance)


@pytest.mark.parametrize(
    "controller",
    [
        Evolution(EvolutionOptions(population=24, sample=8)),
        Optuna(OptunaOptions(sampler="tpe", n_startup=8)),
        Optuna(OptunaOptions(sampler="nsga2", population=16)),
    ],
    ids=["evolution", "tpe", "nsga2"],
)
def test_learns_what_is_feasible_from_candidates_that_were_never_measured(controller: Controller) -> None:
    """Two objectives that pull out of the feasible seventh of the space (x up to 8, rate up to 0.001)."""
    history: list[Trial] = []
    while len(history) < 96:
        for ask in controller.ask(HillSpace(), DIMS, history, 8, 1):
            broken = (max(ask.spec["x"] - 8, 0) / 8, max(math.log10(ask.values["rate"]) + 3, 0.0))
            number, losses = len(history), (-float(ask.spec["x"]), -ask.values["rate"] - ask.spec["y"])
            if max(broken) > 0:
                history.append(Trial(number, ask.values, ask.spec, "pruned", (), broken))
            else:
                history.append(Trial(number, ask.values, ask.spec, "complete", losses, broken))
    early, late = history[:16], history[-32:]
    share = [statistics.mean(trial.state == "complete" for trial in part) for part in (early, late)]
    assert share[1] > 0.4 > share[0]


def test_nsga2_goes_on_from_its_history_and_does_not_start_over() -> None:
    """A fresh study forgets generations: if they were not put back, children would be uniform draws."""
    spec = {"x": 11, "y": 6, "wet": True, "twin": 0}
    history = [
        Trial(i, {"rate": 0.01}, {**spec, "x": 10 + i % 3, "y": 4 + 2 * (i // 3)}, "complete", (float(i),))
        for i in range(9)
    ]
    dims = (DIMS[0],)
    asks = Optuna(OptunaOptions(sampler="nsga2", population=3)).ask(HillSpace(), dims, history, 12, 0)
    near = [ask for ask in asks if 9 <= ask.spec["x"] <= 13 and ask.spec["wet"]]
    assert len(near) >= 6  # of uniform draws, 2


def test_optuna_is_quiet_and_its_log_level_stays(capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    Optuna(OptunaOptions()).ask(HillSpace(), DIMS, [], 4, 0)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_study_that_is_kept_answers_as_a_fresh_one(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is looked at, too, with trials that failed, were stopped or break a limit, and where histories change."""
    most, renewed = (12, 5) if sampler == "tpe" else (7, 3)
    monkeypatch.setattr(optuna_controller, "SEEN", most)
    monkeypatch.setattr(optuna_controller, "RENEWED", renewed)
    options = OptunaOptions(sampler=sampler, n_startup=4)
    kept, dims = Optuna(options), (DIMS[0], Dim("z", Range(low=0.0, high=1.0)))
    history: list[Trial] = []
    sizes = []
    for number in range(31 if sampler == "tpe" else 13):
        running = [replace(each, state="running", losses=(), curve=()) for each in history[-1:]]
        told = [*history[:-1], *running] if number % 3 == 2 else history
        asks = kept.ask(None, dims, told, 2, 7)
        assert asks == Optuna(options).ask(None, dims, told, 2, 7), number
        assert kept._filled._study is not None
        states = [each.state.name for each in kept._filled._study.trials]
        sizes.append(sum(state in ("COMPLETE", "PRUNED") for state in states))
        assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
        loss = (asks[0].values["z"] - 0.3) ** 2
        trial = Trial(number, asks[0].values, None, "complete", (loss,), violations=(0.5 if number % 7 == 3 else -0.5,))
        if number % 5 == 4:
            trial = replace(trial, state="failed", losses=())
        if number % 4 == 1:
            trial = replace(trial, state="pruned", losses=(), violations=(), curve=((0.5, (loss,)),))
        history.append(trial)
    assert max(sizes) <= most + renewed
    assert max(sizes) > most - 4
    assert sum(each.state in ("complete", "pruned") for each in history) > most, "more than is looked at"
    shorter = history[:6]
    assert kept.ask(None, dims, shorter, 2, 7) == Optuna(options).ask(None, dims, shorter, 2, 7)
    assert kept.ask(HillSpace(), dims, [], 2, 7) == Optuna(options).ask(HillSpace(), dims, [], 2, 7)


@pytest.mark.parametrize(
    "controller",
    [
        Random(NoOptions()),
        Evolution(EvolutionOptions(population=8)),
        Optuna(OptunaOptions()),
        Optuna(OptunaOptions(sampler="nsga2")),
        Surrogate(SurrogateOptions()),
        Exhaustive(NoOptions()),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_small_finite_space_is_used_up_before_it_ends(controller: Controller) -> None:
    """Draws alone miss the last of 9 (1 + 3) candidates, and a history that does not grow gives the same draws again."""
    dims = [
        Dim("a", Range(choices=tuple(range(9)))),
        Dim("used", Range(choices=(True, False))),
        Dim("b", Range(choices=("x", "y", "z")), (("used", (True,)),)),
    ]
    history: list[Trial] = []
    while asks := controller.ask(None, dims, history, 1, 3):
        history.append(Trial(len(history), asks[0].values, losses=(float(len(history) * 5 % 7),)))
    assert len(history) == len({str(sorted(trial.values.items())) for trial in history}) == 36


def test_trials_outside_the_present_ranges_are_passed_over() -> None:
    history = [Trial(0, {"rate": 50.0, "kind": "gone"}, None, "complete", (0.0,))]
    assert len(Optuna(OptunaOptions()).ask(None, DIMS, history, 4, 0)) == 4


def test_a_space_without_dimensions_names_other_strategies() -> None:
    class Blocks(HillSpace):
        @property
        def dims(self) -> tuple[Dim, ...]:
            return ()

    with pytest.raises(StudyError, match="evolution or random"):
        Optuna(OptunaOptions()).ask(Blocks(), (), [], 4, 0)


@pytest.mark.parametrize(
    ("ranged", "values"),
    [
        (Range(choices=(16, 4, 64)), [4, 16, 64]),
        (Range(choices=(0.5, 1, 2.5)), [0.5, 1, 2.5]),
        (Range(choices=(True, 1, "1", None, (1, 2))), [True, 1, "1", None, [1, 2]]),
        (Range(low=1, high=9, integer=True), [1, 9]),
        (Range(low=0.1, high=1.0, log=True), [0.1, 0.7]),
    ],
)
def test_an_axis_leads_there_and_back(ranged: Range, values: list) -> None:
    axis = Axis(Dim("a", ranged))
    inner = [axis.inner(value) for value in values]
    assert None not in inner
    assert len({repr(each) for each in inner}) == len(values)
    study = optuna.create_study()
    for each, value in zip(inner, values, strict=True):
        study.enqueue_trial({"a": each})
        back = axis.suggest(study.ask())
        assert (list(back) if isinstance(back, tuple) else back) == value
        assert type(back) is type(value) or isinstance(back, tuple)
    assert axis.inner("elsewhere") is None
    assert axis.inner(-math.inf) is None
