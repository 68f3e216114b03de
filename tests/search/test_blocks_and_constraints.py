"""Searches of spaces that have no dimensions, and of candidates that fail or break a limit."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field as Describe
from torch import Generator, nn

from kdsearch.builtin.controllers.evolution import Evolution, EvolutionOptions
from kdsearch.builtin.controllers.exhaustive import Exhaustive
from kdsearch.builtin.controllers.optuna import Optuna, OptunaOptions
from kdsearch.builtin.controllers.random import Random
from kdsearch.errors import StudyError
from kdsearch.kinds import IO, Controller, Cost, Done, Executor, Job, Model, NoOptions, Options, SearchSpace, Trial
from kdsearch.search.backend import Remote
from kdsearch.search.candidates import Explored, Region, explore
from kdsearch.search.scoring import Scored

WIDTHS = (1, 2, 4, 8)


class StackSpec(Options):
    blocks: tuple[int, ...] = Describe((2, 2), description="widths of the blocks; any number of them")


class StackSpace(SearchSpace[StackSpec]):
    """Blocks are put in, taken out and changed: nothing here is a dimension. Order does not count."""

    def sample(self, rng: Generator) -> StackSpec:
        spec = StackSpec()
        for _ in range(4):
            spec = next(iter(self.neighbours(spec, rng, 1)))
        return spec

    def neighbours(self, spec: StackSpec, rng: Generator, n: int) -> list[StackSpec]:
        found = []
        for _ in range(n):
            kind, at, width = (int(torch.randint(k, (1,), generator=rng)) for k in (3, len(spec.blocks), len(WIDTHS)))
            head, tail = spec.blocks[:at], spec.blocks[at + 1 :]
            middle = ((WIDTHS[width],), (spec.blocks[at], WIDTHS[width]), ())[kind]
            found.append(StackSpec(blocks=(head + middle + tail) or (1,)))
        return found

    def canonical(self, spec: StackSpec) -> StackSpec:
        return StackSpec(blocks=tuple(sorted(spec.blocks)))

    def build(self, spec: StackSpec, io: IO) -> Model:
        return Model(nn.Identity(), ("image",))

    def cost(self, spec: StackSpec, io: IO) -> Cost:
        return Cost(sum(spec.blocks), len(spec.blocks))


class Looked:
    """Scores by a rule, counting each candidate; widths of 4 fail."""

    def __init__(self, space: SearchSpace[Any]) -> None:
        self.space, self.times = space, Counter[str]()

    def __call__(self, specs: Sequence[Mapping[str, Any]], costs: Sequence[Cost] = ()) -> Iterator[list[Scored]]:
        for shown in specs:
            spec = self.space.parse(dict(shown))
            cost, key = self.space.cost(spec, IO((), ())), self.space.key(spec)
            assert cost is not None
            self.times[key] += 1
            value = None if 4 in spec.blocks else float(cost.params - 3 * abs(cost.macs - 6))
            yield [Scored(key, shown, cost.params, cost.macs, {"rule": value}, {"rule": None})]


def search(path: Path, strategy: Controller, n: int, limits: Mapping[str, float]) -> tuple[Explored, Looked]:
    space = StackSpace()
    looked = Looked(space)
    region = Region(space, IO((), ()), None, limits)  # type: ignore[arg-type]
    return explore(region, strategy, looked, lambda scores: scores["rule"], path / "rows", "k", n, 3), looked


STRATEGIES = {
    "random": Random(NoOptions()),
    "aging": Evolution(EvolutionOptions(population=16, sample=8)),
    "elitist": Evolution(
        EvolutionOptions(population=16, survivors="best", n_start=11, start="default", sample=1, mutations=2)
    ),
    "crossed": Evolution(EvolutionOptions(population=16, crossover=1.0)),
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_space_of_blocks_is_searched(tmp_path: Path, strategy: Controller) -> None:
    found, looked = search(tmp_path, strategy, 120, {"params": 40})
    assert found.reason == "complete"
    assert set(looked.times.values()) == {1}
    assert len(looked.times) == len(found.candidates) == 120
    assert all(each.scored.params <= 40 for each in found.candidates)
    assert any(each.score is None for each in found.candidates)


@pytest.mark.parametrize("name", ["aging", "elitist"])
def test_evolution_leads_past_failures_and_limits_to_the_best(tmp_path: Path, name: str) -> None:
    counts = product(range(41), range(21), range(6))  # of widths 1, 2 and 8
    true = max(a + 2 * b + 8 * c - 3 * abs(a + b + c - 6) for a, b, c in counts if 0 < a + 2 * b + 8 * c <= 40)
    found, _ = search(tmp_path, STRATEGIES[name], 150, {"params": 40})
    assert true - 1 <= max(each.score for each in found.candidates if each.score is not None) <= true


def test_a_limit_that_almost_nothing_keeps_is_reached_by_breeding(tmp_path: Path) -> None:
    """A sum of at most 3 is far from the default's neighbourhood of wide stacks; the least broken ones lead there."""
    found, looked = search(tmp_path, Evolution(EvolutionOptions(population=8, sample=8)), 4, {"params": 3})
    assert found.reason == "complete"
    assert len(looked.times) == 4  # nothing else was scored
    assert found.n_infeasible > 0


