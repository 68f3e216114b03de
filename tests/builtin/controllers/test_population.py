"""Who survives, against the definitions; and what an ask costs when a search is long."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsearch.builtin.controllers.evolution import Evolution, EvolutionOptions
from kdsearch.builtin.controllers.exhaustive import Exhaustive
from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.controllers.population import Survival, best_first
from kdsearch.builtin.controllers.random import Random
from kdsearch.errors import StudyError
from kdsearch.kinds import Controller, NoOptions, Options, SearchSpace, Trial, searched
from kdsearch.kit.histories import Folded
from kdsearch.testing.controller import HillSpace, HillSpec

LOSS = st.integers(0, 9).map(float)
TRIALS = st.lists(
    st.tuples(LOSS, LOSS, st.sampled_from([-1.0, -1.0, 0.5, 2.0]), st.booleans()), min_size=1, max_size=60
)


def trial(number: int, *losses: float, broken: float = -1.0, state: Any = None, spec: Any = None) -> Trial:
    state = state or ("complete" if losses else "pruned")
    return Trial(number, {}, spec, state, losses if state == "complete" else (), (broken,))


def trials(drawn: Sequence[tuple], n_losses: int) -> list[Trial]:
    """Scored ones, ones that break the constraint and were never measured, and failed ones."""
    found = []
    for i, (a, b, broken, fails) in enumerate(drawn):
        losses = (a, b)[:n_losses] if broken <= 0 else ()
        found.append(trial(i, *losses, broken=broken, state="failed" if fails and broken <= 0 and i % 3 == 0 else None))
    return found


@given(TRIALS, st.integers(2, 12))
def test_the_youngest_scored_ones_survive(drawn: list, size: int) -> None:
    told = trials(drawn, 1)
    scored = [each for each in told if each.violations[0] <= 0]
    found = Survival(size).of(told)
    assert {each.number for each in found.members} == {each.number for each in scored[-size:]}
    assert found.n_scored == len(scored)


@given(TRIALS, st.integers(2, 12))
def test_of_one_objective_the_best_of_all_survive(drawn: list, size: int) -> None:
    told = trials(drawn, 1)
    losses = sorted(each.losses[0] if each.losses else math.inf for each in told if each.violations[0] <= 0)
    found = Survival(size, "best").of(told)
    assert [each.losses[0] if each.losses else math.inf for each in found.members] == losses[:size]


@given(TRIALS, st.integers(5, 12))
def test_of_several_objectives_the_ends_of_the_front_survive(drawn: list, size: int) -> None:
    told = trials(drawn, 2)
    found = [each.losses for each in Survival(size, "best").of(told).members if each.losses]
    every = [each.losses for each in told if each.losses]
    if every:
        assert min(found) == min(every)
        assert min(loss[::-1] for loss in found) == min(loss[::-1] for loss in every)
    assert len(found) <= size


@settings(max_examples=30)
@given(TRIALS, st.integers(2, 8), st.sampled_from(["youngest", "best"]), st.integers(0, 8))
def test_a_population_grown_trial_by_trial_is_the_one_of_the_whole_history(
    drawn: list, size: int, survivors: Any, least: int
) -> None:
    told, grown = trials(drawn, 2), Survival(size, survivors, least)
    for n in range(len(told) + 1):
        assert grown.of(told[:n]) == Survival(size, survivors, least).of(told[:n])


def test_the_least_broken_stand_in_while_few_are_scored() -> None:
    told = [trial(0, broken=3.0), trial(1, broken=0.1), trial(2, 5.0), trial(3, broken=0.2), trial(4, broken=9.0)]
    assert [each.number for each in Survival(4, least=3).of(told).members] == [2, 1, 3]
    assert [each.number for each in Survival(4, least=3).of([*told, trial(5, 1.0), trial(6, 2.0)]).members] == [5, 6, 2]
    assert [each.number for each in Survival(4).of(told).members] == [2]


def test_the_worst_come_last() -> None:
    told = [
        trial(0, state="failed"),
        trial(1, broken=2.0),
        trial(2, 7.0),
        trial(3),  # stopped early, not measured
        trial(4, 3.0),
        trial(5, broken=1.0),
    ]
    assert [each.number for each in best_first(told)] == [4, 2, 3, 5, 1, 0]


def spec(x: int) -> dict[str, Any]:
    return {"x": x, "y": 6, "wet": True, "twin": 0}


@pytest.mark.parametrize(("order", "x"), [("descending", 2), ("ascending", 12)])
def test_parents_from_either_end_of_the_sample(order: Any, x: int) -> None:
    history = [trial(i, float(loss), spec=spec(at)) for i, (at, loss) in enumerate([(7, 5), (2, 1), (12, 9)])]
    controller = Evolution(EvolutionOptions(population=3, sample=200, order=order, crossover=0.0))
    for ask in controller.ask(HillSpace(), (), history, 5, 0):
        assert sum(ask.spec[name] != spec(x)[name] for name in ask.spec) == 1


@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_a_parent_is_one_of_the_top_of_the_sample_at_random(order: Any) -> None:
    """Against all 125 samples of 3 out of 5, of which 2 may be the parent."""
    expected = [0.0] * 5
    for sample in product(range(5), repeat=3):
        for place in sorted(sample, reverse=order == "ascending")[:2]:
            expected[place] += 1 / 250
    members = [trial(i, float(i)) for i in range(5)]
    controller, rng = Evolution(EvolutionOptions(sample=3, top=2, order=order)), torch.Generator().manual_seed(1)
    drawn = Counter(controller._parent(members, rng).number for _ in range(4_000))
    for place, share in enumerate(expected):
        assert drawn[place] / 4_000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4_000))


def test_a_search_starts_from_the_default_and_its_mutations_by_one_change() -> None:
    options = EvolutionOptions(population=20, n_start=4, start="default", mutations=3, crossover=0.0, generation=1)
    default = HillSpec().model_dump(mode="json")
    first, *others = Evolution(options).ask(HillSpace(), (), [], 64, 0)
    assert first.spec == default
    assert [sum(ask.spec[name] != default[name] for name in default) for ask in others] == [1, 1, 1]


def test_a_space_without_defaults_cannot_start_from_them() -> None:
    class Bare(Options):
        x: Annotated[int, searched(0, 1)]

    class BareSpace(SearchSpace[Bare]):
        def build(self, spec: Any, io: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(StudyError, match=r"no default architecture .*'x' is missing"):
        Evolution(EvolutionOptions(start="default")).ask(BareSpace(), (), [], 4, 0)


def test_breeding_begins_when_enough_are_scored_or_twice_as_many_were_drawn() -> None:
    options = EvolutionOptions(population=8, sample=200, generation=1, crossover=0.0)
    good, foul = trial(0, 1.0, spec=spec(11)), [trial(i, broken=1.0, spec=spec(0)) for i in range(1, 16)]
    random = [Evolution(options).ask(HillSpace(), (), [good, *foul[:6]], 1, seed)[0] for seed in range(20)]
    bred = [Evolution(options).ask(HillSpace(), (), [good, *foul], 1, seed)[0] for seed in range(20)]
    near = [sum(ask.spec[name] != spec(11)[name] for name in ask.spec) == 1 for ask in (*random, *bred)]
    assert sum(near[:20]) < 10
    assert all(near[20:])


def test_a_fold_goes_over_a_history_once() -> None:
    seen: list[int] = []
    folded: Folded[list[int]] = Folded()

    def step(state: list[int], trial: Trial) -> None:
        seen.append(trial.number)
        state.append(trial.number)

    told = [trial(i, 0.0) for i in range(6)]
    assert folded.of("a", told[:3], list, step) == ([0, 1, 2], [])
    assert folded.of("a", told, list, step) == ([0, 1, 2, 3, 4, 5], [])
    assert seen == [0, 1, 2, 3, 4, 5]
    assert folded.of("b", told[:2], list, step) == ([0, 1], [])
    assert folded.of("b", [told[0], trial(1, 5.0), told[2]], list, step) == ([0, 1, 2], [])
    assert seen[6:] == [0, 1, 0, 1, 2]


def test_a_fold_ends_before_what_runs() -> None:
    """A trial that runs is another one when it has ended: the history before it is not gone over again."""
    seen: list[int] = []
    folded: Folded[list[int]] = Folded()
    ended = [trial(i, 0.0) for i in range(6)]
    running = [trial(i, state="running") for i in range(6)]
    for n in range(6):
        told = [*ended[:n], *running[n : n + 2], *ended[n + 2 : n + 3]]
        found = folded.of("a", told, list, lambda _, each: seen.append(each.number))
        assert found == ([], told[n:])
    assert seen == [0, 1, 2, 3, 4]


class CountedSpace(HillSpace):
    """Counts how often a candidate's identity is worked out and how many specs are enumerated."""

    work = 0

    def key(self, spec: HillSpec) -> str:
        self.work += 1
        return super().key(spec)

    def every(self) -> Any:
        for each in super().every():
            self.work += 1
            yield each


