"""Searches in which the true accuracy of a benchmark's cells is the score: what a strategy can do at best."""

import csv
import gzip
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from torch import nn

from kdsearch.builtin.controllers.evolution import Evolution, EvolutionOptions
from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.controllers.random import Random
from kdsearch.kinds import IO, Ask, Controller, Cost, Model, NoOptions, Options, SearchSpace, searched
from kdsearch.search.candidates import Explored, Region, explore
from kdsearch.search.scoring import Scored

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
Op = Literal["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
BUDGET = 100_000_000  # MACs

# the settings of DisWOT's search on this space; children one by one, as there
REGULARISED = {"population": 36, "sample": 8, "top": 5, "crossover": 0.0, "generation": 1}


class EdgeSpec(Options):
    edges: Annotated[tuple[Op, Op, Op, Op, Op, Op], searched(*OPS, each=6)] = ("nor_conv_3x3",) * 6


class EdgeSpace(SearchSpace[EdgeSpec]):
    """Every cell is itself: a child of one mutation can be told by its edges."""

    def build(self, spec: EdgeSpec, io: IO) -> Model:
        return Model(nn.Identity(), ("image",))

    def cost(self, spec: EdgeSpec, io: IO) -> Cost:
        n3, n1 = spec.edges.count("nor_conv_3x3"), spec.edges.count("nor_conv_1x1")
        params = 73_306 + 5 * (n3 * (9 * 5_376 + 224) + n1 * (5_376 + 224))
        return Cost(params, 7_783_050 + 15 * (2_359_296 * n3 + 262_144 * n1))


@pytest.fixture
def accuracy(ground_truth: Callable[[str], Path]) -> dict[tuple[str, ...], float]:
    """Operations of the edges -> CIFAR-10 accuracy, in per cent."""
    return read_table(ground_truth("nb201_cifar10.csv.gz"))


@cache
def read_table(path: Path) -> dict[tuple[str, ...], float]:
    with gzip.open(path, "rt") as file:
        rows = [(row["arch"], float(row["cifar10"])) for row in csv.DictReader(file)]
    return {tuple(part.split("~")[0] for part in text.split("|") if "~" in part): value for text, value in rows}


Search = Callable[..., Explored]


@pytest.fixture
def search(accuracy: Mapping[tuple[str, ...], float], tmp_path: Path) -> Search:
    """(strategy, n, seed, limits, costs) -> what was found, each candidate's accuracy being its score."""
    n_searches = 0

    def run(strategy: Controller, n: int, seed: int = 0, limits: Any = None, costs: Sequence[str] = ()) -> Explored:
        nonlocal n_searches
        n_searches += 1
        space = EdgeSpace()
        region = Region(space, IO((), ()), None, limits or {})

        def looked_up(specs: Sequence[Mapping[str, Any]], costs: Sequence[Cost] = ()) -> Iterator[list[Scored]]:
            for shown in specs:
                spec = space.parse(dict(shown))
                cost, value = space.cost(spec, region.io), accuracy[spec.edges]
                assert all(each <= 0 for each in region.violations(cost))
                yield [Scored(space.key(spec), shown, cost.params, cost.macs, {"true": value}, {"true": 0.0})]

        def combine(scores: Mapping[str, float | None]) -> float | None:
            return scores["true"]

        path = tmp_path / f"{n_searches}.jsonl"
        return explore(region, strategy, looked_up, combine, path, "k", n, seed, costs=costs)

    return run


def best(found: Explored) -> float:
    return max(each.score for each in found.candidates)


class Watched(Evolution):
    """Aging evolution beside its definition, worked out from the history at every step."""

    def ask(self, space: Any, dims: Any, history: Any, n: int, seed: int) -> list[Ask]:
        asks = super().ask(space, dims, history, n, seed)
        scored = [trial for trial in history if trial.state == "complete"]
        assert all(trial.violations[0] <= 0 for trial in scored)
        if len(scored) < 36:
            return asks
        young = deque(scored, maxlen=36)
        members = self._survival.of(history).members
        assert len(members) == 36
        assert {trial.number for trial in members} == {trial.number for trial in young}
        assert [trial.losses for trial in members] == sorted(trial.losses for trial in young)
        (child,) = asks
        changes = [differences(child.spec, trial.spec) for trial in young]
        assert min(changes) == 1
        return asks


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    return sum(x != y for x, y in zip(a["edges"], b["edges"], strict=True))


def test_aging_evolution_step_by_step_within_a_budget(search: Search) -> None:
    found = search(Watched(EvolutionOptions(**REGULARISED)), 150, limits={"macs": BUDGET})
    assert len(found.candidates) == len({each.scored.key for each in found.candidates}) == 150
    assert all(each.scored.macs <= BUDGET for each in found.candidates)
    assert found.n_infeasible > 0


@pytest.mark.parametrize(
    "options",
    [
        {**REGULARISED, "generation": 16},
        {},
        {
            "population": 512,
            "survivors": "best",
            "n_start": 11,
            "start": "default",
            "sample": 1,
            "mutations": 2,
            "crossover": 0.0,
        },
    ],
    ids=["regularised", "default", "elitist"],
)
def test_evolution_finds_the_top_of_the_table(search: Search, options: dict) -> None:
    assert best(search(Evolution(EvolutionOptions(**options)), 1_000)) >= 94.0


def test_evolution_beats_random_search_of_equal_size(search: Search) -> None:
    seeds = range(4)
    evolved = [best(search(Evolution(EvolutionOptions(**REGULARISED)), 200, seed)) for seed in seeds]
    drawn = [best(search(Random(NoOptions()), 200, seed)) for seed in seeds]
    assert statistics.mean(evolved) > statistics.mean(drawn)


def test_the_ascending_order_of_the_released_code_is_worse_than_random_search(search: Search) -> None:
    ascending = Evolution(EvolutionOptions(**{**REGULARISED, "generation": 16}, order="ascending"))
    assert best(search(ascending, 300)) < best(search(Random(NoOptions()), 300))


@pytest.mark.slow
def test_evolution_beats_random_search_over_twenty_seeds(search: Search) -> None:
    seeds = range(20)
    evolved = [best(search(Evolution(EvolutionOptions(**REGULARISED)), 1_000, seed)) for seed in seeds]
    drawn = [best(search(Random(NoOptions()), 1_000, seed)) for seed in seeds]
    assert min(evolved) >= 94.0
    assert statistics.mean(evolved) > statistics.mean(drawn) + 0.05


@pytest.mark.parametrize(
    "strategy",
    [
        Optuna(OptunaOptions(sampler="nsga2", population=16)),
        Evolution(EvolutionOptions(population=16, survivors="best", sample=2)),
    ],
    ids=["nsga2", "evolution"],
)
def test_several_objectives_lead_to_the_front_of_the_table(
    search: Search, strategy: Controller, accuracy: Mapping[tuple[str, ...], float]
) -> None:
    """Accuracy up, parameters and MACs down, at most 60 million MACs; what 200 candidates miss of the table's front."""
    most_macs, space = 60e6, EdgeSpace()
    every = [(space.cost(EdgeSpec(edges=ops), IO((), ())).macs, value) for ops, value in accuracy.items()]
    whole = area([each for each in every if each[0] <= most_macs], most_macs)

    def missed(strategy: Controller, seed: int) -> float:
        found = search(strategy, 200, seed, {"macs": most_macs}, ("params", "macs"))
        assert all(each.scored.macs <= most_macs for each in found.candidates)
        return 1 - area([(each.scored.macs, each.score) for each in found.candidates], most_macs) / whole

    seeds = range(3)
    by_chance = statistics.mean(missed(Random(NoOptions()), seed) for seed in seeds)
    assert 0 <= statistics.mean(missed(strategy, seed) for seed in seeds) < 0.75 * by_chance


def area(points: Sequence[tuple[float, float]], macs: float) -> float:
    """Under the steps of the best accuracy at each number of MACs, above 80 %."""
    total, reached, since = 0.0, 80.0, 0.0
    for at, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if value > reached:
            total, reached, since = total + (reached - 80.0) * (at - since), value, at
    return total + (reached - 80.0) * (macs - since)