def test_what_cannot_be_searched_is_said() -> None:
    space = StackSpace()
    assert space.size() is None
    with pytest.raises(StudyError, match="the space StackSpace is not finite"):
        Exhaustive(NoOptions()).ask(space, (), [], 4, 0)
    with pytest.raises(StudyError, match=r"'StackSpace': it declares no dimensions.*survivors: best"):
        Optuna(OptunaOptions(sampler="nsga2")).ask(space, (), [], 4, 0)


def test_without_a_crossover_of_its_own_a_child_of_two_is_its_first_parent() -> None:
    a, b = StackSpec(blocks=(8, 8)), StackSpec(blocks=(1,))
    assert StackSpace().crossover(a, b, torch.Generator()) == a


def test_failures_are_the_worst_parents() -> None:
    good, bad = {"blocks": [2, 2]}, {"blocks": [1, 1, 1, 1, 1, 1]}
    history = [Trial(0, {}, good, "complete", (1e9,)), *(Trial(i, {}, bad, "failed") for i in range(1, 8))]
    greedy = Evolution(EvolutionOptions(population=8, sample=200, crossover=0.0))
    for ask in greedy.ask(StackSpace(), (), history, 8, 0):
        assert 1 <= len(ask.spec["blocks"]) <= 3


class Dealt(Executor[NoOptions]):
    """Ends every job at once and keeps how many candidates each had."""

    slots = 2

    def __init__(self) -> None:
        super().__init__(NoOptions())
        self.sizes: list[int] = []
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.sizes.append(len(job.arguments["specs"]))
        self._jobs.append(job)

    def wait(self, timeout_s: float | None = None) -> list[Done]:
        jobs, self._jobs = self._jobs, []
        return [Done(job.id, [row(spec) for spec in job.arguments["specs"]]) for job in jobs]

    def stop(self, id: str) -> None:
        raise AssertionError("no job is stopped")

    def close(self) -> None:
        pass


def row(spec: Mapping[str, Any]) -> dict[str, Any]:
    return Scored(str(spec), spec, 1, 1, {}, {}).row()


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (3, [1] * 3), (16, [2] * 8), (20, [3] * 6 + [2]), (300, [16] * 18 + [12])]
)
def test_a_small_generation_is_dealt_out_to_all_processes(n: int, sizes: list[int]) -> None:
    executor = Dealt()
    specs = [{"i": i} for i in range(n)]
    remote = Remote(executor, "any:job", {}, lambda spec, error, over: Scored(**row(spec)))
    assert [each.spec for chunk in remote(specs) for each in chunk] == specs
    assert executor.sizes == sizes