@pytest.mark.parametrize(
    "controller",
    [
        Random(NoOptions()),
        Exhaustive(NoOptions()),
        Evolution(EvolutionOptions(population=8, sample=4)),
        Evolution(EvolutionOptions(population=8, sample=4, survivors="best")),
        Optuna(OptunaOptions(sampler="nsga2", population=8)),
    ],
    ids=["random", "exhaustive", "aging", "elitist", "nsga2"],
)
def test_an_ask_does_not_go_over_the_history_again(controller: Controller) -> None:
    """Half of the space, 8 at a time: what an ask works out does not grow with what was told."""
    space, history, work = CountedSpace(), [], []
    while len(history) < 256:
        before = space.work
        for ask in controller.ask(space, (), history, 8, 0):
            history.append(trial(len(history), ask.spec["x"] / 16, spec=ask.spec))
        work.append(space.work - before)
    # 8 new identities, 8 of the last ask's, and draws that were tried before; over the whole history it were 256 more
    assert max(work) <= 160


@pytest.mark.parametrize(
    "made",
    [
        lambda: Random(NoOptions()),
        lambda: Exhaustive(NoOptions()),
        lambda: Evolution(EvolutionOptions(population=8, sample=4)),
        lambda: Optuna(OptunaOptions(sampler="nsga2", population=8)),
    ],
    ids=["random", "exhaustive", "aging", "nsga2"],
)
def test_an_ask_beside_trials_that_run_does_not_go_over_the_history_again(made: Callable[[], Controller]) -> None:
    """As `refine` asks: one at a time, the last three running; and as one that was not asked before. One that ran may be gone."""
    space, history, work, kept = CountedSpace(), [], [], made()

    def shown(told: Sequence[Trial]) -> list[Trial]:
        return [*told[:-3], *(Trial(each.number, each.values, each.spec, "running") for each in told[-3:])]

    while len(history) < 256:
        before = space.work
        ask = kept.ask(space, (), shown(history), 1, 0)[0]
        work.append(space.work - before)
        if len(history) % 32 == 0:
            assert [ask] == made().ask(space, (), shown(history), 1, 0)
            for told in (history[:-1], shown(history)[:-2]):
                assert kept.ask(space, (), told, 2, 0) == made().ask(space, (), told, 2, 0)
        history.append(trial(len(history), ask.spec["x"] / 16, spec=ask.spec))
    assert sorted(work)[-20] <= 100  # after the asks of shorter histories all is gone over
